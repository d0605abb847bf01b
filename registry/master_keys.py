"""Master keys by version: a rotation makes a new one, secrets are sealed anew under it while all goes on, and an old one goes.

Sealing anew is done in small transactions, so nobody waits long and a process that is killed loses only its last few rows; begun
again it goes on with what is still under an older key. A key is never put away while a row is sealed under it.
"""

from __future__ import annotations

import datetime as dt
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, LargeBinary, func, literal, select, text
from sqlalchemy.orm import Session

from raymill.policies.errors import Conflict, NotFound, RaymillError
from raymill.registry import audit, personal
from raymill.registry.audit import Actor
from raymill.registry.database import Database
from raymill.registry.failpoints import failpoint
from raymill.registry.gateway_config import tell_gateways
from raymill.registry.secrets import ID_BYTES, VERSION, SecretBox
from raymill.registry.tables import Base, Hook, ProviderKey, Subject, Trigger

BATCH_ROWS = 50


class Place(NamedTuple):
    """A column of sealed secrets."""

    table: type[Base]
    key: str
    """Its primary key, a UUID."""

    column: str
    bound_to: Callable[[Any], tuple[str, str]]
    """Row -> owner and id of its secret, which the envelope names."""

    @property
    def id(self) -> ColumnElement[uuid.UUID]:
        found: ColumnElement[uuid.UUID] = getattr(self.table, self.key)
        return found

    @property
    def sealed(self) -> ColumnElement[bytes | None]:
        found: ColumnElement[bytes | None] = getattr(self.table, self.column)
        return found


PLACES = (
    Place(ProviderKey, "id", "sealed", lambda row: (str(row.provider_id), str(row.id))),
    Place(Trigger, "id", "secret", lambda row: (str(row.id), Trigger.__tablename__)),
    Place(Hook, "id", "secret", lambda row: (str(row.id), Hook.__tablename__)),
    Place(Subject, "account_id", "sealed_key", personal.bound_to),
)
"""Wherever secrets lie."""


@dataclass(frozen=True, kw_only=True)
class Version:
    """A master key."""

    id: str
    current: bool
    created_at: dt.datetime
    secrets: int
    """How many are sealed under it."""


def list_versions(session: Session, box: SecretBox) -> list[Version]:
    """The newest first; also one whose file is missing, when secrets are sealed under it.

    Raises:
        NotFound: there is no master key.
    """
    current, files, used = box.current_id(), box.created_at(), _used(session)
    missing = dt.datetime.fromtimestamp(0, dt.UTC)
    found = [
        Version(
            id=key_id, current=key_id == current, created_at=files.get(key_id, missing), secrets=used[key_id]
        )
        for key_id in files.keys() | used.keys()
    ]
    return sorted(found, key=lambda version: (version.current, version.created_at), reverse=True)


def rotate(database: Database, box: SecretBox, actor: Actor) -> int:
    """Seal with a new master key from now on, and everything that is sealed. Returns how many secrets.

    Raises:
        As `rewrap`.
    """
    box.rotate()
    with database.transaction() as session:
        audit.record(session, actor, "master_key.rotate", f"master_key/{box.current_id()}")
    return rewrap(database, box, actor)


def rewrap(database: Database, box: SecretBox, actor: Actor, *, batch_rows: int = BATCH_ROWS) -> int:
    """Seal under the current master key whatever is under an older one. Any number may do so at once.

    Returns:
        How many secrets were sealed anew, here.

    Raises:
        NotFound, Tampered, Invalid: one could not be opened, as `SecretBox.open`; all others are sealed anew.
    """
    count = 0
    broken: list[RaymillError] = []
    for place in PLACES:
        after: uuid.UUID | None = uuid.UUID(int=0)
        while after is not None:
            with database.transaction() as session:
                done, after, errors = _rewrap_batch(session, box, place, after, batch_rows)
                failpoint("rewrap:before")
            failpoint("rewrap:after")
            count += done
            broken += errors
    with database.transaction() as session:
        audit.record(session, actor, "master_key.reseal", f"master_key/{box.current_id()}", keys=count)
        if count:
            tell_gateways(session)
    if broken:
        raise broken[0]
    return count


def retire(session: Session, box: SecretBox, key_id: str, actor: Actor, *, quiet_s: float) -> None:
    """Put a master key away for good: its file is deleted when this returns.

    Args:
        quiet_s: how long the current key must have been current. Whoever read `current` before has sealed by then, and
            access tokens that the old one signed have expired.

    Raises:
        NotFound: there is none of that id.
        Conflict: it is the current one, secrets are sealed under it, or the rotation was too short a time ago.
    """
    if not box.has(key_id):
        raise NotFound(f"no master key {key_id!r}: `raymill master-key list` shows the ones there are")
    if key_id == box.current_id():
        raise Conflict(f"{key_id} is the current master key: make another with `raymill master-key rotate`")
    since_s = time.time() - box.current_since()
    if since_s < quiet_s:
        raise Conflict(
            f"the current master key is {since_s:.0f} s old, a process may still use {key_id}: "
            f"wait {quiet_s - since_s:.0f} s"
        )
    # Waits for whoever is writing secrets, and keeps others out until the file is gone.
    for place in PLACES:
        session.execute(text(f"LOCK TABLE {place.table.__tablename__} IN SHARE MODE"))
    used = _used(session)[key_id]
    if used:
        raise Conflict(
            f"{used} secrets are sealed under {key_id}: `raymill master-key rewrap` seals them anew"
        )
    audit.record(session, actor, "master_key.retire", f"master_key/{key_id}")
    box.delete(key_id)


def _rewrap_batch(
    session: Session, box: SecretBox, place: Place, after: uuid.UUID, batch_rows: int
) -> tuple[int, uuid.UUID | None, list[RaymillError]]:
    """Of at most `batch_rows` rows after `after`: how many were sealed anew, the last one's id, what did not open."""
    table, current = place.table, bytes.fromhex(box.current_id())
    rows = session.scalars(
        select(table)
        .where(place.id > after, place.sealed.is_not(None), _key_of(place) != literal(current, LargeBinary()))
        .order_by(place.id)
        .limit(batch_rows)
        .with_for_update(of=table)
    ).all()
    errors: list[RaymillError] = []
    for row in rows:
        owner, secret_id = place.bound_to(row)
        try:
            resealed = box.reseal(getattr(row, place.column), owner=owner, secret_id=secret_id)
        except RaymillError as error:
            errors.append(error)
        else:
            setattr(row, place.column, resealed)
    last: uuid.UUID | None = getattr(rows[-1], place.key) if rows else None
    return len(rows) - len(errors), last, errors


def _used(session: Session) -> Counter[str]:
    """Master key -> how many secrets are sealed under it."""
    found: Counter[str] = Counter()
    for place in PLACES:
        found.update(dict(_used_in(session, place)))
    return found


def _used_in(session: Session, place: Place) -> Iterator[tuple[str, int]]:
    key = func.encode(_key_of(place), "hex")
    rows = session.execute(select(key, func.count()).where(place.sealed.is_not(None)).group_by(key))
    return ((str(key_id), int(count)) for key_id, count in rows)


def _key_of(place: Place) -> ColumnElement[bytes]:
    """The master key's id in an envelope."""
    return func.substr(place.sealed, len(VERSION) + 1, ID_BYTES, type_=LargeBinary())
