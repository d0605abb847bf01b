"""What is watched for drift, and what each look found."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

from sqlalchemy import ForeignKey, Index, String, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from raymill.registry.tables.base import Base, CreatedAt, Id, JsonObject


class DriftWatch(Base):
    """Looks for drift of a served model or of what a route is asked, on a schedule."""

    __tablename__ = "drift_watch"
    __table_args__ = (
        Index("drift_watch_due_idx", "next_at", postgresql_where=text("next_at IS NOT NULL AND enabled")),
    )

    id: Mapped[Id]
    name: Mapped[str] = mapped_column(String(64), unique=True)
    config: Mapped[JsonObject]  # a DriftConfig
    enabled: Mapped[bool] = mapped_column(default=True)
    next_at: Mapped[dt.datetime | None]
    last_job_id: Mapped[uuid.UUID | None]  # of the newest look, also of one that failed
    created_by: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[CreatedAt]


class DriftRun(Base):
    """What one look found. Written with its job's end, never changed; it goes with its watch."""

    __tablename__ = "drift_run"
    __table_args__ = (
        Index("drift_run_watch_id_idx", "watch_id", "id"),
        Index("drift_run_found_idx", "id", postgresql_where=text("severity <> 'none'")),
    )

    id: Mapped[Id]
    watch_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("drift_watch.id", ondelete="CASCADE"))
    job_id: Mapped[uuid.UUID] = mapped_column(unique=True)
    severity: Mapped[str] = mapped_column(String(16))  # none, minor, major
    news: Mapped[bool]  # worse than the look before: triggers were told, and what is configured was done
    action: Mapped[str] = mapped_column(String(16))  # tell, freeze, rollback; empty: none
    reasons: Mapped[list[str]] = mapped_column(JSONB)
    version: Mapped[int | None]  # of the target, when it was asked
    canary: Mapped[JsonObject | None]
    traffic: Mapped[JsonObject | None]
    baseline: Mapped[bool]  # later canary scores are held against these
    scores: Mapped[list[Any] | None] = mapped_column(JSONB)  # [hash of the row, score] of each canary
    promotion_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("promotion.id")
    )  # whose canary was looked at
    at: Mapped[CreatedAt]
