"""Logins: a short-lived access token to call with, and a refresh token that is traded for the next pair.

An access token is a JWT (RFC 7519, `typ` at+jwt as in RFC 9068), HS256 under a key that is derived from a master key
(`SecretBox.derived`), so it ends with that key. A refresh token is 256 random bits of which the hash is kept; it
works once. One that comes back has been copied, so the whole session ends (RFC 9700, section 4.14.2). Whether a
session and its account still live is asked at each request: revoking takes effect at once. Units: seconds.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import secrets
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jwt
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from raymill.policies.errors import NotFound, RaymillError
from raymill.registry import audit, identity
from raymill.registry.audit import Actor
from raymill.registry.identity import is_live
from raymill.registry.secrets import SecretBox
from raymill.registry.tables import Account, ApiKey, LoginSession, SpentRefresh, new_id

ALGORITHM = "HS256"
TYPE = "at+jwt"
BROWSER_TYPE = "browser+jwt"
"""Of what a browser keeps in a cookie: it lasts as long as its session, and opens nothing as a bearer token."""

ISSUER = "raymill"
PURPOSE = "raymill access token"
REFRESH_PREFIX = "rmr-"
LEEWAY_S = 5
"""How far the clocks of two machines of a service may differ."""


class NotLoggedIn(RaymillError):
    """The token is none, has expired, was used already, or its session has ended."""

    code = "unauthenticated"


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """What a client keeps of a login."""

    session: LoginSession
    access_token: str
    access_expires_at: dt.datetime
    refresh_token: str


@dataclass(frozen=True, kw_only=True)
class Lifetimes:
    """How long tokens and sessions last."""

    access_s: float
    session_s: float


def open_session(
    session: Session, box: SecretBox, account: Account, method: str, actor: Actor, lifetimes: Lifetimes
) -> Tokens:
    """A login of an account that has shown who it is.

    Raises:
        NotFound: there is no master key to sign with.
    """
    now = dt.datetime.now(dt.UTC)
    refresh = _new_refresh()
    row = LoginSession(
        id=new_id(),
        account=account,
        method=method,
        address=actor.address,
        refresh_sha256=_sha256(refresh),
        created_at=now,
        used_at=now,
        expires_at=now + dt.timedelta(seconds=lifetimes.session_s),
    )
    session.add(row)
    audit.record(session, actor, "session.open", f"session/{row.id}", account=account.name, method=method)
    return _tokens(box, row, refresh, now, lifetimes)


def refresh_session(
    session: Session, box: SecretBox, refresh_token: str, actor: Actor, lifetimes: Lifetimes
) -> Tokens | None:
    """Trade a refresh token for the next pair.

    Returns:
        None when the token opens nothing. Then one that was used before has ended its session: the caller must let
        the transaction commit before it tells.
    """
    digest, now = _sha256(refresh_token), dt.datetime.now(dt.UTC)
    row = session.scalar(
        select(LoginSession).where(LoginSession.refresh_sha256 == digest).with_for_update(of=LoginSession)
    )
    if row is None:
        spent = session.get(SpentRefresh, digest)
        if spent is not None:
            _end(session, session.get_one(LoginSession, spent.session_id), "session.reuse", actor)
        return None
    if row.revoked_at is not None or row.expires_at <= now or not is_live(row.account):
        return None
    fresh = _new_refresh()
    session.add(SpentRefresh(refresh_sha256=digest, session_id=row.id))
    row.refresh_sha256, row.used_at = _sha256(fresh), now
    session.flush()
    return _tokens(box, row, fresh, now, lifetimes)


def browser_token(box: SecretBox, row: LoginSession) -> str:
    """What a browser keeps of a session, in a cookie that scripts cannot read."""
    return _signed(box, row, dt.datetime.now(dt.UTC), row.expires_at, BROWSER_TYPE)


def session_of(session: Session, box: SecretBox, token: str, kind: str = TYPE) -> LoginSession | None:
    """The live session behind an access token (or, by its `kind`, a browser's), with its live account; else None."""
    try:
        claims = _claims_of(box, token, kind)
        row = session.get(LoginSession, uuid.UUID(claims["sid"]))
    except (jwt.InvalidTokenError, NotFound, ValueError):
        return None
    now = dt.datetime.now(dt.UTC)
    if row is None or row.revoked_at is not None or row.expires_at <= now or not is_live(row.account):
        return None
    return row


def list_sessions(session: Session, account: Account) -> list[LoginSession]:
    """Those that have not ended, the newest first."""
    return list(
        session.scalars(
            select(LoginSession)
            .where(
                LoginSession.account_id == account.id,
                LoginSession.revoked_at.is_(None),
                LoginSession.expires_at > dt.datetime.now(dt.UTC),
            )
            .order_by(LoginSession.id.desc())
        )
    )


def find_session(session: Session, session_id: uuid.UUID, *, of: Account | None = None) -> LoginSession:
    """A session; with `of` only one of that account.

    Raises:
        NotFound: there is none, or it is another account's.
    """
    row = session.get(LoginSession, session_id)
    if row is None or (of is not None and row.account_id != of.id):
        raise NotFound(f"no session {session_id}: `raymill session list` shows the ones there are")
    return row


def revoke_session(session: Session, row: LoginSession, actor: Actor) -> LoginSession:
    """Its tokens open nothing from now on; the same again changes nothing."""
    _end(session, row, "session.revoke", actor)
    return row


def revoke_all(session: Session, account: Account, actor: Actor, *, but: uuid.UUID | None = None) -> int:
    """End all sessions of an account but one. Returns how many there were."""
    ended = session.execute(
        update(LoginSession)
        .where(
            LoginSession.account_id == account.id,
            LoginSession.revoked_at.is_(None),
            LoginSession.id != (but or uuid.UUID(int=0)),
        )
        .values(revoked_at=dt.datetime.now(dt.UTC))
        .returning(LoginSession.id)
    ).all()
    _end_keys(session, [row.id for row in ended], actor)
    if ended:
        audit.record(session, actor, "session.revoke_all", f"account/{account.name}", sessions=len(ended))
    return len(ended)


def _end(session: Session, row: LoginSession, action: str, actor: Actor) -> None:
    if row.revoked_at is None:
        row.revoked_at = dt.datetime.now(dt.UTC)
        audit.record(session, actor, action, f"session/{row.id}", account=row.account.name)
        _end_keys(session, [row.id], actor)


def key_name(session_id: uuid.UUID) -> str:
    """Of the key for models that a browser's session may have; it ends with the session."""
    return f"console-{session_id}"


def _end_keys(session: Session, session_ids: Sequence[uuid.UUID], actor: Actor) -> None:
    names = [key_name(session_id) for session_id in session_ids]
    alive = select(ApiKey.id).where(ApiKey.name.in_(names), ApiKey.revoked_at.is_(None))
    for key_id in session.scalars(alive).all():
        identity.revoke_key(session, key_id, actor)


def _tokens(
    box: SecretBox, row: LoginSession, refresh: str, now: dt.datetime, lifetimes: Lifetimes
) -> Tokens:
    expires_at = min(now + dt.timedelta(seconds=lifetimes.access_s), row.expires_at)
    access = _signed(box, row, now, expires_at, TYPE)
    return Tokens(session=row, access_token=access, access_expires_at=expires_at, refresh_token=refresh)


def _signed(box: SecretBox, row: LoginSession, now: dt.datetime, expires_at: dt.datetime, kind: str) -> str:
    claims = {
        "iss": ISSUER,
        "aud": ISSUER,
        "sub": str(row.account_id),
        "sid": str(row.id),
        "iat": now,
        "exp": expires_at,
    }
    key_id, key = box.derived(PURPOSE)
    return jwt.encode(claims, key, algorithm=ALGORITHM, headers={"kid": key_id, "typ": kind})


def _claims_of(box: SecretBox, token: str, kind: str) -> dict[str, Any]:
    header = jwt.get_unverified_header(token)
    key_id = header.get("kid")
    if header.get("typ") != kind or not isinstance(key_id, str) or not box.has(key_id):
        raise jwt.InvalidTokenError("signed by no key of ours")
    claims: dict[str, Any] = jwt.decode(
        token,
        box.derived(PURPOSE, key_id)[1],
        algorithms=[ALGORITHM],
        audience=ISSUER,
        issuer=ISSUER,
        leeway=LEEWAY_S,
        options={"require": ["exp", "iat", "sub", "sid"]},
    )
    return claims


def _new_refresh() -> str:
    return REFRESH_PREFIX + secrets.token_urlsafe(32)


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
