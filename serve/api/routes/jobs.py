"""Jobs: the steps of pipelines, one by one, with their logs."""

from __future__ import annotations

import uuid
from typing import Annotated

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import StreamingResponse
from sqlalchemy import select

from raymill.client import types
from raymill.cluster.driver import job_log
from raymill.policies.errors import NotFound
from raymill.registry import jobs
from raymill.registry.tables import Job, JobState
from raymill.serve.api import events, wire
from raymill.serve.api.context import Operator, PartsDep, SessionDep, Viewer
from raymill.serve.api.paging import Cursor, Limit, page

router = APIRouter(prefix="/jobs", tags=["jobs"])

MAX_LOG_BYTES = 256 << 10


@router.get("")
def list_(
    _: Viewer,
    opened: SessionDep,
    state: JobState | None = None,
    kind: str | None = None,
    pipeline_id: uuid.UUID | None = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> types.Page[types.Job]:
    """Newest first."""
    rows = select(Job)
    if state is not None:
        rows = rows.where(Job.state == state)
    if kind is not None:
        rows = rows.where(Job.kind == kind)
    if pipeline_id is not None:
        rows = rows.where(Job.pipeline_id == pipeline_id)
    return page(opened, rows, Job.id, wire.job, limit=limit, cursor=cursor)


@router.get("/{job_id}")
def get(job_id: uuid.UUID, _: Viewer, opened: SessionDep) -> types.Job:
    """One job."""
    row = opened.get(Job, job_id)
    if row is None:
        raise NotFound(f"no job {job_id}: `raymill jobs list` shows the ones there are")
    return wire.job(row)


@router.post("/{job_id}/cancel")
def cancel(job_id: uuid.UUID, who: Operator, opened: SessionDep) -> types.Job:
    """No effect of it commits once this is answered."""
    return wire.job(jobs.cancel_job(opened, job_id, who.actor))


@router.get("/{job_id}/events", response_class=StreamingResponse)
def follow(
    job_id: uuid.UUID,
    who: Viewer,
    opened: SessionDep,
    found: PartsDep,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """Progress as server-sent events."""
    get(job_id, who, opened)
    after = events.last_event_id(last_event_id)
    return StreamingResponse(
        events.stream(found.database, after, job_id=job_id), media_type="text/event-stream"
    )


@router.get("/{job_id}/logs")
def logs(
    job_id: uuid.UUID,
    who: Viewer,
    opened: SessionDep,
    found: PartsDep,
    after: Annotated[int, Query(ge=0, le=1 << 60)] = 0,
    attempt: Annotated[int | None, Query(ge=1, le=1_000_000)] = None,
) -> types.LogChunk:
    """Output of an attempt (the newest by default), in pieces of at most 256 KiB."""
    job = get(job_id, who, opened)
    path = job_log(found.settings, job_id, attempt or max(1, job.epoch))
    if not path.exists():
        return types.LogChunk(text="", next=after, ended=job.state in types.TERMINAL)
    with path.open("rb") as file:
        file.seek(after)
        data = file.read(MAX_LOG_BYTES)
    ended = job.state in types.TERMINAL and len(data) < MAX_LOG_BYTES
    return types.LogChunk(text=data.decode(errors="replace"), next=after + len(data), ended=ended)
