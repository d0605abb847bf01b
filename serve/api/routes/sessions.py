"""Logins: open a session with a password, refresh it, end it; who one is; passwords."""

from __future__ import annotations

import uuid

from fastapi import APIRouter, Request
from sqlalchemy import select

from raymill.client import identity_types as types
from raymill.client.types import Page
from raymill.registry import identity, login_attempts, passwords, sessions
from raymill.registry.audit import Actor
from raymill.registry.login_attempts import Attempt
from raymill.registry.sessions import NotLoggedIn
from raymill.registry.tables import Account, LoginSession, Role
from raymill.serve.api.context import Caller, Parts, PartsDep, SessionDep, Who, address_of
from raymill.serve.api.scope import account_in_reach, sees_all
from raymill.serve.api.threads import ThreadRoute

router = APIRouter(tags=["sessions"], route_class=ThreadRoute)


@router.post("/sessions", status_code=201)
def log_in(body: types.LoginRequest, request: Request, found: PartsDep, opened: SessionDep) -> types.Tokens:
    """Log in with a password. Too many attempts for an account, or from an address, have to wait (429)."""
    actor = nobody(request)
    check_password(found, body.account, body.password, actor)
    account = identity.find_account(opened, body.account)
    passwords.renew(opened, account, body.password)
    actor = Actor(name=account.name, request_id=actor.request_id, address=actor.address)
    settings = found.settings
    return tokens(
        sessions.open_session(opened, settings.secret_box, account, "password", actor, settings.lifetimes)
    )


@router.post("/sessions/refresh")
def refresh(body: types.RefreshRequest, request: Request, found: PartsDep) -> types.Tokens:
    """Trade a refresh token for the next pair. One that was used before ends its session."""
    box, lifetimes = found.settings.secret_box, found.settings.lifetimes
    with found.database.transaction() as opened:
        made = sessions.refresh_session(opened, box, body.refresh_token, nobody(request), lifetimes)
    if made is None:
        raise NotLoggedIn("the session has ended, or its token was used already: log in again")
    return tokens(made)


@router.get("/sessions")
def list_sessions(who: Who, opened: SessionDep, account: str | None = None) -> Page[types.LoginSession]:
    """One's own logins; another account's for administrators."""
    row = account_in_reach(opened, who, account or who.actor.name, Role.ADMIN)
    return Page(data=[_session(each, who) for each in sessions.list_sessions(opened, row)])


@router.delete("/sessions/{session_id}")
def end_session(session_id: uuid.UUID, who: Who, opened: SessionDep) -> types.LoginSession:
    """Log out: the session's tokens open nothing from now on. Another's for administrators."""
    own = None if sees_all(who, Role.ADMIN) else identity.find_account(opened, who.actor.name)
    row = sessions.find_session(opened, session_id, of=own)
    return _session(sessions.revoke_session(opened, row, who.actor), who)


@router.get("/whoami")
def who_am_i(who: Who, opened: SessionDep) -> types.Me:
    """The caller's account, role and team."""
    account = identity.find_account(opened, who.actor.name)
    return types.Me(
        account=account.name,
        role=account.role.value,
        team=account.team.name if account.team else None,
        session_id=who.session_id,
    )


@router.put("/password")
def change_password(
    body: types.PasswordChange, who: Who, found: PartsDep, opened: SessionDep
) -> types.PasswordSet:
    """Change one's own password. All other sessions of the account end."""
    check_password(found, who.actor.name, body.current, who.actor)
    account = identity.find_account(opened, who.actor.name, lock=True)
    passwords.set_password(opened, account, body.password, who.actor)
    ended = sessions.revoke_all(opened, account, who.actor, but=who.session_id)
    return types.PasswordSet(account=account.name, ended_sessions=ended)


@router.put("/accounts/{name}/password")
def set_password(name: str, body: types.PasswordRequest, who: Who, opened: SessionDep) -> types.PasswordSet:
    """Give an account a password. Its sessions and a lock end; its API keys stay."""
    account = identity.find_account(opened, name, lock=True)
    passwords.set_password(opened, account, body.password, who.actor)
    login_attempts.forget(opened, account.name)
    ended = sessions.revoke_all(opened, account, who.actor)
    return types.PasswordSet(account=account.name, ended_sessions=ended)


def check_password(found: Parts, name: str, password: str, actor: Actor) -> None:
    """Raises:
    TooManyAttempts: of the account, or from the address.
    NotLoggedIn: it is wrong, or there is no such account, or it is disabled: the message does not say which.
    """
    attempt = Attempt(account=name, address=actor.address)
    login_attempts.begin(found.database, attempt, actor)
    with found.database.transaction() as opened:
        account = opened.scalar(select(Account).where(Account.name == name))
        phc = passwords.phc_of(opened, account)
    if not passwords.matches(password, phc) or account is None or not identity.is_live(account):
        raise NotLoggedIn("account or password is wrong: an admin sets one with `raymill user set-password`")
    login_attempts.succeed(found.database, attempt)


def nobody(request: Request) -> Actor:
    """Whoever asks, before it is known who that is."""
    return Actor(name="anonymous", request_id=request.state.request_id, address=address_of(request))


def tokens(made: sessions.Tokens) -> types.Tokens:
    account = made.session.account
    return types.Tokens(
        session_id=made.session.id,
        account=account.name,
        role=account.role.value,
        access_token=made.access_token,
        expires_at=made.access_expires_at,
        refresh_token=made.refresh_token,
        session_expires_at=made.session.expires_at,
    )


def _session(row: LoginSession, who: Caller) -> types.LoginSession:
    return types.LoginSession(
        id=row.id,
        account=row.account.name,
        method=row.method,
        address=row.address,
        created_at=row.created_at,
        used_at=row.used_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        current=row.id == who.session_id,
    )
