"""Work: queues, pipelines and the jobs they are made of, and the events that jobs write as they go."""

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
    PrimaryKeyConstraint,
    SmallInteger,
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


class OnParentFailure(enum.StrEnum):
    """What becomes of a step whose parent ended badly."""

    SKIP = "skip"  # cancelled
    FAIL = "fail"
    RUN = "run"  # runs all the same, without that parent's result


class Queue(Base):
    """Where jobs wait. Its limits hold over all workers of the cluster."""

    __tablename__ = "queue"
    __table_args__ = (
        CheckConstraint("max_running IS NULL OR max_running >= 1", name="max_running_positive"),
    )

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    runner: Mapped[str] = mapped_column(String(16))
    """heavy: a Ray job for each job. short: the warm pool."""

    max_running: Mapped[int | None]
    paused_at: Mapped[dt.datetime | None]
    created_at: Mapped[CreatedAt]


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
    trigger_id: Mapped[uuid.UUID | None]  # what started it, when nobody did
    created_at: Mapped[CreatedAt]
    finished_at: Mapped[dt.datetime | None]


class Job(Base):
    """One piece of work: a step of a pipeline, or one that stands alone. It reaches one terminal state, once.

    Every write after the claim says `WHERE id = ? AND epoch = ? AND state = 'running'`: a worker whose lease
    was lost cannot finish a job that someone else now owns.
    """

    __tablename__ = "job"
    __table_args__ = (
        # Few and short: Postgres parses each CHECK anew for every statement. Lists of states and counters that are not
        # negative cost a claim 15 %.
        CheckConstraint("priority BETWEEN 0 AND 3", name="priority_known"),
        CheckConstraint(
            "(state = 'running') = (lease_until IS NOT NULL) AND (slot IS NULL OR state = 'running')",
            name="held_while_running",
        ),
        Index(
            "job_ready_idx",
            "queue",
            "priority",
            "run_at",
            "id",
            postgresql_where=text("state = 'queued' AND waiting_on = 0"),
        ),
        Index("job_leased_idx", "lease_until", postgresql_where=text("state = 'running'")),
        Index(
            "job_depends_on_idx",
            "depends_on",
            postgresql_using="gin",
            postgresql_where=text("waiting_on > 0"),
        ),
        Index(
            "job_address_idx", "address", postgresql_where=text("state = 'succeeded' AND address IS NOT NULL")
        ),
        # One running job for each slot of a concurrency key: the index itself forbids one too many.
        Index(
            "job_concurrency_idx",
            "concurrency_key",
            "slot",
            unique=True,
            postgresql_where=text("state = 'running' AND concurrency_key IS NOT NULL"),
        ),
        Index(
            "job_unique_idx",
            "unique_key",
            unique=True,
            postgresql_where=text("unique_key IS NOT NULL AND state IN ('queued', 'running', 'paused')"),
        ),
        Index(
            "job_idempotency_idx",
            "idempotency_key",
            unique=True,
            postgresql_where=text("idempotency_key IS NOT NULL"),
        ),
        # What the foreign key asks when a job is moved to the history: without it each would read the whole table.
        Index("job_reused_idx", "reused_job_id", postgresql_where=text("reused_job_id IS NOT NULL")),
        Index("job_pipeline_id_idx", "pipeline_id", postgresql_where=text("pipeline_id IS NOT NULL")),
        # What makes claims of a queue look at quotas and accelerators at all.
        Index(
            "job_team_ready_idx",
            "team_id",
            "queue",
            postgresql_where=text("state = 'queued' AND waiting_on = 0 AND team_id IS NOT NULL"),
        ),
        Index(
            "job_placed_ready_idx",
            "queue",
            postgresql_where=text("state = 'queued' AND waiting_on = 0 AND accelerator IS NOT NULL"),
        ),
        Index(
            "job_attention_idx", "state", "id", postgresql_where=text("state IN ('dead', 'failed', 'paused')")
        ),
    )

    id: Mapped[Id]
    pipeline_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("pipeline.id"))
    step: Mapped[Name]  # of the pipeline; a job that stands alone has its kind here
    kind: Mapped[Name]
    queue: Mapped[Name]
    name: Mapped[Name]  # of what it is about, such as the pipeline's model
    config: Mapped[JsonObject]  # resolved
    state: Mapped[JobState] = mapped_column(
        enum_type(JobState, checked=False), default=JobState.QUEUED, server_default=JobState.QUEUED.value
    )
    epoch: Mapped[int] = mapped_column(default=0, server_default="0")
    attempt: Mapped[int] = mapped_column(default=0, server_default="0")  # claims so far
    failures: Mapped[JsonObject] = mapped_column(
        default=dict, server_default="{}"
    )  # error class -> how often
    max_attempts: Mapped[int] = mapped_column(default=3, server_default="3")
    losses: Mapped[int] = mapped_column(
        default=0, server_default="0"
    )  # workers lost in a row without progress
    progress_epoch: Mapped[int] = mapped_column(default=0, server_default="0")  # the last that reported any
    priority: Mapped[int] = mapped_column(SmallInteger, default=1, server_default="1")
    run_at: Mapped[CreatedAt]
    lease_until: Mapped[dt.datetime | None]
    worker: Mapped[str | None] = mapped_column(String(200))
    concurrency_key: Mapped[str | None] = mapped_column(String(200))
    concurrency_limit: Mapped[int] = mapped_column(default=1, server_default="1")
    slot: Mapped[int | None]
    unique_key: Mapped[str | None] = mapped_column(String(200))  # one job of it that has not ended
    idempotency_key: Mapped[str | None] = mapped_column(String(200))
    request_hash: Mapped[str | None] = mapped_column(String(64))
    team_id: Mapped[
        uuid.UUID | None
    ]  # of whoever submitted it, as it was then; whose quota it counts against
    gpus: Mapped[int] = mapped_column(default=0, server_default="0")
    cpus: Mapped[int] = mapped_column(default=1, server_default="1")  # that it asks of Ray
    accelerator: Mapped[str | None] = mapped_column(String(64))
    """The type that its GPUs must be of, or `any`: it is claimed once so many are free. None: it waits for none."""

    cancel_requested_at: Mapped[dt.datetime | None]
    pause_requested_at: Mapped[dt.datetime | None]
    depends_on: Mapped[list[uuid.UUID]] = mapped_column(ARRAY(Uuid), default=list, server_default="{}")
    waiting_on: Mapped[int] = mapped_column(
        default=0, server_default="0"
    )  # parents that have not ended well yet
    on_parent_failure: Mapped[OnParentFailure] = mapped_column(
        enum_type(OnParentFailure, checked=False),
        default=OnParentFailure.SKIP,
        server_default=OnParentFailure.SKIP.value,
    )
    ended_by: Mapped[uuid.UUID | None]  # the parent whose bad end was this one's
    address: Mapped[str | None] = mapped_column(String(12))  # known once every parent has succeeded
    reused_job_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("job.id"))
    result: Mapped[JsonObject | None]
    error: Mapped[str | None] = mapped_column(Text)
    last_log: Mapped[str | None] = mapped_column(Text)  # of a poisonous job's last attempt
    created_at: Mapped[CreatedAt]
    started_at: Mapped[dt.datetime | None]
    finished_at: Mapped[dt.datetime | None]


class JobEvent(Base):
    """Something a job said. Ids count up within a pipeline (or a job that stands alone) as they commit;
    `Last-Event-ID` resumes after one."""

    __tablename__ = "job_event"
    __table_args__ = (
        Index(
            "job_event_pipeline_id_id_idx",
            "pipeline_id",
            "id",
            postgresql_where=text("pipeline_id IS NOT NULL"),
        ),
        Index("job_event_job_id_id_idx", "job_id", "id"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    pipeline_id: Mapped[uuid.UUID | None]
    job_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("job.id"))
    kind: Mapped[str] = mapped_column(String(32))
    data: Mapped[JsonObject]
    at: Mapped[CreatedAt]


class JobHistory(Base):
    """Finished jobs that stood alone, with their events, moved here after a while: one partition for each month."""

    __tablename__ = "job_history"
    __table_args__ = (
        PrimaryKeyConstraint("id", "finished_at"),
        {"postgresql_partition_by": "RANGE (finished_at)"},
    )

    id: Mapped[uuid.UUID]
    finished_at: Mapped[dt.datetime]
    kind: Mapped[Name]
    queue: Mapped[Name]
    state: Mapped[JobState] = mapped_column(enum_type(JobState))
    job: Mapped[JsonObject]
    """The whole row, as it was."""

    events: Mapped[list[JsonObject]]
