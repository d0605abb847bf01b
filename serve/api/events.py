"""What a pipeline or a job says, as it says it; and that as server-sent events (WHATWG HTML, section 9.2).

Ids count up within a stream in the order of commit, so nothing is missed and nothing comes twice: a stream goes on
after the last id that a reader has. A job that stands alone writes events only of what is out of the ordinary;
the changes of its state are told from its row, without an id.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import NamedTuple

from fastapi.responses import StreamingResponse
from sqlalchemy import select
from sqlalchemy.orm import Session

from raymill.client.types import JobEvent as WireEvent
from raymill.registry.database import Database
from raymill.registry.tables import Job, JobEvent, JsonObject, Pipeline
from raymill.serve.api import wire
from raymill.serve.api.bell import Bell

POLL_S = 1.0
"""The longest that an event may wait when the bell misses it."""

PING_S = 10.0
BATCH = 500
END = "end"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Whose events are asked for: of one pipeline, or of one job."""

    pipeline_id: uuid.UUID | None = None
    job_id: uuid.UUID | None = None
    alone: bool = False
    """The job belongs to no pipeline."""

    stream: uuid.UUID
    """What its events are told under."""


def subject_of(*, pipeline: Pipeline | None = None, job: Job | None = None) -> Subject:
    if pipeline is not None:
        return Subject(pipeline_id=pipeline.id, stream=pipeline.id)
    assert job is not None
    return Subject(job_id=job.id, alone=job.pipeline_id is None, stream=job.pipeline_id or job.id)


class Told(NamedTuple):
    """One thing to tell. Without an id it is what the row says now, and is not kept."""

    kind: str
    data: JsonObject
    id: int | None = None


class Now(NamedTuple):
    """What the row says."""

    state: str
    attempt: int
    ended: bool
    data: JsonObject


class Batch(NamedTuple):
    events: list[JobEvent]
    now: Now | None
    """None: the row is gone, to the history."""


def _read(database: Database, subject: Subject, after: int) -> Batch:
    with database.transaction() as session:
        # One snapshot: the row must not be older than the events, nor they older than it.
        session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        if subject.job_id is not None:
            rows = select(JobEvent).where(JobEvent.job_id == subject.job_id, JobEvent.id > after)
        else:
            rows = select(JobEvent).where(JobEvent.pipeline_id == subject.pipeline_id, JobEvent.id > after)
        events = list(session.scalars(rows.order_by(JobEvent.id).limit(BATCH)))
        return Batch(events, _now(session, subject))


def _now(session: Session, subject: Subject) -> Now | None:
    if subject.job_id is None:
        pipeline = session.get(Pipeline, subject.pipeline_id)
        if pipeline is None:
            return None
        data: JsonObject = {"state": pipeline.state.value, "error": pipeline.error}
        return Now(pipeline.state.value, 0, pipeline.finished_at is not None, data)
    job = session.get(Job, subject.job_id)
    if job is None:
        return None
    data = {"state": job.state.value, "attempt": job.attempt, "step": job.step, "error": job.error}
    return Now(job.state.value, job.attempt, job.state.terminal, data)


async def changes(
    database: Database, bell: Bell, subject: Subject, after: int
) -> AsyncGenerator[Told | None, None]:
    """All that there is to tell, until the pipeline or job has ended; the last is `end`. None: nothing happened
    for a while."""
    known: tuple[object, object] | None = None
    with bell.of(subject.stream) as ring:
        while True:
            batch = await asyncio.to_thread(_read, database, subject, after)
            for row in batch.events:
                after = row.id
                if row.kind == "state":
                    known = (row.data.get("state"), row.data.get("attempt"))
                yield Told(row.kind, wire.event(row).model_dump(mode="json"), row.id)
            if len(batch.events) == BATCH:
                continue
            now = batch.now
            if subject.alone and now is not None and known != (now.state, now.attempt):
                known = (now.state, now.attempt)
                yield Told("state", _present(subject, now))
            if now is None or now.ended:
                yield Told(END, now.data if now is not None else {})
                return
            if not batch.events:
                yield None
            await ring.wait(POLL_S)


def _present(subject: Subject, now: Now) -> JsonObject:
    """A state event that nobody wrote."""
    assert subject.job_id is not None
    data = {key: value for key, value in now.data.items() if value is not None}
    event = WireEvent(job_id=subject.job_id, kind="state", data=data, at=dt.datetime.now(dt.UTC))
    return event.model_dump(mode="json")


async def stream(database: Database, bell: Bell, subject: Subject, after: int) -> AsyncGenerator[str, None]:
    """The frames of one stream of server-sent events."""
    last_sent = time.monotonic()
    async with aclosing(changes(database, bell, subject, after)) as found:
        async for told in found:
            if told is None:
                if time.monotonic() - last_sent < PING_S:
                    continue
                yield ": ping\n\n"
            else:
                number = f"id: {told.id}\n" if told.id is not None else ""
                yield f"{number}event: {told.kind}\ndata: {json.dumps(told.data)}\n\n"
            last_sent = time.monotonic()


def response(
    database: Database, bell: Bell, subject: Subject, last_event_id_header: str | None
) -> StreamingResponse:
    """A stream of server-sent events that goes on after the last one its reader knows."""
    frames = stream(database, bell, subject, last_event_id(last_event_id_header))
    return StreamingResponse(frames, media_type="text/event-stream")


def last_event_id(header: str | None) -> int:
    """The id to go on after; a header that is no number of ours starts from the beginning."""
    return int(header) if header and header.isdecimal() and len(header) < 19 else 0
