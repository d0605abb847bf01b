"""The wire types of job control: what is submitted, redriven and paused, and how queues are doing.

Times are ISO 8601 with a time zone; durations are seconds.
"""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

from raymill.client.types import JsonObject, Wire

BadEnd = Literal["dead", "failed", "cancelled"]
Runner = Literal["heavy", "short"]

PRIORITIES = {"low": 0, "normal": 1, "high": 2, "urgent": 3}
NAME = r"^[a-z0-9][a-z0-9._-]{0,63}$"
REDRIVE_LIMIT = 10_000


def _priority(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value not in PRIORITIES:
        raise ValueError(f"must be one of {', '.join(PRIORITIES)}, or 0 to 3, got {value!r}")
    return PRIORITIES[value]


class Body(BaseModel):
    """What is sent: a key that does not exist is an error."""

    model_config = ConfigDict(extra="forbid")


class JobRequest(Body):
    """Body of `POST /api/v1/jobs`: a job that stands alone."""

    kind: str = Field(min_length=1, max_length=64)
    name: str = Field(default="", max_length=64)
    """Of what it is about; the kind by default."""
    config: JsonObject = Field(default_factory=dict)
    queue: str | None = Field(default=None, min_length=1, max_length=64)
    """The kind's own by default."""
    priority: Annotated[int, BeforeValidator(_priority), Field(ge=0, le=3)] = 1
    """low, normal, high or urgent; or 0 to 3."""
    run_at: AwareDatetime | None = None
    """Not before; at once by default."""
    max_attempts: int = Field(default=3, ge=1, le=100)
    concurrency_key: str | None = Field(default=None, min_length=1, max_length=200)
    concurrency_limit: int = Field(default=1, ge=1, le=10_000)
    """How many jobs of the key run at once."""
    unique_key: str | None = Field(default=None, min_length=1, max_length=200)
    """While a job of it has not ended, another one is that one."""


class Redrive(Body):
    """Body of `POST /api/v1/jobs/redrive`: which of the jobs that ended badly run again, oldest first."""

    states: list[BadEnd] = Field(default=["dead"], min_length=1)
    queue: str | None = None
    kind: str | None = None
    error: str | None = Field(default=None, min_length=1, max_length=500)
    """Only those whose error holds this text."""
    limit: int = Field(default=1000, ge=1, le=REDRIVE_LIMIT)


class Redriven(Wire):
    """What `POST /api/v1/jobs/redrive` did."""

    ids: list[uuid.UUID]
    """Of the jobs that run again."""


class Queue(Wire):
    """Where jobs wait. Its limits hold over all workers of the cluster."""

    name: str
    runner: Runner
    """heavy: a Ray job for each job. short: the warm pool."""
    max_running: int | None
    """Null: as many as there are workers for."""
    paused_at: dt.datetime | None
    """Nothing of it is started since."""
    created_at: dt.datetime


class QueueSettings(Body):
    """Body of `PUT /api/v1/queues/{name}`."""

    runner: Runner | None = None
    """That of the queue that is there, which stays as it is; short for a new one."""
    max_running: int | None = Field(default=None, ge=1, le=1_000_000)
    """How many of its jobs run at once over all workers; null: as many as there are workers for."""


class QueueStats(Wire):
    """One queue as it is now."""

    queue: str
    runner: Runner
    max_running: int | None
    paused_at: dt.datetime | None
    ready: int
    """May start now."""
    scheduled: int
    """Due later: submitted so, or between two tries."""
    waiting: int
    """Steps whose parents have not ended."""
    running: int
    paused: int
    failed_last_day: int
    """Failed or died in the last 24 hours."""
    dead: int
    """All dead letters."""
    oldest_ready_s: float | None
    """How long the oldest that may start has waited."""
    finished_last_hour: int
    """Among the newest 100,000 jobs of the last day."""
    start_p50_s: float | None
    """From when a job could start until it did, in the last hour; null when none did."""
    start_p99_s: float | None


class JobStats(Wire):
    """`GET /api/v1/jobs/stats`."""

    at: dt.datetime
    queues: list[QueueStats]
    """By name."""
