"""Cursor paging: newest first, stable while rows are added, no counting."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import Query
from sqlalchemy import ColumnElement, Select
from sqlalchemy import Row as SqlRow
from sqlalchemy.orm import InstrumentedAttribute, Session

from raymill.client.types import Page
from raymill.policies.errors import Invalid

Row = TypeVar("Row")
Wire = TypeVar("Wire")

Limit = Annotated[int, Query(ge=1, le=500, description="Rows on a page.")]
Cursor = Annotated[str | None, Query(max_length=200, description="`next_cursor` of the page before.")]


def page(
    opened: Session,
    rows: Select[Row],
    key: InstrumentedAttribute[Any],
    to_wire: Callable[[Row], Wire],
    *,
    limit: int,
    cursor: str | None,
) -> Page[Wire]:
    """One page of `rows`, by descending `key`, which must be unique.

    Raises:
        Invalid: `cursor` is none of ours.
    """
    found, next_cursor = rows_of_page(opened, rows, key, limit=limit, cursor=cursor)
    return Page(data=[to_wire(row) for row in found], next_cursor=next_cursor)


def rows_of_page(
    opened: Session, rows: Select[Row], key: InstrumentedAttribute[Any], *, limit: int, cursor: str | None
) -> tuple[Sequence[Row], str | None]:
    """The rows of a page and the cursor of the next, for rows of which more is read all at once.

    Raises:
        Invalid: `cursor` is none of ours.
    """
    wanted = _from_cursor(rows, key, limit=limit, cursor=cursor)
    return _cut(list(opened.scalars(wanted).unique()), key, limit)


def columns_of_page(
    opened: Session, columns: Select[Any], key: InstrumentedAttribute[Any], *, limit: int, cursor: str | None
) -> tuple[Sequence[SqlRow[Any]], str | None]:
    """As `rows_of_page`, of some columns, of which `key` is one: no objects are made of them.

    Raises:
        Invalid: `cursor` is none of ours.
    """
    return _cut(opened.execute(_from_cursor(columns, key, limit=limit, cursor=cursor)).all(), key, limit)


def _from_cursor(
    rows: Select[Row], key: InstrumentedAttribute[Any], *, limit: int, cursor: str | None
) -> Select[Row]:
    """One more than the page holds, to see whether there is a next."""
    if cursor is not None:
        rows = rows.where(_before(key, cursor))
    return rows.order_by(key.desc()).limit(limit + 1)


def _cut(
    found: Sequence[Row], key: InstrumentedAttribute[Any], limit: int
) -> tuple[Sequence[Row], str | None]:
    more = len(found) > limit
    found = found[:limit]
    return found, _encode(getattr(found[-1], key.key)) if more else None


def _encode(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(str(value)).encode()).decode().rstrip("=")


def _before(key: InstrumentedAttribute[Any], cursor: str) -> ColumnElement[bool]:
    try:
        text = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        value = key.type.python_type(str(text))
    except (binascii.Error, ValueError, TypeError, UnicodeDecodeError):
        raise Invalid(
            f"cursor {cursor[:40]!r} is none of ours: use next_cursor as it came", param="cursor"
        ) from None
    before: ColumnElement[bool] = key < value
    return before
