"""Trials of searches: written by the attempt that runs the search, read by everybody.

A trial is a row of its own from its start, so a search whose driver died goes on from what stands here.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from raymill.policies.errors import NotFound
from raymill.registry.jobs import owned
from raymill.registry.tables import Job, JsonObject, Trial, TrialState

KIND = "tune"
"""Kind of the jobs that have trials."""


@dataclass(kw_only=True)
class TrialRecord:
    """What is known of one trial; the columns of its row."""

    number: int
    config: JsonObject
    state: TrialState = TrialState.RUNNING
    steps: int = 0
    total_steps: int = 0
    metric: float | None = None
    reports: list[JsonObject] = field(default_factory=list)
    copies: list[JsonObject] = field(default_factory=list)
    seconds: float = 0.0
    checkpoint: str | None = None
    error: str | None = None


class Tally(NamedTuple):
    """How far a search is."""

    trials: int
    over: int
    steps: int
    """Of all trials together."""


def save(session: Session, job_id: uuid.UUID, epoch: int, record: TrialRecord) -> None:
    """Write a trial as it is now.

    Raises:
        LeaseLost: `epoch` owns the job no longer.
    """
    owned(session, job_id, epoch)
    values = asdict(record)
    changed = {key: value for key, value in values.items() if key != "number"}
    session.execute(
        insert(Trial)
        .values(job_id=job_id, **values)
        .on_conflict_do_update(
            index_elements=["job_id", "number"], set_={**changed, "updated_at": func.clock_timestamp()}
        )
    )


def load(session: Session, job_id: uuid.UUID) -> list[TrialRecord]:
    """The trials of a job, by number."""
    names = TrialRecord.__dataclass_fields__
    return [TrialRecord(**{name: getattr(row, name) for name in names}) for row in rows(session, job_id)]


def rows(session: Session, job_id: uuid.UUID) -> Sequence[Trial]:
    return session.scalars(select(Trial).where(Trial.job_id == job_id).order_by(Trial.number)).all()


def tallies(session: Session, job_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, Tally]:
    """How far each search is; one without trials is left out."""
    over = func.count().filter(Trial.state != TrialState.RUNNING)
    counted = (
        select(Trial.job_id, func.count(), over, func.sum(Trial.steps))
        .where(Trial.job_id.in_(job_ids))
        .group_by(Trial.job_id)
    )
    return {job_id: Tally(trials, done, steps) for job_id, trials, done, steps in session.execute(counted)}


def find_search(session: Session, job_or_pipeline: uuid.UUID) -> Job:
    """The job of a search, by its own id or its pipeline's.

    Raises:
        NotFound: neither is there, or it holds no search.
    """
    found = session.scalar(
        select(Job)
        .where(Job.kind == KIND, (Job.id == job_or_pipeline) | (Job.pipeline_id == job_or_pipeline))
        .order_by(Job.id.desc())
        .limit(1)
    )
    if found is None:
        raise NotFound(f"no search {job_or_pipeline}: `raymill tune list` shows the ones there are")
    return found


def trials_of(session: Session, job: Job) -> Sequence[Trial]:
    """Of the job itself, or of the one whose result it took over."""
    return rows(session, job.reused_job_id or job.id)
