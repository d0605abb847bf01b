"""The audit log: who changed what. A row commits with the change it tells of.

Append-only and gap-free; how it proves itself stands in `registry/audit_chain.py`. Writers take turns on one advisory
lock, held while they commit: one statement takes it, reads the newest hash and writes the row (`raymill_audit_append`
in the migrations); `registry/audit_commit.py` sends it.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy.orm import Session

from raymill.registry.artifacts import canonical_json
from raymill.registry.audit_chain import Chain, Checked, Root, as_kept, changed, missing, said_of
from raymill.registry.audit_commit import append_at_commit, driver_connection
from raymill.registry.tables import JsonObject

PAGE_ROWS = 5000
_FAST = msgspec.json.Encoder(order="sorted")

_ROWS = """
SELECT seq, at AT TIME ZONE 'UTC', actor, action, object, detail::text, request_id, address, before::text, after::text,
       previous_hash, hash
FROM audit_event WHERE seq > %s ORDER BY seq LIMIT %s
"""


@dataclass(frozen=True, kw_only=True)
class Actor:
    """Who is behind a change."""

    name: str
    request_id: str | None = None
    address: str | None = None
    """Where the request came from, as far as the nearest proxy tells."""


SYSTEM = Actor(name="system")


def record(
    session: Session,
    actor: Actor,
    action: str,
    object_: str,
    *,
    before: Mapping[str, object] | None = None,
    after: Mapping[str, object] | None = None,
    **detail: object,
) -> None:
    """Append one row when the caller's transaction commits. `action` is noun.verb, such as `alias.move`.

    Args:
        before: what the object was, where it was something; the parts that changed will do.
        after: what it is now.
    """
    session.flush()  # what is not possible is said here, not at the commit
    row: JsonObject = {
        "at": dt.datetime.now(dt.UTC),
        "actor": actor.name,
        "action": action,
        "object": object_,
        "detail": as_kept(detail),
        "request_id": actor.request_id,
        "address": actor.address,
        "before": as_kept(before),
        "after": as_kept(after),
    }
    said = said_of({**row, "at": row["at"].isoformat()})
    for name in ("detail", "before", "after"):
        row[name] = None if row[name] is None else json.dumps(row[name])
    append_at_commit(session, {**row, "said": said})


def verify(session: Session, roots: Sequence[Root] = ()) -> Checked:
    """Walk the log from its first row.

    Args:
        roots: taken of this log earlier; each is held against the rows that it was taken of.

    Raises:
        AuditBroken: a row was changed, is missing, or is out of place.
    """
    chain = Chain(roots)
    for _ in walk(session, chain):
        pass
    return chain.end()


def walk(session: Session, chain: Chain) -> Iterator[tuple[bytes, bytes]]:
    """Take what `chain` has not seen of the log through it, from one snapshot, a page at a time.

    Returns:
        What each row says, as canonical JSON, and its hash.

    Raises:
        AuditBroken: as `verify`.
    """
    count = chain.tree.size
    with driver_connection(session).cursor(name="audit", binary=True) as cursor:
        cursor.itersize = PAGE_ROWS
        for row in cursor.execute(_ROWS, (count, None)):
            count += 1
            if row[0] != count:
                raise missing(count, row[0])
            content, hash_ = _FAST.encode(_as_written(row, msgspec.json.decode)), row[11]
            if not chain.fits(content, hash_):
                # The canonical form, which the fast encoder writes some numbers of in another way.
                content = canonical_json(_as_written(row, json.loads))
            if row[10] != chain.head or not chain.fits(content, hash_):
                raise changed(count)
            chain.take(hash_)
            yield content, hash_


def page(session: Session, after: int, limit: int) -> list[tuple[bytes, bytes]]:
    """What at most `limit` rows after number `after` say, and their hashes, as they stand there: nothing is checked."""
    with driver_connection(session).cursor(binary=True) as cursor:
        rows = cursor.execute(_ROWS, (after, limit)).fetchall()
    return [(canonical_json(_as_written(row, json.loads)), row[11]) for row in rows]


def _as_written(row: Sequence[Any], decode: Callable[[str], Any]) -> JsonObject:
    found = {
        "seq": row[0],
        "at": f"{row[1].isoformat()}+00:00",
        "actor": row[2],
        "action": row[3],
        "object": row[4],
        "detail": decode(row[5]),
        "request_id": row[6],
    }
    if row[7] is not None:
        found["address"] = row[7]
    if row[8] is not None:
        found["before"] = decode(row[8])
    if row[9] is not None:
        found["after"] = decode(row[9])
    return found
