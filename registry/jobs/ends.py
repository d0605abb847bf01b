"""How attempts end, and what follows: effects, children, the pipeline, another attempt.

Each asks for the epoch of the claim, under the row's lock: whoever lost the lease changes nothing.
Locks are taken on jobs before their pipeline, and on parents before children.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sqlalchemy import select, text, update
from sqlalchemy.orm import Session

from raymill.policies.errors import Conflict
from raymill.registry import hooks
from raymill.registry.artifacts import Published
from raymill.registry.jobs.events import notify, tell_state
from raymill.registry.jobs.model import MAX_LOSSES, Effects, ErrorClass, LeaseLost
from raymill.registry.jobs.submit import make_ready
from raymill.registry.tables import Artifact, Job, JobState, JsonObject, OnParentFailure, Pipeline

# Jobs whose worker went silent. None is older than `since`, but for those that a full look finds.
EXPIRED = text("""
SELECT id FROM job WHERE state = 'running' AND lease_until < statement_timestamp() AND lease_until >= :since
ORDER BY lease_until LIMIT :limit FOR UPDATE SKIP LOCKED
""")

# A parent has ended: its children wait for one less. Returns those that wait for nothing now.
RELEASE = text("""
UPDATE job SET waiting_on = waiting_on - 1
WHERE depends_on @> ARRAY[CAST(:id AS uuid)] AND state IN ('queued', 'paused') AND waiting_on > 0
  AND (CAST(:only AS text) IS NULL OR on_parent_failure = :only)
RETURNING id, waiting_on
""")

# Whether a pipeline has jobs that have not ended.
OPEN = text("""
SELECT EXISTS (
    SELECT FROM job WHERE pipeline_id = :id AND state NOT IN ('succeeded', 'failed', 'cancelled', 'dead'))
""")

# By the database's clock, which the claim compares with.
RETRY_AT = text(
    "SELECT clock_timestamp() + :least_s * interval '1 second' + random() * make_interval(secs => :most_s)"
)


@dataclass(frozen=True, kw_only=True)
class Retry:
    """When an attempt that ended with an error of some class is followed by another one."""

    tries: int | None
    """In all, None: the job's `max_attempts`."""

    base_s: float = 1.0
    """Full jitter (Brooker 2015): between 0 and `base_s` * 2^n seconds after the n-th, at most `most_s`."""

    most_s: float = 300.0
    least_s: float = 0.0


RETRIES: dict[ErrorClass, Retry] = {
    ErrorClass.INPUT: Retry(tries=1),
    ErrorClass.TRANSIENT: Retry(tries=12, base_s=2.0),
    ErrorClass.RESOURCE: Retry(tries=2, base_s=15.0, least_s=5.0),
    ErrorClass.UNEXPECTED: Retry(tries=None),
}

LONG_AGO = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
SWEEP_LIMIT = 100


def owned(session: Session, job_id: uuid.UUID, epoch: int) -> Job:
    """The running job, locked, if `epoch` still owns it.

    Raises:
        LeaseLost: it does not.
    """
    return _owned(session.get(Job, job_id, with_for_update=True, populate_existing=True), job_id, epoch)


def _owned(job: Job | None, job_id: uuid.UUID, epoch: int) -> Job:
    if job is None or job.epoch != epoch or job.state is not JobState.RUNNING:
        raise LeaseLost(f"job {job_id} is not ours any more at epoch {epoch}: another attempt owns it")
    return job


def succeed(
    session: Session,
    job_id: uuid.UUID,
    epoch: int,
    *,
    result: JsonObject,
    artifacts: Iterable[Published] = (),
    effects: Effects | None = None,
    reused_job_id: uuid.UUID | None = None,
) -> JobState:
    """End a job well, with all that it leaves behind, in this transaction.

    Called twice (the answer to COMMIT was lost) it does nothing the second time.

    Returns:
        `cancelled` when someone has asked for that: then nothing of it takes effect. Else `succeeded`.

    Raises:
        LeaseLost: the epoch does not own the job.
        Conflict: an artifact is registered with other bytes.
    """
    found = session.get(Job, job_id, with_for_update=True, populate_existing=True)
    if found is not None and found.epoch == epoch and found.state is JobState.SUCCEEDED:
        return found.state
    job = _owned(found, job_id, epoch)
    if job.cancel_requested_at is not None:
        end(session, job, JobState.CANCELLED)
        return job.state
    for published in artifacts:
        _add_artifact(session, published, job_id)
    if effects is not None:
        effects(session, job, result)
    job.result, job.reused_job_id, job.error = result, reused_job_id, None
    end(session, job, JobState.SUCCEEDED)
    _release_children(session, job, only=None)
    return job.state


def fail(session: Session, job_id: uuid.UUID, epoch: int, error: str, why: ErrorClass) -> JobState:
    """End an attempt badly: another one later where `why` and what is left of its tries allow it, else
    `failed` (the input is wrong) or `dead`."""
    job = owned(session, job_id, epoch)
    if job.cancel_requested_at is not None:
        end(session, job, JobState.CANCELLED)
        return job.state
    job.error = error
    count = int(job.failures.get(why.value, 0)) + 1
    job.failures = {**job.failures, why.value: count}
    retry = RETRIES[why]
    tries = job.max_attempts if retry.tries is None else retry.tries
    if why is ErrorClass.INPUT:
        end(session, job, JobState.FAILED)
    elif count >= tries:
        job.error = f"{error} ({why.value} error {count} of {tries})"
        end(session, job, JobState.DEAD)
    else:
        _again(session, job, least_s=retry.least_s, most_s=min(retry.most_s, retry.base_s * 2**count))
    return job.state


def lose(
    session: Session,
    job_id: uuid.UUID,
    epoch: int,
    error: str,
    last_log: Callable[[Job], str | None] | None = None,
) -> JobState:
    """The worker of an attempt is gone. That is no failure of the job, unless it keeps happening without any
    progress: then the job is taken for the cause, and goes to the dead letters with its last log."""
    job = owned(session, job_id, epoch)
    if job.cancel_requested_at is not None:
        end(session, job, JobState.CANCELLED)
        return job.state
    job.error = error
    job.losses = 1 if job.progress_epoch == job.epoch else job.losses + 1
    if job.losses >= MAX_LOSSES:
        job.error = f"{error}, {job.losses} times in a row without progress: it may be what ends its workers"
        job.last_log = last_log(job) if last_log is not None else None
        end(session, job, JobState.DEAD)
    else:
        _again(session, job, least_s=0.0, most_s=2.0**job.losses)
    return job.state


def give_back(session: Session, job_id: uuid.UUID, epoch: int, reason: str) -> JobState:
    """The worker has to go (shutdown, preemption): somebody else goes on at once. It counts as nothing."""
    job = owned(session, job_id, epoch)
    if job.cancel_requested_at is not None:
        end(session, job, JobState.CANCELLED)
        return job.state
    job.error = reason
    _again(session, job, least_s=0.0, most_s=0.0)
    return job.state


def end_cancel(session: Session, job_id: uuid.UUID, epoch: int) -> None:
    """The worker has seen the cancel and stopped."""
    end(session, owned(session, job_id, epoch), JobState.CANCELLED)


def end_pause(session: Session, job_id: uuid.UUID, epoch: int) -> JobState:
    """The worker has seen the pause and stopped."""
    job = owned(session, job_id, epoch)
    if job.cancel_requested_at is not None:
        end(session, job, JobState.CANCELLED)
    else:  # it goes on at once when it was resumed meanwhile
        _again(session, job, least_s=0.0, most_s=0.0)
    return job.state


def sweep(
    session: Session, *, since: dt.datetime = LONG_AGO, last_log: Callable[[Job], str | None] | None = None
) -> list[Job]:
    """Take back jobs whose lease ran out after `since`. Returns them, at most `SWEEP_LIMIT`."""
    jobs = [
        session.get_one(Job, id_, populate_existing=True)
        for id_ in session.scalars(EXPIRED, {"since": since, "limit": SWEEP_LIMIT})
    ]
    for job in jobs:
        lose(session, job.id, job.epoch, f"worker {job.worker} was lost", last_log)
    return jobs


def end(session: Session, job: Job, state: JobState) -> None:
    """Put a job into a terminal state, and what follows from it: children, pipeline, event, hooks."""
    job.state, job.lease_until, job.slot = state, None, None
    job.pause_requested_at = None
    job.finished_at = dt.datetime.now(dt.UTC)
    session.flush()
    tell_state(session, job)
    hooks.after_job(session, job)
    if state is not JobState.SUCCEEDED:
        _children_of_bad(session, job)
    if job.pipeline_id is not None:
        settle_pipeline(session, job.pipeline_id)


def settle_pipeline(session: Session, pipeline_id: uuid.UUID) -> None:
    """End a pipeline whose jobs have all ended."""
    pipeline = session.get_one(Pipeline, pipeline_id, with_for_update=True, populate_existing=True)
    if pipeline.finished_at is not None:
        return
    # Only now that the lock is ours: what others have ended meanwhile must be seen.
    if session.scalar(OPEN, {"id": pipeline_id}):
        return
    rows = select(Job).where(Job.pipeline_id == pipeline_id).order_by(Job.id)
    jobs = session.scalars(rows.execution_options(populate_existing=True)).all()
    bad = [job for job in jobs if job.state is not JobState.SUCCEEDED]
    pipeline.state = JobState.SUCCEEDED
    if bad:
        cause = min(
            bad, key=lambda job: (job.state is JobState.CANCELLED, job.ended_by is not None, job.finished_at)
        )
        pipeline.state = JobState.CANCELLED if cause.state is JobState.CANCELLED else JobState.FAILED
        pipeline.error = f"{cause.step}: {cause.error}" if cause.error else None
    pipeline.finished_at = dt.datetime.now(dt.UTC)
    session.flush()
    hooks.after_pipeline(session, pipeline)
    notify(session, "raymill_event", str(pipeline_id))


def touch_worker(session: Session, job_id: uuid.UUID, epoch: int, worker: str) -> None:
    """Record who does the work now: the driver that the dispatcher started."""
    session.execute(update(Job).where(Job.id == job_id, Job.epoch == epoch).values(worker=worker))


def other_bytes(artifact: str) -> str:
    """What to say of an artifact that was made again and came out differently."""
    return (
        f"artifact {artifact} is registered with other bytes, which never change: restore it from a backup, "
        "or change the recipe (a seed is enough)"
    )


def _again(session: Session, job: Job, *, least_s: float, most_s: float) -> None:
    """Another attempt, between `least_s` and `least_s + most_s` seconds from now; none while a rest is asked for."""
    if job.pause_requested_at is not None:
        _rest(session, job)
        return
    job.state, job.lease_until, job.slot = JobState.QUEUED, None, None
    again: dt.datetime = session.execute(RETRY_AT, {"least_s": least_s, "most_s": most_s}).scalar_one()
    job.run_at = again
    session.flush()
    tell_state(session, job)
    if most_s == 0:
        notify(session, "raymill_job", job.queue)


def _rest(session: Session, job: Job) -> None:
    job.state, job.lease_until, job.slot = JobState.PAUSED, None, None
    job.pause_requested_at = None
    session.flush()
    tell_state(session, job)


def _release_children(session: Session, parent: Job, *, only: OnParentFailure | None) -> None:
    if parent.pipeline_id is None:
        return
    released = session.execute(RELEASE, {"id": parent.id, "only": only.value if only else None}).all()
    for child_id, waiting_on in released:
        if waiting_on == 0:
            make_ready(session, session.get_one(Job, child_id, populate_existing=True))


def _children_of_bad(session: Session, parent: Job) -> None:
    if parent.pipeline_id is None:
        return
    waiting = (
        select(Job)
        .where(Job.depends_on.contains([parent.id]), Job.waiting_on > 0)
        .where(Job.state.in_([JobState.QUEUED, JobState.PAUSED]))
        .where(Job.on_parent_failure != OnParentFailure.RUN)
        .order_by(Job.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    for child in session.scalars(waiting).all():
        child.error = f"step {parent.step} ended as {parent.state.value}"
        child.ended_by = parent.id
        fails = child.on_parent_failure is OnParentFailure.FAIL and parent.state is not JobState.CANCELLED
        end(session, child, JobState.FAILED if fails else JobState.CANCELLED)
    _release_children(session, parent, only=OnParentFailure.RUN)


def _add_artifact(session: Session, published: Published, job_id: uuid.UUID) -> None:
    known = session.get(Artifact, published.name)
    if known is not None:
        if known.digest != published.digest:
            raise Conflict(other_bytes(published.name))
        return  # it was gone from the store, and was made again
    files = [{"path": f.path, "size_bytes": f.size_bytes, "sha256": f.sha256} for f in published.files]
    session.add(
        Artifact(
            name=published.name,
            digest=published.digest,
            size_bytes=published.size_bytes,
            files=files,
            job_id=job_id,
        )
    )
    session.flush()
