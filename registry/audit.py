"""The audit log: who changed what. A row commits with the change it tells of.

Append-only, gap-free: each row's hash is sha256 over the row before it and its own content, so an edit,
a deletion or a swap shows. Writers take turns on one advisory lock, held until their commit.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from raymill.policies.errors import RaymillError
from raymill.registry.artifacts import canonical_json
from raymill.registry.tables import AuditEvent, JsonObject

GENESIS = bytes(32)
_LOCK = 7265707


class AuditBroken(RaymillError):
    """The log is not what was written."""

    code = "audit_broken"


@dataclass(frozen=True, kw_only=True)
class Actor:
    """Who is behind a change."""

    name: str
    request_id: str | None = None


SYSTEM = Actor(name="system")


def record(session: Session, actor: Actor, action: str, object_: str, **detail: object) -> AuditEvent:
    """Append one row in the caller's transaction. `action` is noun.verb, such as `alias.move`."""
    session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    last = session.execute(
        select(AuditEvent.seq, AuditEvent.hash).order_by(AuditEvent.seq.desc()).limit(1)
    ).first()
    row = AuditEvent(
        seq=last.seq + 1 if last else 1,
        at=dt.datetime.now(dt.UTC),
        actor=actor.name,
        action=action,
        object=object_,
        detail=detail,
        request_id=actor.request_id,
        previous_hash=last.hash if last else GENESIS,
    )
    row.hash = row_hash(row)
    session.add(row)
    session.flush()
    return row


def row_hash(row: AuditEvent) -> bytes:
    """sha256 over the previous hash and the canonical JSON of what the row says."""
    content: JsonObject = {
        "seq": row.seq,
        "at": row.at.astimezone(dt.UTC).isoformat(),
        "actor": row.actor,
        "action": row.action,
        "object": row.object,
        "detail": row.detail,
        "request_id": row.request_id,
    }
    return hashlib.sha256(row.previous_hash + canonical_json(content)).digest()


def verify(rows: Iterator[AuditEvent]) -> tuple[int, bytes]:
    """Walk the log from its first row.

    Returns:
        How many rows, and the hash of the last one.

    Raises:
        AuditBroken: a row was changed, is missing, or is out of place.
    """
    count, previous = 0, GENESIS
    for row in rows:
        count += 1
        if row.seq != count:
            raise AuditBroken(
                f"audit row {count} is missing, row {row.seq} follows: restore it from a backup"
            )
        if row.previous_hash != previous or row.hash != row_hash(row):
            raise AuditBroken(f"audit row {row.seq} is not what was written: compare it with a backup")
        previous = row.hash
    return count, previous


def all_rows(session: Session) -> Iterator[AuditEvent]:
    """The whole log in order, fetched in pieces of 1,000 rows."""
    seq = 0
    while rows := session.scalars(
        select(AuditEvent).where(AuditEvent.seq > seq).order_by(AuditEvent.seq).limit(1000)
    ).all():
        yield from rows
        seq = rows[-1].seq
