"""A browser's login: a session in a cookie that no script can read, what its user may call, and a key for models.

The cookie is HttpOnly and SameSite=Strict, so that no other site's page sends it; what changes something also takes
a header that only a page of ours can send (`context.CONSOLE_HEADER`).
"""

from __future__ import annotations

import datetime as dt
import importlib.metadata

from fastapi import APIRouter, Request, Response
from sqlalchemy import select

from raymill.client import identity_types
from raymill.client.console_types import Access, GatewayKey
from raymill.policies.errors import Denied, Invalid
from raymill.registry import identity, passwords, sessions
from raymill.registry.audit import Actor
from raymill.registry.secrets import SecretBox
from raymill.registry.tables import ApiKey, LoginSession
from raymill.serve.api.access import allowed_to
from raymill.serve.api.context import CONSOLE_HEADER, COOKIE, PartsDep, SessionDep, Who
from raymill.serve.api.routes.sessions import check_password, nobody
from raymill.serve.api.threads import ThreadRoute

router = APIRouter(tags=["sessions"], route_class=ThreadRoute)

KEY_LASTS = dt.timedelta(hours=1)


@router.post("/browser/session", status_code=201)
def sign_in(
    body: identity_types.LoginRequest,
    request: Request,
    response: Response,
    found: PartsDep,
    opened: SessionDep,
) -> identity_types.Me:
    """Log in with a password; the session is in the answer's cookie. Too many attempts have to wait (429)."""
    check_own_page(request)
    actor = nobody(request)
    check_password(found, body.account, body.password, actor)
    account = identity.find_account(opened, body.account)
    passwords.renew(opened, account, body.password)
    actor = Actor(name=account.name, request_id=actor.request_id, address=actor.address)
    box, lifetimes = found.settings.secret_box, found.settings.lifetimes
    made = sessions.open_session(opened, box, account, "password", actor, lifetimes).session
    return signed_in(request, response, box, made)


@router.delete("/browser/session")
def sign_out(who: Who, response: Response, opened: SessionDep) -> identity_types.Me:
    """End the session that asks, and take its cookie back."""
    if who.session_id is None:
        raise Invalid("the caller has an API key, no session: revoke the key instead")
    row = sessions.find_session(opened, who.session_id)
    sessions.revoke_session(opened, row, who.actor)
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
    return identity_types.Me(
        account=who.actor.name, role=who.role.value, team=None, session_id=who.session_id
    )


@router.get("/access")
def access(who: Who, request: Request, found: PartsDep, opened: SessionDep) -> Access:
    """Who the caller is, and which routes let the caller in."""
    account = identity.find_account(opened, who.actor.name)
    return Access(
        account=account.name,
        role=account.role.value,
        team=account.team.name if account.team else None,
        session_id=who.session_id,
        allowed=allowed_to(who.role, request.app.routes),
        sso=found.settings.oidc is not None,
        version=importlib.metadata.version("raymill"),
    )


@router.post("/browser/key", status_code=201)
def key(who: Who, opened: SessionDep) -> GatewayKey:
    """A key for models alone, for an hour; the one that the session had before ends. A page keeps it in memory."""
    if who.session_id is None:
        raise Invalid("the caller has an API key already: use that at /v1")
    account = identity.find_account(opened, who.actor.name)
    name = sessions.key_name(who.session_id)
    before = select(ApiKey.id).where(
        ApiKey.account_id == account.id, ApiKey.name == name, ApiKey.revoked_at.is_(None)
    )
    for key_id in opened.scalars(before).all():
        identity.revoke_key(opened, key_id, who.actor)
    expires_at = dt.datetime.now(dt.UTC) + KEY_LASTS
    _, made = identity.create_key(
        opened, account.name, name, who.actor, expires_at=expires_at, scopes=["gateway"]
    )
    return GatewayKey(key=made, expires_at=expires_at)


def check_own_page(request: Request) -> None:
    """Raises Denied: a page of another origin may have sent it."""
    if CONSOLE_HEADER not in request.headers:
        raise Denied(f"another page may not log its visitor in: send the header `{CONSOLE_HEADER}: 1`")


def signed_in(request: Request, response: Response, box: SecretBox, made: LoginSession) -> identity_types.Me:
    """Who has signed in; the session goes into the answer's cookie."""
    response.set_cookie(
        COOKIE,
        sessions.browser_token(box, made),
        expires=made.expires_at,
        path="/",
        httponly=True,
        samesite="strict",
        secure=by_tls(request),
    )
    account = made.account
    return identity_types.Me(
        account=account.name,
        role=account.role.value,
        team=account.team.name if account.team else None,
        session_id=made.id,
    )


def by_tls(request: Request) -> bool:
    return request.headers.get("x-forwarded-proto", request.url.scheme) == "https"
