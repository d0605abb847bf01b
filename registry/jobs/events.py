"""What jobs say, and waking who waits for it."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Protocol

from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session

from raymill.registry.tables import Job, JobEvent, JobState, JsonObject

PROGRESS = frozenset({"step", "progress", "checkpoint", "phase"})
"""Events that show that an attempt got somewhere."""


# Who listens is told at commit, so that it makes no difference when this is said.
LOCK_AND_NOTIFY = text("""
SELECT pg_advisory_xact_lock(hashtextextended(:stream, 1)), pg_notify('raymill_event', :stream)
""")


class Told(Protocol):
    """A job as far as its events need to know it."""

    @property
    def id(self) -> uuid.UUID: ...
    @property
    def pipeline_id(self) -> uuid.UUID | None: ...
    @property
    def epoch(self) -> int: ...


def add_events(session: Session, job: Told, events: Iterable[tuple[str, JsonObject]]) -> None:
    """Append events. Ids are given under a lock held until commit, so that a reader of the stream that has
    seen id N never meets a smaller one later."""
    stream = job.pipeline_id or job.id
    session.execute(LOCK_AND_NOTIFY, {"stream": str(stream)})
    rows = [
        JobEvent(pipeline_id=job.pipeline_id, job_id=job.id, kind=kind, data=data) for kind, data in events
    ]
    session.add_all(rows)
    session.flush()
    if any(row.kind in PROGRESS for row in rows):
        session.execute(
            update(Job)
            .where(Job.id == job.id, Job.epoch == job.epoch, Job.progress_epoch < job.epoch)
            .where(Job.state == JobState.RUNNING)
            .values(progress_epoch=job.epoch)
            .execution_options(synchronize_session=False)
        )


def tell_state(session: Session, job: Job) -> None:
    """An event of the state that the job is in now.

    A job that stands alone tells only of what is out of the ordinary: its row has the rest, and there may be
    very many of them.
    """
    if job.pipeline_id is None and job.state in {JobState.SUCCEEDED, JobState.RUNNING}:
        return
    data: JsonObject = {"state": job.state.value, "attempt": job.attempt, "step": job.step}
    if job.error and job.state is not JobState.SUCCEEDED:
        data["error"] = job.error
    if job.reused_job_id:
        data["reused"] = True
    add_events(session, job, [("state", data)])


def notify(session: Session, channel: str, payload: str = "") -> None:
    """Wake who listens; it is told at commit. Only wakes: polling is the floor."""
    session.execute(select(func.pg_notify(channel, payload)))
