"""What starts pipelines, and what follows from the end of jobs."""

from __future__ import annotations

import datetime as dt
import uuid

from sqlalchemy import BigInteger, Identity, Index, String, Text, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from raymill.registry.tables.base import Base, CreatedAt, Id, JsonObject


class Trigger(Base):
    """Starts a pipeline when something happens."""

    __tablename__ = "trigger"
    __table_args__ = (
        Index("trigger_due_idx", "next_at", postgresql_where=text("next_at IS NOT NULL AND enabled")),
    )

    id: Mapped[Id]
    name: Mapped[str] = mapped_column(String(64), unique=True)
    on: Mapped[str] = mapped_column(String(16))  # cron, webhook, dataset, drift, promotion
    config: Mapped[JsonObject]  # of `on`: schedule and time zone, name to watch
    recipe: Mapped[JsonObject]
    recipe_dir: Mapped[str | None] = mapped_column(Text)  # what the recipe's paths are relative to
    enabled: Mapped[bool] = mapped_column(default=True)
    secret: Mapped[bytes | None]  # of a webhook, enveloped
    next_at: Mapped[dt.datetime | None]
    last_fired_at: Mapped[dt.datetime | None]
    last_pipeline_id: Mapped[uuid.UUID | None]
    last_error: Mapped[str | None] = mapped_column(Text)
    created_by: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[CreatedAt]


class TriggerEvent(Base):
    """Something that may start pipelines, written in the transaction in which it happened; taken once."""

    __tablename__ = "trigger_event"
    __table_args__ = (Index("trigger_event_open_idx", "id", postgresql_where=text("taken_at IS NULL")),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    on: Mapped[str] = mapped_column(String(16))
    subject: Mapped[str] = mapped_column(String(200))  # data set, model or trigger that it is about
    key: Mapped[str] = mapped_column(
        String(200), unique=True
    )  # the same thing told twice starts one pipeline
    data: Mapped[JsonObject]
    at: Mapped[CreatedAt]
    taken_at: Mapped[dt.datetime | None]


class Hook(Base):
    """An action that follows the end of jobs or pipelines: a webhook out, a promotion, a roll back."""

    __tablename__ = "hook"

    id: Mapped[Id]
    name: Mapped[str] = mapped_column(String(64), unique=True)
    on: Mapped[list[str]] = mapped_column(ARRAY(String(32)))  # job.failed, pipeline.succeeded...
    subject: Mapped[str | None] = mapped_column(String(64))  # only of this model; null: of all
    action: Mapped[str] = mapped_column(String(16))  # webhook, promote, rollback
    config: Mapped[JsonObject]
    secret: Mapped[bytes | None]  # signs what a webhook sends; enveloped
    enabled: Mapped[bool] = mapped_column(default=True)
    created_by: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[CreatedAt]
