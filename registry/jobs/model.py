"""What the job engine's functions take and give."""

from __future__ import annotations

import datetime as dt
import enum
import hashlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlalchemy.orm import Session

from raymill.policies.errors import RaymillError
from raymill.registry.artifacts import canonical_json
from raymill.registry.tables import Job, JobState, JsonObject, OnParentFailure, new_id

Effects = Callable[[Session, Job, JsonObject], None]
"""Writes the registry rows that a result means, such as a version. May add to the result."""

LEASE_S = 30.0
"""A worker that has not been heard of for this long has lost its job."""

MAX_LOSSES = 3
"""A job that loses so many workers in a row without any progress is taken for what kills them."""


class Priority(enum.IntEnum):
    """Of a job in its queue. Few, so that a claim can look at each of them."""

    LOW = 0
    NORMAL = 1
    HIGH = 2
    URGENT = 3


class ErrorClass(enum.StrEnum):
    """Why an attempt ended badly, which decides whether and when another one follows."""

    INPUT = "input"  # the input is wrong: no retry helps
    TRANSIENT = "transient"  # a database, network or provider was away
    RESOURCE = "resource"  # memory or disk ran out
    UNEXPECTED = "unexpected"  # whatever else was raised


class LeaseLost(RaymillError):
    """The job belongs to someone else now, was cancelled, or has ended. Stop; write nothing."""

    code = "lease_lost"


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    """What a job asks of the cluster while it runs."""

    gpus: int = 0
    cpus: int = 1
    """That it asks of Ray."""

    accelerator: str | None = None
    """The type that its GPUs must be of, or `any`: it is claimed once so many are free. None: it waits for none."""


NOTHING = Needs()


@dataclass(frozen=True, kw_only=True)
class StepSpec:
    """One job of a pipeline that is to be made."""

    step: str
    kind: str
    queue: str
    config: JsonObject
    depends_on: tuple[str, ...] = ()
    max_attempts: int = 3
    priority: int = Priority.NORMAL
    on_parent_failure: OnParentFailure = OnParentFailure.SKIP
    needs: Needs = NOTHING


@dataclass(frozen=True, kw_only=True, slots=True)
class JobSpec:
    """One job that stands alone and is to be made. Its id is chosen here, so that it can be sent twice."""

    kind: str
    queue: str = "short"
    name: str = ""
    config: JsonObject = field(default_factory=dict)
    id: uuid.UUID = field(default_factory=new_id)
    priority: int = Priority.NORMAL
    run_at: dt.datetime | None = None
    """Not before; None: at once."""

    max_attempts: int = 3
    concurrency_key: str | None = None
    concurrency_limit: int = 1
    """How many jobs of the key run at once."""

    unique_key: str | None = None
    """While a job of it has not ended, another one is that one."""

    idempotency_key: str | None = None
    """A job of it is that one, also after it ended."""

    team_id: uuid.UUID | None = None
    """Whose quota it counts against."""

    needs: Needs = NOTHING

    def group(self) -> tuple[object, ...]:
        """Alike for jobs that differ in id, config and keys alone."""
        return (
            self.kind,
            self.queue,
            self.name,
            self.priority,
            self.run_at,
            self.max_attempts,
            self.concurrency_key,
            self.concurrency_limit,
            self.team_id,
            self.needs,
        )

    def request_hash(self) -> str:
        """Of what was asked for, whatever id it got."""
        asked = {
            "kind": self.kind,
            "queue": self.queue,
            "name": self.name,
            "config": self.config,
            "priority": int(self.priority),
            "run_at": self.run_at.astimezone(dt.UTC).isoformat() if self.run_at else None,
            "max_attempts": self.max_attempts,
            "concurrency": [self.concurrency_key, self.concurrency_limit],
            "unique_key": self.unique_key,
        }
        return hashlib.sha256(canonical_json(asked)).hexdigest()


class Claimed(NamedTuple):
    """A running job as its worker has it."""

    id: uuid.UUID
    epoch: int
    pipeline_id: uuid.UUID | None
    step: str
    kind: str
    queue: str
    name: str
    config: JsonObject
    attempt: int
    max_attempts: int
    address: str | None
    concurrency_key: str | None
    created_at: dt.datetime
    priority: int
    run_at: dt.datetime

    @property
    def state(self) -> JobState:
        return JobState.RUNNING


class Beat(NamedTuple):
    """Answer to a heartbeat."""

    owned: bool
    cancel: bool = False
    pause: bool = False


class Done(NamedTuple):
    """The good end of a job that stands alone and has no effects."""

    id: uuid.UUID
    epoch: int
    result: JsonObject
