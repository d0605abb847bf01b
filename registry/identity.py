"""Accounts and API keys. A key is shown once, when it is made; only its sha256 is kept."""

from __future__ import annotations

import datetime as dt
import hashlib
import secrets
import uuid
from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from raymill.policies.errors import Conflict, Invalid, NotFound
from raymill.registry import audit, limits, teams
from raymill.registry.audit import Actor
from raymill.registry.gateway_config import tell_gateways
from raymill.registry.jobs import notify
from raymill.registry.tables import Account, ApiKey, Role, Usage

KEY_PREFIX = "rm-"

CODE_ACCOUNT = "code-analysis"
"""Asks the gateway for the steps of code analysis: what they use and cost is its use."""

SCOPES = ("gateway", "read", "write")
"""What a key can be narrowed to: models at /v1, looking at the control plane, and changing it, which includes looking."""

TOUCH_S = 60.0
"""How exactly it is known when a key was used last."""

KEY_CHANNEL = "raymill_key"
"""Notified when a key or an account has changed, so that gateways follow within a second."""


def new_key() -> str:
    return KEY_PREFIX + secrets.token_urlsafe(32)


def key_sha256(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def create_account(
    session: Session,
    name: str,
    role: Role,
    actor: Actor,
    *,
    team: str | None = None,
    tier: str = limits.DEFAULT_TIER,
) -> Account:
    """
    Raises:
        Conflict: the name is taken.
        NotFound: no such team or tier.
    """
    limits.find_tier(session, tier)
    account = Account(name=name, role=role, tier=tier)
    account.team = teams.find_team(session, team) if team is not None else None
    try:
        with session.begin_nested():
            session.add(account)
    except IntegrityError:
        raise Conflict(f"account {name!r} exists already: choose another name") from None
    audit.record(session, actor, "account.create", f"account/{name}", role=role.value, team=team, tier=tier)
    tell_gateways(session)
    return account


def find_account(session: Session, name: str, *, lock: bool = False) -> Account:
    """Raises NotFound."""
    rows = select(Account).where(Account.name == name)
    account = session.scalar(rows.with_for_update(of=Account) if lock else rows)
    if account is None:
        raise NotFound(f"no account {name!r}: make it with `raymill user create {name}`")
    return account


def set_disabled(session: Session, account: Account, disabled: bool, actor: Actor) -> Account:
    """Shut an account out, or let it in again, within a second. What is so already changes nothing.

    Raises:
        Conflict: an administrator would shut out themselves.
    """
    if disabled == (account.disabled_at is not None):
        return account
    if disabled and account.name == actor.name:
        raise Conflict(f"{account.name!r} is your own account: another administrator can disable it")
    account.disabled_at = dt.datetime.now(dt.UTC) if disabled else None
    notify(session, KEY_CHANNEL)
    tell_gateways(session)
    action = "account.disable" if disabled else "account.enable"
    audit.record(session, actor, action, f"account/{account.name}")
    return account


def set_role(session: Session, account: Account, role: Role, actor: Actor) -> Account:
    """What an account may do from now on. What is so already changes nothing.

    Raises:
        Conflict: the caller would change the own role, and might leave nobody who can change it back.
    """
    if account.role == role:
        return account
    if account.name == actor.name:
        raise Conflict(f"{account.name!r} is your own account: another administrator can change its role")
    before, account.role = account.role, role
    audit.record(
        session,
        actor,
        "account.role",
        f"account/{account.name}",
        before={"role": before.value},
        after={"role": role.value},
    )
    tell_gateways(session)
    return account


def create_key(
    session: Session,
    account_name: str,
    name: str,
    actor: Actor,
    *,
    expires_at: dt.datetime | None = None,
    scopes: Sequence[str] = (),
) -> tuple[ApiKey, str]:
    """Make a key for an account.

    Args:
        scopes: some of `SCOPES`; none: everything that the account may.

    Returns:
        The row, and the key itself, which cannot be had again.

    Raises:
        NotFound: no such account.
        Invalid: no such scope.
    """
    if unknown := sorted(set(scopes) - set(SCOPES)):
        raise Invalid(f"no scope {unknown[0]!r}: give some of {', '.join(SCOPES)}", param="scopes")
    account = find_account(session, account_name)
    return _add_key(session, account, name, new_key(), actor, expires_at, scopes)


def _add_key(
    session: Session,
    account: Account,
    name: str,
    key: str,
    actor: Actor,
    expires_at: dt.datetime | None = None,
    scopes: Sequence[str] = (),
) -> tuple[ApiKey, str]:
    row = ApiKey(
        account=account,
        name=name,
        prefix=key[:10],
        key_sha256=key_sha256(key),
        expires_at=expires_at,
        scopes=sorted(set(scopes)),
    )
    session.add(row)
    session.flush()
    notify(session, KEY_CHANNEL)
    audit.record(
        session, actor, "key.create", f"key/{row.id}", account=account.name, name=name, scopes=row.scopes
    )
    return row, key


def revoke_key(session: Session, key_id: uuid.UUID, actor: Actor) -> ApiKey:
    """A revoked key stops working within a second; revoking it again changes nothing."""
    row = session.scalar(select(ApiKey).where(ApiKey.id == key_id).with_for_update(of=ApiKey))
    if row is None:
        raise NotFound(f"no key {key_id}: `raymill key list` shows the ones there are")
    if row.revoked_at is None:
        row.revoked_at = dt.datetime.now(dt.UTC)
        notify(session, KEY_CHANNEL)
        audit.record(session, actor, "key.revoke", f"key/{row.id}", account=row.account.name, name=row.name)
    return row


def authenticate(session: Session, key: str) -> ApiKey | None:
    """The live key of that text, of an account that neither is disabled nor in a disabled team; else None."""
    row = session.scalar(select(ApiKey).where(ApiKey.key_sha256 == key_sha256(key)))
    now = dt.datetime.now(dt.UTC)
    if row is None or row.revoked_at or (row.expires_at and row.expires_at <= now):
        return None
    return row if is_live(row.account) else None


def is_live(account: Account) -> bool:
    """Neither it nor its team is disabled."""
    return account.disabled_at is None and (account.team is None or account.team.disabled_at is None)


def allows(key: ApiKey, scope: str) -> bool:
    """Whether a key may be used for that."""
    return not key.scopes or scope in key.scopes or (scope == "read" and "write" in key.scopes)


def touch(session: Session, key_id: uuid.UUID) -> None:
    """Remember that a key was used. Whoever finds its row locked leaves it: another is at it."""
    rows = select(ApiKey).where(ApiKey.id == key_id).with_for_update(of=ApiKey, skip_locked=True)
    if (row := session.scalar(rows)) is not None:
        row.used_at = dt.datetime.now(dt.UTC)


def is_stale(key: ApiKey) -> bool:
    """Whether its last use is worth remembering again."""
    return key.used_at is None or (dt.datetime.now(dt.UTC) - key.used_at).total_seconds() > TOUCH_S


def last_used(session: Session, key: ApiKey) -> dt.datetime | None:
    """At the control plane or at the gateway; None: never."""
    asked = session.scalar(select(func.max(Usage.at)).where(Usage.key_id == key.id))
    return max((at for at in (key.used_at, asked) if at is not None), default=None)


def ensure_admin(session: Session, key: str) -> None:
    """Make `key` the key of the first admin; does nothing when it is, or once was, somebody's key."""
    _ensure(session, "admin", Role.ADMIN, key)


def ensure_code_account(session: Session, key: str) -> None:
    """Make `key` the key of the account by which the steps of code analysis ask the gateway, as `ensure_admin`."""
    _ensure(session, CODE_ACCOUNT, Role.VIEWER, key)


def _ensure(session: Session, name: str, role: Role, key: str) -> None:
    if session.scalar(select(ApiKey.id).where(ApiKey.key_sha256 == key_sha256(key))):
        return  # also when it was revoked: a restart must not undo that
    account = session.scalar(select(Account).where(Account.name == name))
    if account is None:
        account = create_account(session, name, role, audit.SYSTEM)
    _add_key(session, account, "bootstrap", key, audit.SYSTEM)
