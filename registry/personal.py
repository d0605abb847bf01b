"""Personal data: who is behind an account, sealed; all that is known of them, exported; and erased.

Fields are sealed with AES-256-GCM under a data key of the subject's own, which is enveloped under a master key. To erase is to
destroy that key: what was sealed with it, in audit rows too, is noise from then on, and not a row of the audit log has to
change. Backups from before hold the key until they are deleted (docs/backups.md). The account stays, disabled and without a face, for the log names it.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import os
from collections.abc import Mapping
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from raymill.policies.errors import Conflict, Invalid
from raymill.registry import audit, identity
from raymill.registry.artifacts import Tampered
from raymill.registry.audit import Actor
from raymill.registry.gateway_config import tell_gateways
from raymill.registry.jobs import notify
from raymill.registry.secrets import NONCE_BYTES, SecretBox
from raymill.registry.tables import (
    Account,
    ApiKey,
    AuditEvent,
    Base,
    ExternalIdentity,
    Feedback,
    JsonObject,
    KeptAnswer,
    LoginSession,
    Password,
    Subject,
    Trace,
    Usage,
)

FIELDS = ("display_name", "email")
MAX_CHARS = 200
DATA_KEY_BYTES = 32


def bound_to(row: Subject) -> tuple[str, str]:
    """Owner and id of the data key, as its envelope names them."""
    return str(row.account_id), Subject.__tablename__


def set_person(
    session: Session, box: SecretBox, account: Account, fields: Mapping[str, str | None], actor: Actor
) -> dict[str, str]:
    """Say who is behind an account: the fields that are given, None or an empty text to forget one.

    Returns:
        All fields, as they are now.

    Raises:
        Invalid: there is no such field, or a value is too long. The message does not hold it.
        Conflict: the subject was erased.
    """
    for name, value in fields.items():
        if name not in FIELDS or len(value or "") > MAX_CHARS:
            raise Invalid(f"{name[:40]} is no field, or longer than {MAX_CHARS} characters", param=name[:40])
    row = session.get(Subject, account.id, with_for_update=True)
    if row is None:
        row = Subject(account_id=account.id)
        key = os.urandom(DATA_KEY_BYTES)
        owner, secret_id = bound_to(row)
        row.sealed_key = box.seal(key.hex(), owner=owner, secret_id=secret_id)
        session.add(row)
    if row.erased_at is not None:
        raise Conflict(f"{account.name} was erased on {row.erased_at:%Y-%m-%d}: make another account")
    found = {**_opened(box, row), **{name: value or "" for name, value in fields.items()}}
    found = {name: value for name, value in found.items() if value}
    before = _text(row.sealed)
    row.sealed = _sealed(box, row, found)
    # Sealed, so that the log forgets with the key.
    audit.record(
        session,
        actor,
        "person.set",
        f"account/{account.name}",
        before={"sealed": before},
        after={"sealed": _text(row.sealed)},
    )
    return found


def person_of(session: Session, box: SecretBox, account: Account) -> dict[str, str]:
    """Field -> value; empty when nothing is known, or it was erased. Raises as `SecretBox.open`."""
    row = session.get(Subject, account.id)
    return _opened(box, row) if row is not None else {}


def export(session: Session, box: SecretBox, account: Account) -> JsonObject:
    """All that is kept of an account, as JSON: what it is, how it logs in, what it asked and said, what it did.

    Requests are told by day; `raymill usage` has each of them. No secrets, and no hashes of any.
    """
    return {
        "account": {
            "name": account.name,
            "role": account.role.value,
            "team": account.team.name if account.team else None,
            "tier": account.tier,
            "created_at": account.created_at.isoformat(),
            "disabled_at": account.disabled_at.isoformat() if account.disabled_at else None,
        },
        "person": person_of(session, box, account),
        "identities": _rows(session, ExternalIdentity, account, "issuer", "subject", "created_at"),
        "sessions": _rows(
            session, LoginSession, account, "method", "address", "created_at", "used_at", "expires_at"
        ),
        "keys": _rows(session, ApiKey, account, "name", "prefix", "created_at", "expires_at", "revoked_at"),
        "requests": _requests(session, account),
        "traces": _rows(session, Trace, account, "request_id", "route", "at", "prompt", "answer"),
        "feedback": _rows(session, Feedback, account, "request_id", "score", "correction", "comment", "at"),
        "audit": [
            {"seq": seq, "at": at.isoformat(), "action": action, "object": object_, "address": address}
            for seq, at, action, object_, address in session.execute(
                select(
                    AuditEvent.seq, AuditEvent.at, AuditEvent.action, AuditEvent.object, AuditEvent.address
                )
                .where(AuditEvent.actor == account.name)
                .order_by(AuditEvent.seq)
            )
        ],
    }


def erase(session: Session, account: Account, actor: Actor) -> Subject:
    """Destroy the subject's data key, and delete what is kept in the clear; the account is disabled for good.

    Numbers of requests stay, for they are what was billed; prompts, answers and texts do not. The same again changes
    nothing.

    Raises:
        Conflict: an administrator would erase themselves.
    """
    if account.name == actor.name:
        raise Conflict(f"{account.name!r} is your own account: another administrator can erase it")
    now = dt.datetime.now(dt.UTC)
    row = session.get(Subject, account.id, with_for_update=True)
    if row is None:
        row = Subject(account_id=account.id)
        session.add(row)
    if row.erased_at is not None:
        return row
    row.sealed_key, row.sealed, row.erased_at = None, None, now
    for table in (Password, LoginSession, ExternalIdentity, Trace, KeptAnswer):
        session.execute(delete(table).where(_of(table, account)))
    session.execute(
        update(Feedback).where(Feedback.account_id == account.id).values(correction=None, comment="")
    )
    session.execute(
        update(ApiKey)
        .where(ApiKey.account_id == account.id)
        .values(revoked_at=func.coalesce(ApiKey.revoked_at, now))
    )
    account.disabled_at = account.disabled_at or now
    audit.record(session, actor, "account.erase", f"account/{account.name}")
    notify(session, identity.KEY_CHANNEL)
    tell_gateways(session)
    return row


def _requests(session: Session, account: Account) -> list[JsonObject]:
    day = func.date_trunc("day", Usage.at, "UTC")
    rows = session.execute(
        select(
            day,
            func.count(),
            func.sum(Usage.prompt_tokens),
            func.sum(Usage.completion_tokens),
            func.sum(Usage.cost_micro_usd),
        )
        .where(Usage.account_id == account.id)
        .group_by(day)
        .order_by(day)
    )
    names = ("requests", "prompt_tokens", "completion_tokens", "cost_micro_usd")
    return [
        {
            "day": f"{each[0]:%Y-%m-%d}",
            **{name: int(value) for name, value in zip(names, each[1:], strict=True)},
        }
        for each in rows
    ]


def _rows(session: Session, table: type[Base], account: Account, *columns: str) -> list[JsonObject]:
    found = session.execute(select(*(getattr(table, name) for name in columns)).where(_of(table, account)))
    return [{name: _plain(value) for name, value in zip(columns, row, strict=True)} for row in found]


def _of(table: type[Any], account: Account) -> Any:
    return table.account_id == account.id


def _plain(value: object) -> object:
    return value.isoformat() if isinstance(value, dt.datetime) else value


def _opened(box: SecretBox, row: Subject) -> dict[str, str]:
    if row.sealed_key is None or row.sealed is None:
        return {}
    nonce, ciphertext = row.sealed[:NONCE_BYTES], row.sealed[NONCE_BYTES:]
    try:
        opened = AESGCM(_data_key(box, row)).decrypt(nonce, ciphertext, row.account_id.bytes)
    except InvalidTag:
        raise Tampered(
            f"the personal data of account {row.account_id} was changed: restore its row"
        ) from None
    found: dict[str, str] = json.loads(opened)
    return found


def _sealed(box: SecretBox, row: Subject, fields: dict[str, str]) -> bytes:
    nonce = os.urandom(NONCE_BYTES)
    return nonce + AESGCM(_data_key(box, row)).encrypt(
        nonce, json.dumps(fields).encode(), row.account_id.bytes
    )


def _data_key(box: SecretBox, row: Subject) -> bytes:
    assert row.sealed_key is not None
    owner, secret_id = bound_to(row)
    return bytes.fromhex(box.open(row.sealed_key, owner=owner, secret_id=secret_id))


def _text(sealed: bytes | None) -> str | None:
    return base64.b64encode(sealed).decode() if sealed is not None else None
