"""What triggers, hooks and watches for drift have in common: a unique name, a switch, for some a sealed secret."""

from __future__ import annotations

import re
from typing import TypeVar

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from raymill.policies.errors import Conflict, NotFound
from raymill.registry import webhooks
from raymill.registry.secrets import SecretBox
from raymill.registry.tables import DriftWatch, Hook, Trigger

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")

Named = Trigger | Hook | DriftWatch
Secretive = Trigger | Hook
Row = TypeVar("Row", Trigger, Hook, DriftWatch)
NOUNS = {"drift_watch": "drift"}
"""Table -> what the command calls it, where that is another word."""


def add(session: Session, row: Named) -> None:
    """Raises Conflict: the name is taken."""
    try:
        with session.begin_nested():
            session.add(row)
    except IntegrityError:
        raise Conflict(
            f"{_noun(row)} {row.name!r} exists already: delete it, or choose another name"
        ) from None


def find(session: Session, table: type[Row], name: str, *, lock: bool = False) -> Row:
    """Raises NotFound."""
    rows = select(table).where(table.name == name)
    row = session.scalar(rows.with_for_update() if lock else rows)
    if row is None:
        noun = _noun(table)
        raise NotFound(f"no {noun} {name!r}: `raymill {noun} list` shows the ones there are")
    return row


def _noun(row: Named | type[Named]) -> str:
    return NOUNS.get(row.__tablename__, row.__tablename__)


def give_secret(box: SecretBox, row: Secretive) -> str:
    """A new secret for a row that has its id; sealed in it, and returned to be shown this once."""
    secret = webhooks.new_secret()
    row.secret = box.seal(secret, owner=str(row.id), secret_id=row.__tablename__)
    return secret


def open_secret(box: SecretBox, row: Secretive) -> str:
    """Raises as `SecretBox.open`."""
    assert row.secret is not None, "only webhooks have a secret"
    return box.open(row.secret, owner=str(row.id), secret_id=row.__tablename__)
