"""Logins at an identity provider, and who is linked to which subject there."""

from __future__ import annotations

from fastapi import APIRouter, Request
from sqlalchemy.orm import Session

from raymill.client import identity_types as types
from raymill.policies.errors import Conflict
from raymill.registry import identity, login_attempts, oidc, oidc_return, sessions
from raymill.registry.audit import Actor
from raymill.registry.login_attempts import Attempt
from raymill.registry.oidc import IdentityProvider
from raymill.serve.api.context import Parts, PartsDep, SessionDep, Who
from raymill.serve.api.routes.sessions import nobody, tokens
from raymill.serve.api.threads import ThreadRoute

router = APIRouter(tags=["sessions"], route_class=ThreadRoute)


@router.post("/oidc/start", status_code=201)
def start(body: types.OidcStart, request: Request, found: PartsDep, opened: SessionDep) -> types.OidcStarted:
    """Begin a login: where the browser has to go. Too many from an address have to wait (429)."""
    oidc_return.check_command(body.redirect_uri)
    started = begun(body, request, found, opened)
    return types.OidcStarted(url=started.url, state=started.state)


@router.post("/oidc/finish", status_code=201)
def finish(body: types.OidcFinish, request: Request, found: PartsDep, opened: SessionDep) -> types.Tokens:
    """Log in with the code that the browser brought back."""
    return tokens(logged_in(body, request, found, opened, oidc_return.COMMAND))


def begun(body: types.OidcStart, request: Request, found: Parts, opened: Session) -> oidc.Started:
    """A login whose `redirect_uri` was checked."""
    provider, actor = _provider(found), nobody(request)
    login_attempts.begin(found.database, Attempt(account=None, address=actor.address), actor)
    return oidc.start(opened, provider, body.redirect_uri)


def logged_in(
    body: types.OidcFinish, request: Request, found: Parts, opened: Session, path: str
) -> sessions.Tokens:
    """A new session for what the browser brought back to `path`. Raises as `registry/oidc.py` does."""
    provider, actor = _provider(found), nobody(request)
    with found.database.transaction() as first:  # a state is spent, whatever comes of it
        row = oidc.take(first, body.state, path)
    if body.iss is not None and body.iss != provider.config.issuer:
        raise sessions.NotLoggedIn("the answer is of another identity provider: begin again")
    claims = provider.claims_for(row, body.code)
    account = oidc.account_of(opened, provider.config, claims, actor)
    actor = Actor(name=account.name, request_id=actor.request_id, address=actor.address)
    box, lifetimes = found.settings.secret_box, found.settings.lifetimes
    made = sessions.open_session(opened, box, account, "oidc", actor, lifetimes)
    opened.flush()
    login_attempts.succeed(found.database, Attempt(account=None, address=actor.address))
    return made


@router.put("/accounts/{name}/identity")
def link(
    name: str, body: types.IdentityRequest, who: Who, found: PartsDep, opened: SessionDep
) -> types.Identity:
    """Let a subject of the identity provider log in as this account."""
    account = identity.find_account(opened, name, lock=True)
    row = oidc.link(opened, account, _provider(found).config.issuer, body.subject, who.actor)
    return types.Identity(account=account.name, issuer=row.issuer, subject=row.subject)


@router.delete("/accounts/{name}/identity")
def unlink(name: str, subject: str, who: Who, found: PartsDep, opened: SessionDep) -> types.Identity:
    """It logs in no more; its sessions end."""
    account = identity.find_account(opened, name, lock=True)
    issuer = _provider(found).config.issuer
    oidc.unlink(opened, account, issuer, subject, who.actor)
    sessions.revoke_all(opened, account, who.actor)
    return types.Identity(account=account.name, issuer=issuer, subject=subject)


def _provider(found: Parts) -> IdentityProvider:
    config = found.settings.oidc
    if config is None:
        raise Conflict(
            "no identity provider is configured: set RAYMILL_OIDC_ISSUER and RAYMILL_OIDC_CLIENT_ID"
        )
    return oidc.provider_of(config)
