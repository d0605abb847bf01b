"""Files that clients send, until something is made of them."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import BigInteger, CheckConstraint, Index, String, func, text
from sqlalchemy.orm import Mapped, mapped_column

from raymill.registry.tables.base import Base, CreatedAt, Digest, Id


class Upload(Base):
    """A file on its way in. How much of it has arrived is the length of the file on disk, which no row repeats."""

    __tablename__ = "upload"
    __table_args__ = (
        CheckConstraint("size_bytes > 0", name="size_positive"),
        Index("upload_open_idx", "sha256", postgresql_where=text("completed_at IS NULL")),
    )

    id: Mapped[Id]
    name: Mapped[str] = mapped_column(String(200))  # of the file, without its folder
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[Digest]  # announced; compared once all of it is there
    created_by: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[CreatedAt]
    touched_at: Mapped[dt.datetime] = mapped_column(server_default=func.clock_timestamp())
    """When bytes last came; an unfinished one is thrown away a day later."""

    completed_at: Mapped[dt.datetime | None]
