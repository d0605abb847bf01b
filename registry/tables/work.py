"""Work: pipelines, the jobs they are made of, and the events that jobs write as they go."""

from __future__ import annotations

import datetime as dt
import enum
import uuid

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Identity,
    Index,
    String,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from raymill.registry.tables.base import Base, CreatedAt, Id, JsonObject, Name, enum_type


class JobState(enum.StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DEAD = "dead"

    @property
    def terminal(self) -> bool:
        return self in {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.DEAD}


class Pipeline(Base):
    """A recipe that someone asked to run. Its state follows its jobs'."""

    __tablename__ = "pipeline"

    id: Mapped[Id]
    name: Mapped[Name]
    recipe: Mapped[JsonObject]  # resolved
    state: Mapped[JobState] = mapped_column(enum_type(JobState), default=JobState.RUNNING)
    error: Mapped[str | None] = mapped_column(Text)
    created_by: Mapped[str] = mapped_column(String(64))
    idempotency_key: Mapped[str | None] = mapped_column(String(200), unique=True)
    request_hash: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[CreatedAt]
    finished_at: Mapped[dt.datetime | None]


class Job(Base):
    """One step of work. A row is never deleted, and reaches one terminal state, once.

    Every write after the claim says `WHERE id = ? AND epoch = ? AND state = 'running'`: a worker whose lease
    was lost cannot finish a job that someone else now owns.
    """

    __tablename__ = "job"
    __table_args__ = (
        CheckConstraint("epoch >= 0 AND attempt >= 0 AND waiting_on >= 0", name="counters_not_negative"),
        CheckConstraint("(state = 'running') = (lease_until IS NOT NULL)", name="lease_while_running"),
        Index(
            "job_ready_idx",
            "queue",
            text("priority DESC"),
            "run_at",
            "id",
            postgresql_where=text("state = 'queued' AND waiting_on = 0"),
        ),
        Index("job_leased_idx", "lease_until", postgresql_where=text("state = 'running'")),
        Index("job_depends_on_idx", "depends_on", postgresql_using="gin"),
        Index("job_address_idx", "address", postgresql_where=text("state = 'succeeded'")),
        Index(
            "job_concurrency_idx", "concurrency_key", unique=True, postgresql_where=text("state = 'running'")
        ),
    )

    id: Mapped[Id]
    pipeline_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("pipeline.id"), index=True)
    step: Mapped[Name]
    kind: Mapped[Name]
    queue: Mapped[Name]
    name: Mapped[Name]  # of the model that the pipeline is about
    config: Mapped[JsonObject]  # resolved
    state: Mapped[JobState] = mapped_column(enum_type(JobState), default=JobState.QUEUED)
    epoch: Mapped[int] = mapped_column(default=0)
    attempt: Mapped[int] = mapped_column(default=0)
    max_attempts: Mapped[int] = mapped_column(default=3)
    priority: Mapped[int] = mapped_column(default=0)
    run_at: Mapped[CreatedAt]
    lease_until: Mapped[dt.datetime | None]
    worker: Mapped[str | None] = mapped_column(String(200))
    concurrency_key: Mapped[str | None] = mapped_column(String(200))
    cancel_requested_at: Mapped[dt.datetime | None]
    depends_on: Mapped[list[uuid.UUID]] = mapped_column(ARRAY(Uuid), default=list)
    waiting_on: Mapped[int] = mapped_column(default=0)  # parents that have not succeeded yet
    address: Mapped[str | None] = mapped_column(String(12))  # known once every parent has succeeded
    reused_job_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("job.id"))
    result: Mapped[JsonObject | None]
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[CreatedAt]
    started_at: Mapped[dt.datetime | None]
    finished_at: Mapped[dt.datetime | None]


class JobEvent(Base):
    """Something a job said. Ids count up within a job as they commit; `Last-Event-ID` resumes after one."""

    __tablename__ = "job_event"
    __table_args__ = (
        Index("job_event_pipeline_id_id_idx", "pipeline_id", "id"),
        Index("job_event_job_id_id_idx", "job_id", "id"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    pipeline_id: Mapped[uuid.UUID]
    job_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("job.id"))
    kind: Mapped[str] = mapped_column(String(32))
    data: Mapped[JsonObject]
    at: Mapped[CreatedAt]
