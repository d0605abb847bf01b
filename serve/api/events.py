"""Progress as server-sent events (WHATWG HTML, section 9.2). Resumes after `Last-Event-ID`.

Ids count up within a pipeline in the order of commit, so nothing is missed and nothing comes twice.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from typing import NamedTuple

from sqlalchemy import select

from raymill.registry.database import Database
from raymill.registry.tables import Job, JobEvent, Pipeline
from raymill.serve.api import wire

POLL_S = 0.3
PING_S = 10.0
BATCH = 500


class Batch(NamedTuple):
    events: list[JobEvent]
    ended: bool


def _pipeline_events(database: Database, pipeline_id: uuid.UUID, after: int) -> Batch:
    with database.transaction() as session:
        # The end first: events that were written before it are then in the batch after it.
        ended = session.get_one(Pipeline, pipeline_id).finished_at is not None
        rows = select(JobEvent).where(JobEvent.pipeline_id == pipeline_id, JobEvent.id > after)
        return Batch(list(session.scalars(rows.order_by(JobEvent.id).limit(BATCH))), ended)


def _job_events(database: Database, job_id: uuid.UUID, after: int) -> Batch:
    with database.transaction() as session:
        ended = session.get_one(Job, job_id).finished_at is not None
        rows = select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.id > after)
        return Batch(list(session.scalars(rows.order_by(JobEvent.id).limit(BATCH))), ended)


async def stream(
    database: Database, after: int, *, pipeline_id: uuid.UUID | None = None, job_id: uuid.UUID | None = None
) -> AsyncIterator[str]:
    """The frames of one stream, until the pipeline or job has ended and all was told."""
    last_sent = time.monotonic()
    while True:
        if pipeline_id is not None:
            batch = await asyncio.to_thread(_pipeline_events, database, pipeline_id, after)
        else:
            assert job_id is not None
            batch = await asyncio.to_thread(_job_events, database, job_id, after)
        for row in batch.events:
            after = row.id
            yield f"id: {row.id}\nevent: {row.kind}\ndata: {wire.event(row).model_dump_json()}\n\n"
            last_sent = time.monotonic()
        if batch.events:
            continue
        if batch.ended:
            yield "event: end\ndata: {}\n\n"
            return
        if time.monotonic() - last_sent > PING_S:
            yield ": ping\n\n"
            last_sent = time.monotonic()
        await asyncio.sleep(POLL_S)


def last_event_id(header: str | None) -> int:
    """The id to go on after; a header that is no number of ours starts from the beginning."""
    return int(header) if header and header.isdecimal() and len(header) < 19 else 0
