"""The durable job engine's memory: every change of a job's state is one function here.

    queued ──claim──> running ──succeed──> succeeded
      ^                 │ ├──fail────────> failed      (the input is wrong: no retry helps)
      └──retry/sweep────┘ ├──fail/sweep──> dead        (out of attempts)
                          └──end_cancel──> cancelled

A claim raises `epoch`; every later write asks for that epoch, so a worker whose lease ran out cannot
finish a job that someone else now owns (a fencing token, Kleppmann 2016). Each function works in the
caller's transaction; what it changes, and what it tells of, commit together.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import func, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from raymill.policies.errors import Conflict, NotFound, RaymillError
from raymill.registry import audit
from raymill.registry.artifacts import Published, address_of, canonical_json
from raymill.registry.audit import Actor
from raymill.registry.tables import Artifact, Job, JobEvent, JobState, JsonObject, Pipeline

Effects = Callable[[Session, Job, JsonObject], None]
"""Writes the registry rows that a result means, such as a version. May add to the result."""

LEASE_S = 30.0
"""A worker that has not been heard of for this long has lost its job."""

# Take ready jobs: most urgent first, skipping what another worker is just taking; one for each concurrency key.
CLAIM = text("""
WITH ready AS (
    SELECT id FROM job
    WHERE state = 'queued' AND waiting_on = 0 AND queue = :queue AND run_at <= clock_timestamp()
      AND NOT EXISTS (SELECT 1 FROM job AS busy
                      WHERE busy.state = 'running' AND busy.concurrency_key = job.concurrency_key)
    ORDER BY priority DESC, run_at, id
    LIMIT :limit
    FOR UPDATE SKIP LOCKED),
first AS (
    SELECT DISTINCT ON (coalesce(job.concurrency_key, job.id::text)) job.id FROM job JOIN ready USING (id)
    ORDER BY coalesce(job.concurrency_key, job.id::text), priority DESC, run_at, id)
UPDATE job
SET state = 'running', epoch = epoch + 1, attempt = attempt + 1, worker = :worker,
    lease_until = clock_timestamp() + make_interval(secs => :lease_s),
    started_at = coalesce(started_at, clock_timestamp())
FROM first WHERE job.id = first.id
RETURNING job.id
""")

# Extend a lease; no row means that it is not ours any more.
HEARTBEAT = text("""
UPDATE job SET lease_until = clock_timestamp() + make_interval(secs => :lease_s)
WHERE id = :id AND epoch = :epoch AND state = 'running'
RETURNING cancel_requested_at IS NOT NULL
""")

# Jobs whose worker went silent.
EXPIRED = text("""
SELECT id FROM job WHERE state = 'running' AND lease_until < clock_timestamp()
ORDER BY lease_until LIMIT 100 FOR UPDATE SKIP LOCKED
""")

# A parent has succeeded: its children wait for one less. Returns those that wait for nothing now.
RELEASE = text("""
UPDATE job SET waiting_on = waiting_on - 1
WHERE depends_on @> ARRAY[CAST(:id AS uuid)] AND state = 'queued'
RETURNING id, waiting_on
""")

# By the database's clock, which the claim compares with.
RETRY_AT = text("SELECT clock_timestamp() + random() * make_interval(secs => :most_s)")


class LeaseLost(RaymillError):
    """The job belongs to someone else now, was cancelled, or has ended. Stop; write nothing."""

    code = "lease_lost"


@dataclass(frozen=True, kw_only=True)
class StepSpec:
    """One job of a pipeline that is to be made."""

    step: str
    kind: str
    queue: str
    config: JsonObject
    depends_on: tuple[str, ...] = ()
    max_attempts: int = 3


class Beat(NamedTuple):
    """Answer to a heartbeat."""

    owned: bool
    cancel: bool


def create_pipeline(
    session: Session,
    *,
    name: str,
    recipe: JsonObject,
    steps: Sequence[StepSpec],
    actor: Actor,
    idempotency_key: str | None = None,
) -> Pipeline:
    """Write a pipeline and its jobs.

    Args:
        steps: parents before children.
        idempotency_key: the same key and recipe give the same pipeline, also after it ended.

    Raises:
        Conflict: the key was used with another recipe.
    """
    request_hash = hashlib.sha256(canonical_json({"name": name, "recipe": recipe})).hexdigest()
    if idempotency_key is not None:
        session.execute(
            text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))"), {"key": idempotency_key}
        )
        known = session.scalar(select(Pipeline).where(Pipeline.idempotency_key == idempotency_key))
        if known is not None:
            if known.request_hash != request_hash:
                raise Conflict(
                    f"Idempotency-Key {idempotency_key!r} was used with another recipe: use a new key"
                )
            return known
    pipeline = Pipeline(
        name=name,
        recipe=recipe,
        state=JobState.RUNNING,
        created_by=actor.name,
        idempotency_key=idempotency_key,
        request_hash=request_hash,
    )
    session.add(pipeline)
    session.flush()
    jobs: dict[str, Job] = {}
    for spec in steps:
        job = Job(
            pipeline_id=pipeline.id,
            step=spec.step,
            kind=spec.kind,
            queue=spec.queue,
            name=name,
            config=spec.config,
            max_attempts=spec.max_attempts,
            depends_on=[jobs[parent].id for parent in spec.depends_on],
            waiting_on=len(spec.depends_on),
        )
        session.add(job)
        session.flush()
        jobs[spec.step] = job
        if not spec.depends_on:
            _make_ready(session, job)
    audit.record(session, actor, "pipeline.create", f"pipeline/{pipeline.id}", name=name, steps=list(jobs))
    return pipeline


def claim(
    session: Session, queue: str, worker: str, *, limit: int = 1, lease_s: float = LEASE_S
) -> list[Job]:
    """Take up to `limit` ready jobs of a queue for `worker`, for `lease_s` seconds."""
    parameters = {"queue": queue, "limit": limit, "worker": worker, "lease_s": lease_s}
    try:
        with session.begin_nested():
            ids = list(session.scalars(CLAIM, parameters))
    except IntegrityError:
        return []  # another worker has just taken a job with the same concurrency key: it is seen next time
    jobs = list(session.scalars(select(Job).where(Job.id.in_(ids)).order_by(Job.id)))
    # In one order, for each takes its pipeline's lock: two workers never wait for each other.
    for job in sorted(jobs, key=lambda job: (job.pipeline_id, job.id)):
        _tell_state(session, job)
    return jobs


def heartbeat(session: Session, job_id: uuid.UUID, epoch: int, *, lease_s: float = LEASE_S) -> Beat:
    """Say that the worker lives."""
    row = session.execute(HEARTBEAT, {"id": job_id, "epoch": epoch, "lease_s": lease_s}).first()
    return Beat(owned=row is not None, cancel=bool(row and row[0]))


def owned(session: Session, job_id: uuid.UUID, epoch: int) -> Job:
    """The running job, locked, if `epoch` still owns it.

    Raises:
        LeaseLost: it does not.
    """
    job = session.get(Job, job_id, with_for_update=True, populate_existing=True)
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
    done = session.get(Job, job_id, with_for_update=True, populate_existing=True)
    if done is not None and done.epoch == epoch and done.state is JobState.SUCCEEDED:
        return done.state
    job = owned(session, job_id, epoch)
    if job.cancel_requested_at is not None:
        _end(session, job, JobState.CANCELLED)
        return job.state
    for published in artifacts:
        _add_artifact(session, published, job_id)
    if effects is not None:
        effects(session, job, result)
    job.result, job.reused_job_id = result, reused_job_id
    _end(session, job, JobState.SUCCEEDED)
    for child_id, waiting_on in session.execute(RELEASE, {"id": job.id}).all():
        if waiting_on == 0:
            _make_ready(session, session.get_one(Job, child_id, populate_existing=True))
    return job.state


def fail(session: Session, job_id: uuid.UUID, epoch: int, error: str, *, retry: bool) -> JobState:
    """End an attempt badly: again later when `retry` and attempts are left, else `failed` or `dead`."""
    job = owned(session, job_id, epoch)
    if job.cancel_requested_at is not None:
        _end(session, job, JobState.CANCELLED)
    elif not retry:
        job.error = error
        _end(session, job, JobState.FAILED)
    else:
        _again_or_dead(session, job, error)
    return job.state


def end_cancel(session: Session, job_id: uuid.UUID, epoch: int) -> None:
    """The worker has seen the cancel and stopped."""
    _end(session, owned(session, job_id, epoch), JobState.CANCELLED)


def sweep(session: Session) -> list[Job]:
    """Take back jobs whose worker went silent. Returns them."""
    ids = list(session.scalars(EXPIRED))
    jobs = [session.get_one(Job, id_, populate_existing=True) for id_ in ids]
    for job in jobs:
        if job.cancel_requested_at is not None:
            _end(session, job, JobState.CANCELLED)
        else:
            _again_or_dead(session, job, f"worker {job.worker} was lost")
    return jobs


def cancel_job(session: Session, job_id: uuid.UUID, actor: Actor) -> Job:
    """Ask for the end of a job: at once when it is not running, else no effect of it will commit.

    Raises:
        NotFound: no such job.
    """
    job = session.get(Job, job_id, with_for_update=True, populate_existing=True)
    if job is None:
        raise NotFound(f"no job {job_id}: `raymill jobs list` shows the ones there are")
    if job.state.terminal or job.cancel_requested_at is not None:
        return job
    job.cancel_requested_at = dt.datetime.now(dt.UTC)
    audit.record(session, actor, "job.cancel", f"job/{job.id}", step=job.step)
    if job.state is not JobState.RUNNING:
        _end(session, job, JobState.CANCELLED)
    return job


def cancel_pipeline(session: Session, pipeline_id: uuid.UUID, actor: Actor) -> Pipeline:
    """Ask for the end of every job of a pipeline that has not ended. Raises NotFound."""
    pipeline = session.get(Pipeline, pipeline_id)
    if pipeline is None:
        raise NotFound(f"no pipeline {pipeline_id}: `raymill pipeline list` shows the ones there are")
    # Jobs before their pipeline, parents before children: whoever ends a job takes the locks in that order too.
    jobs = select(Job.id).where(Job.pipeline_id == pipeline_id).order_by(Job.id).with_for_update()
    for job_id in session.scalars(jobs).all():
        cancel_job(session, job_id, actor)
    return pipeline


def reusable(session: Session, job: Job) -> Job | None:
    """The newest job that made the same thing for the same name, if there is one."""
    return session.scalar(
        select(Job)
        .where(Job.address == job.address, Job.name == job.name, Job.kind == job.kind, Job.id != job.id)
        .where(Job.state == JobState.SUCCEEDED, Job.reused_job_id.is_(None))
        .order_by(Job.id.desc())
        .limit(1)
    )


def parent_results(session: Session, job: Job) -> dict[str, JsonObject]:
    """Step name -> result, of the jobs that this one depends on."""
    parents = session.scalars(select(Job).where(Job.id.in_(job.depends_on))).all()
    return {parent.step: parent.result or {} for parent in parents}


def add_events(session: Session, job: Job, events: Iterable[tuple[str, JsonObject]]) -> None:
    """Append events. Ids are given under a lock held until commit, so that a reader of the pipeline's
    stream that has seen id N never meets a smaller one later."""
    session.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 1))"), {"key": str(job.pipeline_id)}
    )
    session.add_all(
        JobEvent(pipeline_id=job.pipeline_id, job_id=job.id, kind=kind, data=data) for kind, data in events
    )
    session.flush()
    notify(session, "raymill_event", str(job.pipeline_id))


def notify(session: Session, channel: str, payload: str = "") -> None:
    """Wake who listens; it is told at commit. Only wakes: polling is the floor."""
    session.execute(select(func.pg_notify(channel, payload)))


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


def other_bytes(artifact: str) -> str:
    """What to say of an artifact that was made again and came out differently."""
    return (
        f"artifact {artifact} is registered with other bytes, which never change: restore it from a backup, "
        "or change the recipe (a seed is enough)"
    )


def _make_ready(session: Session, job: Job) -> None:
    digests = {step: str(result.get("digest", "")) for step, result in parent_results(session, job).items()}
    job.address = address_of(job.kind, job.config, digests)
    # Two pipelines that make the same thing take turns; the second then reuses the first one's.
    job.concurrency_key = f"{job.name}/{job.kind}/{job.address}"
    session.flush()
    _tell_state(session, job)
    notify(session, "raymill_job", job.queue)


def _again_or_dead(session: Session, job: Job, error: str) -> None:
    job.error = error
    if job.attempt >= job.max_attempts:
        job.error = f"{error} (attempt {job.attempt} of {job.max_attempts})"
        _end(session, job, JobState.DEAD)
        return
    job.state, job.lease_until = JobState.QUEUED, None
    # Full jitter (Brooker 2015): 0 to 2^attempt seconds, at most 5 minutes.
    again: dt.datetime = session.execute(RETRY_AT, {"most_s": min(300, 2**job.attempt)}).scalar_one()
    job.run_at = again
    session.flush()
    _tell_state(session, job)


def _end(session: Session, job: Job, state: JobState) -> None:
    """Put a job into a terminal state, and what follows from it: children, pipeline, event."""
    job.state, job.lease_until = state, None
    job.finished_at = dt.datetime.now(dt.UTC)
    session.flush()
    _tell_state(session, job)
    if state is not JobState.SUCCEEDED:
        _skip_children(session, job)
    _settle_pipeline(session, job.pipeline_id)


def _skip_children(session: Session, parent: Job) -> None:
    waiting = (
        select(Job)
        .where(Job.depends_on.contains([parent.id]), Job.state == JobState.QUEUED)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    for child in session.scalars(waiting).all():
        child.error = f"step {parent.step} ended as {parent.state.value}"
        _end(session, child, JobState.CANCELLED)


def _settle_pipeline(session: Session, pipeline_id: uuid.UUID) -> None:
    pipeline = session.get_one(Pipeline, pipeline_id, with_for_update=True, populate_existing=True)
    if pipeline.finished_at is not None:
        return
    # Only now that the lock is ours: what others have ended meanwhile must be seen.
    rows = select(Job).where(Job.pipeline_id == pipeline_id).order_by(Job.id)
    jobs = session.scalars(rows.execution_options(populate_existing=True)).all()
    if not all(job.state.terminal for job in jobs):
        return
    bad = [job for job in jobs if job.state is not JobState.SUCCEEDED]
    pipeline.state = JobState.SUCCEEDED
    if bad:
        cause = min(bad, key=lambda job: (job.state is JobState.CANCELLED, job.finished_at))
        pipeline.state = JobState.CANCELLED if cause.state is JobState.CANCELLED else JobState.FAILED
        pipeline.error = f"{cause.step}: {cause.error}" if cause.error else None
    pipeline.finished_at = dt.datetime.now(dt.UTC)
    session.flush()
    notify(session, "raymill_event", str(pipeline_id))


def _tell_state(session: Session, job: Job) -> None:
    data: JsonObject = {"state": job.state.value, "attempt": job.attempt, "step": job.step}
    if job.error and job.state is not JobState.SUCCEEDED:
        data["error"] = job.error
    if job.reused_job_id:
        data["reused"] = True
    add_events(session, job, [("state", data)])


def touch_worker(session: Session, job_id: uuid.UUID, epoch: int, worker: str) -> None:
    """Record who does the work now: the driver that the dispatcher started."""
    session.execute(update(Job).where(Job.id == job_id, Job.epoch == epoch).values(worker=worker))
