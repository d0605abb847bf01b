"""What all tables share: the declarative base, ids that sort by time, and column types.

Times are `timestamptz`; sizes are bytes; digests are sha256 in hex.
"""

from __future__ import annotations

import datetime as dt
import enum
import os
import threading
import time
import uuid
from typing import Annotated, Any

from sqlalchemy import DateTime, Enum, MetaData, String, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, mapped_column

JsonObject = dict[str, Any]


_last_id = 0
_last_id_lock = threading.Lock()


def new_id() -> uuid.UUID:
    """A UUID version 7 (RFC 9562): its first 48 bits are milliseconds, so ids sort by creation.

    Within one process each id is greater than the one before, also within a millisecond (section 6.2, method 2).
    """
    global _last_id  # noqa: PLW0603 (the counter that the method asks for)
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds & ((1 << 48) - 1)) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    with _last_id_lock:
        if value <= _last_id:
            value = _last_id + 1
        _last_id = value
    return uuid.UUID(int=value)


def first_id_at(moment: dt.datetime) -> uuid.UUID:
    """Not above any id that `new_id` gives at `moment` or later."""
    return uuid.UUID(int=(int(moment.timestamp() * 1000) & ((1 << 48) - 1)) << 80)


class Base(DeclarativeBase):
    """Every constraint gets a name, so that a migration can drop it."""

    metadata = MetaData(
        naming_convention={
            "ix": "%(table_name)s_%(column_0_N_name)s_idx",
            "uq": "%(table_name)s_%(column_0_N_name)s_key",
            "ck": "%(table_name)s_%(constraint_name)s_check",
            "fk": "%(table_name)s_%(column_0_name)s_fkey",
            "pk": "%(table_name)s_pkey",
        }
    )
    type_annotation_map = {  # noqa: RUF012 (SQLAlchemy reads it as a class attribute)
        JsonObject: JSONB,
        list[JsonObject]: JSONB,
        dt.datetime: DateTime(timezone=True),
    }


Id = Annotated[uuid.UUID, mapped_column(primary_key=True, default=new_id)]
CreatedAt = Annotated[dt.datetime, mapped_column(server_default=func.clock_timestamp())]
Name = Annotated[str, mapped_column(String(64))]
Digest = Annotated[str, mapped_column(String(64))]


def enum_type(members: type[enum.StrEnum], *, checked: bool = True) -> Enum:
    """Kept as the member's value in a varchar, with a CHECK; a native enum is hard to migrate.

    Args:
        checked: False leaves the CHECK out, in a table where each would cost a statement too much time.
    """
    return Enum(
        members,
        native_enum=False,
        create_constraint=checked,
        length=16,
        values_callable=lambda cls: [member.value for member in cls],
    )
