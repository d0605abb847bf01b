"""Cursor paging of what is listed by its time: newest first, stable while rows are added."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import uuid

from raymill.policies.errors import Invalid
from raymill.registry.usage_records import Position


def cursor_of(position: Position) -> str:
    """Opaque to the caller."""
    text = f"{position.at.astimezone(dt.UTC).isoformat()} {position.id}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def position_of(cursor: str | None) -> Position | None:
    """
    Raises:
        Invalid: `cursor` is none of ours.
    """
    if cursor is None:
        return None
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        at, _, row_id = text.partition(" ")
        position = Position(dt.datetime.fromisoformat(at), uuid.UUID(row_id))
    except (binascii.Error, ValueError):
        position = None
    if position is None or position.at.utcoffset() != dt.timedelta(0):
        raise Invalid(f"cursor {cursor[:40]!r} is none of ours: use next_cursor as it came", param="cursor")
    return position
