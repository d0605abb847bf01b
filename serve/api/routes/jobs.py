"""Jobs: the steps of pipelines and those that stand alone, one by one, with their logs."""

from __future__ import annotations

import uuid
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from sqlalchemy import select
from sqlalchemy.orm import Session

from raymill.client import control_types, types
from raymill.cluster.job_logs import job_log
from raymill.cluster.kinds import Kind, all_kinds, kind_of
from raymill.cluster.ray_jobs import ray_job_page
from raymill.policies.errors import Invalid, NotFound
from raymill.registry import audit, jobs, quotas
from raymill.registry.jobs import JobSpec, history
from raymill.registry.jobs.stats import queue_stats
from raymill.registry.tables import Job, JobState, Queue
from raymill.serve.api import control_wire, events, wire
from raymill.serve.api.context import IdempotencyKey, PartsDep, SessionDep, Who
from raymill.serve.api.paging import Cursor, Limit
from raymill.serve.api.threads import ThreadRoute

router = APIRouter(prefix="/jobs", tags=["jobs"], route_class=ThreadRoute)

MAX_LOG_BYTES = 256 << 10


@router.get("")
def list_(
    _: Who,
    opened: SessionDep,
    state: JobState | None = None,
    kind: str | None = None,
    pipeline_id: uuid.UUID | None = None,
    queue: str | None = None,
    name: str | None = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> types.Page[types.Job]:
    """Newest first."""
    given = {
        Job.state: state,
        Job.kind: kind,
        Job.pipeline_id: pipeline_id,
        Job.queue: queue,
        Job.name: name,
    }
    rows = select(Job).where(*(column == value for column, value in given.items() if value is not None))
    return wire.job_page(opened, rows, limit=limit, cursor=cursor)


@router.post(
    "", status_code=201, responses={200: {"model": types.Job, "description": "It was there already."}}
)
def submit(
    body: control_types.JobRequest,
    who: Who,
    opened: SessionDep,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> types.Job:
    """Submit a job that stands alone. Answers as soon as it is safely written; 200 when it was there already."""
    kind = _alone(body.kind)
    spec = JobSpec(
        kind=body.kind,
        queue=_queue_for(opened, kind, body.queue),
        name=body.name,
        config=body.config,
        priority=body.priority,
        run_at=body.run_at,
        max_attempts=body.max_attempts,
        concurrency_key=body.concurrency_key,
        concurrency_limit=body.concurrency_limit,
        unique_key=body.unique_key,
        idempotency_key=idempotency_key,
        team_id=quotas.team_of(opened, who.actor.name),
    )
    (job_id,) = jobs.enqueue(jobs.raw(opened), [spec])
    if job_id == spec.id:
        audit.record(opened, who.actor, "job.submit", f"job/{job_id}", kind=spec.kind, queue=spec.queue)
    else:
        response.status_code = 200
    return wire.job_with_reason(opened, opened.get_one(Job, job_id))


@router.get("/stats")
def stats(_: Who, opened: SessionDep) -> control_types.JobStats:
    """How every queue is doing: what waits, runs and lies there, and how fast jobs are started."""
    return control_wire.job_stats(queue_stats(opened))


@router.post("/redrive")
def redrive(body: control_types.Redrive, who: Who, opened: SessionDep) -> control_types.Redriven:
    """Run the jobs again that ended badly and match, oldest first; those that cannot be stay as they are."""
    ids = jobs.redrive_matching(
        opened,
        who.actor,
        states=[JobState(state) for state in body.states],
        queue=body.queue,
        kind=body.kind,
        error=body.error,
        limit=body.limit,
    )
    return control_types.Redriven(ids=ids)


@router.get("/{job_id}")
def get(job_id: uuid.UUID, _: Who, opened: SessionDep, found: PartsDep) -> types.Job:
    """One job; also one that was moved to the history. Of a heavy one, where Ray's dashboard shows it."""
    moved = None if opened.get(Job, job_id) is not None else history.find(opened, job_id)
    if moved is not None:
        return wire.job_with_reason(opened, history.as_job(moved))
    row = _row(opened, job_id)
    page = ray_job_page(found.settings, row.worker)
    return wire.job_with_reason(opened, row).model_copy(update={"dashboard_url": page})


@router.post("/{job_id}/cancel")
def cancel(job_id: uuid.UUID, who: Who, opened: SessionDep) -> types.Job:
    """No effect of it commits once this is answered."""
    return wire.job_with_reason(opened, jobs.cancel_job(opened, job_id, who.actor))


@router.post("/{job_id}/pause")
def pause(job_id: uuid.UUID, who: Who, opened: SessionDep) -> types.Job:
    """Let it rest: at once when it waits, else once its worker has stopped."""
    return wire.job_with_reason(opened, jobs.pause_job(opened, job_id, who.actor))


@router.post("/{job_id}/resume")
def resume(job_id: uuid.UUID, who: Who, opened: SessionDep) -> types.Job:
    """Let it go on, from its last checkpoint where it left one."""
    return wire.job_with_reason(opened, jobs.resume_job(opened, job_id, who.actor))


@router.post("/{job_id}/retry")
def retry(job_id: uuid.UUID, who: Who, opened: SessionDep) -> types.Job:
    """Run one again that ended badly, with all its tries, and with it the steps that its end had ended."""
    return wire.job_with_reason(opened, jobs.redrive(opened, job_id, who.actor))


@router.get("/{job_id}/events", response_class=StreamingResponse)
def follow(
    job_id: uuid.UUID,
    _: Who,
    opened: SessionDep,
    found: PartsDep,
    request: Request,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """Progress as server-sent events. A state event without an id tells what the job's row says now."""
    subject = events.subject_of(job=_row(opened, job_id))
    return events.response(found.database, request.app.state.bell, subject, last_event_id)


@router.get("/{job_id}/logs")
def logs(
    job_id: uuid.UUID,
    _: Who,
    opened: SessionDep,
    found: PartsDep,
    after: Annotated[int, Query(ge=0, le=1 << 60)] = 0,
    attempt: Annotated[int | None, Query(ge=1, le=1_000_000)] = None,
) -> types.LogChunk:
    """Output of an attempt (the newest by default), in pieces of at most 256 KiB."""
    job = _row(opened, job_id)
    path = job_log(found.settings, job_id, attempt or max(1, job.epoch))
    over = job.state.terminal or (attempt is not None and attempt < job.epoch)
    if not path.exists():
        return types.LogChunk(text="", next=after, ended=over)
    with path.open("rb") as file:
        file.seek(after)
        data = file.read(MAX_LOG_BYTES)
    ended = over and len(data) < MAX_LOG_BYTES
    return types.LogChunk(text=data.decode(errors="replace"), next=after + len(data), ended=ended)


def _row(opened: Session, job_id: uuid.UUID) -> Job:
    row = opened.get(Job, job_id)
    if row is None:
        raise NotFound(f"no job {job_id}: `raymill jobs list` shows the ones there are")
    return row


def _alone(name: str) -> Kind:
    submittable = sorted(each for each, kind in all_kinds().items() if kind.alone)
    if name in submittable:
        return kind_of(name)
    there_are = (
        f"there are {', '.join(submittable)}" if submittable else "RAYMILL_KINDS names modules with some"
    )
    raise Invalid(f"no kind {name!r} can be submitted by itself: {there_are}", param="kind")


def _queue_for(opened: Session, kind: Kind, name: str | None) -> str:
    """A job that takes a process of its own must not be given to the warm pool, whose threads share one."""
    if name is None or name == kind.queue:
        return kind.queue
    runners = {row.name: row.runner for row in opened.scalars(select(Queue))}
    if runners.get(kind.queue) == "heavy" and runners.get(name) == "short":
        raise Invalid(
            f"queue {name!r} is for short jobs, this kind is heavy: use a heavy queue", param="queue"
        )
    return name
