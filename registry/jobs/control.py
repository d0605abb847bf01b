"""What people ask of jobs and queues: cancel, pause, resume, redrive. Each writes its audit row."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from raymill.policies.errors import Conflict, Invalid, NotFound
from raymill.registry import audit
from raymill.registry.audit import Actor
from raymill.registry.database import clock
from raymill.registry.jobs.ends import end
from raymill.registry.jobs.events import notify, tell_state
from raymill.registry.jobs.submit import make_ready
from raymill.registry.tables import Job, JobState, Pipeline, Queue

BAD = (JobState.DEAD, JobState.FAILED, JobState.CANCELLED)
MAX_REDRIVE = 10_000


def locked_job(session: Session, job_id: uuid.UUID) -> Job:
    """Raises NotFound."""
    job = session.get(Job, job_id, with_for_update=True, populate_existing=True)
    if job is None:
        raise NotFound(f"no job {job_id}: `raymill jobs list` shows the ones there are")
    return job


def cancel_job(session: Session, job_id: uuid.UUID, actor: Actor) -> Job:
    """Ask for the end of a job: at once when it is not running, else no effect of it will commit.

    Raises:
        NotFound: no such job.
    """
    job = locked_job(session, job_id)
    if job.state.terminal or job.cancel_requested_at is not None:
        return job
    job.cancel_requested_at = dt.datetime.now(dt.UTC)
    audit.record(session, actor, "job.cancel", f"job/{job.id}", step=job.step)
    if job.state is not JobState.RUNNING:
        end(session, job, JobState.CANCELLED)
    return job


def pause_job(session: Session, job_id: uuid.UUID, actor: Actor) -> Job:
    """Let a job rest: at once when it waits, else once its worker has stopped.

    Raises:
        NotFound: no such job.
        Conflict: it has ended.
    """
    job = locked_job(session, job_id)
    if job.state.terminal:
        raise Conflict(f"job {job_id} has {job.state.value}: only a job that waits or runs can be paused")
    if job.state is JobState.PAUSED or job.pause_requested_at is not None:
        return job
    audit.record(session, actor, "job.pause", f"job/{job.id}", step=job.step)
    if job.state is JobState.RUNNING:
        job.pause_requested_at = dt.datetime.now(dt.UTC)
        session.flush()
    else:
        job.state = JobState.PAUSED
        session.flush()
        tell_state(session, job)
    return job


def resume_job(session: Session, job_id: uuid.UUID, actor: Actor) -> Job:
    """Let a paused job go on, from its last checkpoint where it left one. Raises NotFound, Conflict."""
    job = locked_job(session, job_id)
    if job.state.terminal:
        raise Conflict(f"job {job_id} has {job.state.value}: `raymill jobs retry` runs it again")
    if job.state is not JobState.PAUSED and job.pause_requested_at is None:
        return job
    audit.record(session, actor, "job.resume", f"job/{job.id}", step=job.step)
    job.pause_requested_at = None
    if job.state is JobState.PAUSED:
        job.state, job.run_at = JobState.QUEUED, clock(session)
        session.flush()
        tell_state(session, job)
        notify(session, "raymill_job", job.queue)
    return job


def redrive(session: Session, job_id: uuid.UUID, actor: Actor) -> Job:
    """Run a job again that ended badly, with all its tries, and with it the steps that its end had ended.

    Raises:
        NotFound: no such job.
        Conflict: it did not end badly, another job of its unique key waits, or a step before it ended badly.
    """
    job = locked_job(session, job_id)
    if job.state not in BAD:
        raise Conflict(
            f"job {job_id} is {job.state.value}: only one that failed, died or was cancelled runs again"
        )
    if job.unique_key is not None:
        other = session.scalar(
            select(Job.id).where(
                Job.unique_key == job.unique_key,
                Job.state.in_([JobState.QUEUED, JobState.RUNNING, JobState.PAUSED]),
            )
        )
        if other is not None:
            raise Conflict(
                f"job {other} with the same unique key {job.unique_key!r} has not ended: cancel it first"
            )
    if job.ended_by is not None:
        parent = session.get_one(Job, job.ended_by)
        if parent.state in BAD:
            raise Conflict(
                f"step {parent.step} before it ended as {parent.state.value}: retry job {parent.id}"
            )
    audit.record(session, actor, "job.redrive", f"job/{job.id}", step=job.step, ended=job.state.value)
    _again(session, job)
    return job


def redrive_matching(
    session: Session,
    actor: Actor,
    *,
    states: Sequence[JobState] = (JobState.DEAD,),
    queue: str | None = None,
    kind: str | None = None,
    error: str | None = None,
    limit: int = MAX_REDRIVE,
) -> list[uuid.UUID]:
    """Redrive the dead letters that match, oldest first; those that cannot be stay as they are.

    Args:
        error: only those whose error holds this text.

    Returns:
        Ids of those that run again.

    Raises:
        Invalid: a state that is no bad end.
    """
    if not set(states) <= set(BAD):
        raise Invalid("only jobs that are dead, failed or cancelled can be redriven")
    wanted = select(Job.id).where(Job.state.in_(states), Job.ended_by.is_(None)).order_by(Job.id).limit(limit)
    if queue is not None:
        wanted = wanted.where(Job.queue == queue)
    if kind is not None:
        wanted = wanted.where(Job.kind == kind)
    if error is not None:
        wanted = wanted.where(Job.error.contains(error, autoescape=True))
    again: list[uuid.UUID] = []
    for job_id in session.scalars(wanted).all():
        try:
            redrive(session, job_id, actor)
        except Conflict:
            continue
        again.append(job_id)
    return again


def cancel_pipeline(session: Session, pipeline_id: uuid.UUID, actor: Actor) -> Pipeline:
    """Ask for the end of every job of a pipeline that has not ended. Raises NotFound."""
    return _each_open_job(session, pipeline_id, actor, cancel_job)


def pause_pipeline(session: Session, pipeline_id: uuid.UUID, actor: Actor) -> Pipeline:
    """Let every job of a pipeline rest that has not ended. Raises NotFound."""
    return _each_open_job(session, pipeline_id, actor, pause_job)


def resume_pipeline(session: Session, pipeline_id: uuid.UUID, actor: Actor) -> Pipeline:
    """Let every paused job of a pipeline go on. Raises NotFound."""
    return _each_open_job(session, pipeline_id, actor, resume_job)


def retry_pipeline(session: Session, pipeline_id: uuid.UUID, actor: Actor) -> Pipeline:
    """Run the steps again that ended badly, and those that waited for them. Raises NotFound, Conflict."""
    pipeline = _pipeline(session, pipeline_id)
    ended = False
    for job_id in _jobs_of(session, pipeline_id):
        job = session.get_one(Job, job_id)
        if job.state in BAD and job.ended_by is None:
            redrive(session, job_id, actor)
            ended = True
    if not ended:
        raise Conflict(f"pipeline {pipeline_id} is {pipeline.state.value}: no step of it ended badly")
    return pipeline


def _each_open_job(
    session: Session, pipeline_id: uuid.UUID, actor: Actor, do: Callable[[Session, uuid.UUID, Actor], Job]
) -> Pipeline:
    """Do it to the jobs that have not ended, and not been ended by what was done to one before."""
    pipeline = _pipeline(session, pipeline_id)
    for job_id in _jobs_of(session, pipeline_id):
        if not session.get_one(Job, job_id).state.terminal:
            do(session, job_id, actor)
    return pipeline


def _pipeline(session: Session, pipeline_id: uuid.UUID) -> Pipeline:
    pipeline = session.get(Pipeline, pipeline_id)
    if pipeline is None:
        raise NotFound(f"no pipeline {pipeline_id}: `raymill pipeline list` shows the ones there are")
    return pipeline


def _jobs_of(session: Session, pipeline_id: uuid.UUID) -> Sequence[uuid.UUID]:
    """Locked. Jobs before their pipeline, parents before children: whoever ends a job takes the locks in that
    order too."""
    jobs = select(Job.id).where(Job.pipeline_id == pipeline_id).order_by(Job.id).with_for_update()
    return session.scalars(jobs).all()


def _again(session: Session, job: Job) -> None:
    job.state, job.error, job.finished_at, job.cancel_requested_at = JobState.QUEUED, None, None, None
    job.failures, job.losses, job.ended_by, job.last_log = {}, 0, None, None
    job.run_at = clock(session)
    parents = session.scalars(select(Job).where(Job.id.in_(job.depends_on))).all() if job.depends_on else []
    job.waiting_on = sum(parent.state is not JobState.SUCCEEDED for parent in parents)
    session.flush()
    if job.pipeline_id is None:
        tell_state(session, job)
        notify(session, "raymill_job", job.queue)
        return
    if job.waiting_on == 0:
        make_ready(session, job)
    else:
        tell_state(session, job)
    for child in session.scalars(
        select(Job).where(Job.ended_by == job.id, Job.state.in_(BAD)).order_by(Job.id).with_for_update()
    ).all():
        _again(session, child)
    pipeline = session.get_one(Pipeline, job.pipeline_id, with_for_update=True, populate_existing=True)
    pipeline.state, pipeline.error, pipeline.finished_at = JobState.RUNNING, None, None
    session.flush()


def queue_of(session: Session, name: str) -> Queue:
    """Raises NotFound."""
    queue = session.get(Queue, name, with_for_update=True)
    if queue is None:
        raise NotFound(f"no queue {name!r}: `raymill queue list` shows the ones there are")
    return queue


def set_queue(
    session: Session, name: str, actor: Actor, *, runner: str = "short", max_running: int | None = None
) -> Queue:
    """Make a queue, or change how many of its jobs run at once (None: as many as there are workers for).

    Raises:
        Conflict: it is there with another runner.
        Invalid: an unknown runner, or less than one running job.
    """
    if runner not in {"heavy", "short"}:
        raise Invalid(f"runner {runner!r} is unknown: it is heavy (a Ray job each) or short (the warm pool)")
    if max_running is not None and max_running < 1:
        raise Invalid(
            f"max_running is {max_running}: it must be at least 1; `raymill queue pause` stops a queue"
        )
    queue, before = session.get(Queue, name, with_for_update=True), None
    if queue is None:
        queue = Queue(name=name, runner=runner)
        session.add(queue)
    elif queue.runner != runner:
        raise Conflict(f"queue {name!r} is {queue.runner}: make another queue for {runner} jobs")
    else:
        before = {"max_running": queue.max_running}
    queue.max_running = max_running
    audit.record(
        session,
        actor,
        "queue.set",
        f"queue/{name}",
        before=before,
        after={"max_running": max_running},
        runner=runner,
    )
    session.flush()
    notify(session, "raymill_job", name)
    return queue


def pause_queue(session: Session, name: str, actor: Actor) -> Queue:
    """Nothing of it is started any more; what runs goes on. Raises NotFound."""
    queue = queue_of(session, name)
    if queue.paused_at is None:
        queue.paused_at = dt.datetime.now(dt.UTC)
        audit.record(session, actor, "queue.pause", f"queue/{name}")
    return queue


def resume_queue(session: Session, name: str, actor: Actor) -> Queue:
    """Raises NotFound."""
    queue = queue_of(session, name)
    if queue.paused_at is not None:
        queue.paused_at = None
        audit.record(session, actor, "queue.resume", f"queue/{name}")
        notify(session, "raymill_job", name)
    return queue
