"""What has changed anywhere, for whoever shows it: doorbells, not contents. Who hears one reads again what it shows.

A cursor is `<audit row>-<job event>`. Audit rows are numbered as they commit. Job events of different streams are
not, so a few before the cursor are looked at again, and a change may be told twice; none is left out. A job that
stands alone writes no events of the ordinary: which of them run is compared instead. One reader serves all streams
of a replica, and stops when nobody listens. Nothing here tells who did it or what: that is the audit log's to say.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from raymill.client.console_types import Change
from raymill.registry.database import Database
from raymill.registry.tables import AuditEvent, Deployment, Job, JobEvent, JobState
from raymill.serve.api.bell import Bell
from raymill.serve.api.context import COOKIE, Parts, Unauthenticated, proof_of, session_of_cookie

log = logging.getLogger(__name__)

CURSOR = r"^\d{1,18}-\d{1,18}$"
POLL_S = 0.4
"""The longest that a change may wait which rings no bell."""

REST_S = 0.05
"""Between two readings, however often the bell rings."""

PING_S = 10.0
READY_S = 10.0
LOOK_AGAIN_S = 30.0
"""How soon a login that has ended is noticed."""

OVERLAP = 200
"""Job events before the cursor that may have been committed after it was told."""

BATCH = 1000
WAITING = 500
"""Changes that wait for one slow reader; more become one `all`."""


class Cursor(NamedTuple):
    """How far a reader has come."""

    audit: int
    event: int

    def __str__(self) -> str:
        return f"{self.audit}-{self.event}"


class Found(NamedTuple):
    """What one reading found."""

    cursor: Cursor
    changes: list[Change]


def cursor_of(text: str | None) -> Cursor | None:
    """None: it is none of ours, so whoever asks begins now."""
    if text is None or re.fullmatch(CURSOR, text) is None:
        return None
    audit, _, event = text.partition("-")
    return Cursor(int(audit), int(event))


def still_in(found: Parts, headers: dict[str, str], cookies: dict[str, str]) -> bool:
    """Whether the key or the login that opened a stream would open it now."""
    bearer = headers.get("authorization", "").partition(" ")[2].strip()
    box = found.settings.secret_box
    try:
        with found.database.transaction() as opened:
            if bearer:
                proof_of(opened, box, bearer)
            else:
                session_of_cookie(opened, box, cookies.get(COOKIE, ""))
    except Unauthenticated:
        return False
    except (DBAPIError, PoolTimeout):
        return True  # the database is away: looked at again later
    return True


class News:
    """The changes of one registry, read once for all who listen in this process."""

    def __init__(self, database: Database, bell: Bell) -> None:
        self._database = database
        self._bell = bell
        self._queues: set[asyncio.Queue[Change]] = set()
        self._task: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._seen: set[int] = set()
        self._alone: frozenset[tuple[uuid.UUID, int]] | None = None
        self._deployments: object = None

    async def stream(
        self, since: Cursor | None, still_in: Callable[[], Awaitable[bool]]
    ) -> AsyncGenerator[str, None]:
        """Frames of server-sent events; the first tells where it begins."""
        with self._listening() as queue:
            # What is committed after this, the watch tells; what was before, `_begin` reads.
            try:
                await asyncio.wait_for(self._ready.wait(), READY_S)
            except TimeoutError:
                return  # the database is away: whoever listens comes again
            began = await asyncio.to_thread(self._begin, since)
            yield f"id: {began.cursor}\nevent: begin\ndata: {{}}\n\n"
            for change in began.changes:
                yield _frame(change)
            sent = looked = time.monotonic()
            while True:
                with contextlib.suppress(TimeoutError):
                    yield _frame(await asyncio.wait_for(queue.get(), PING_S))
                    sent = time.monotonic()
                now = time.monotonic()
                if now - looked >= LOOK_AGAIN_S:
                    looked = now
                    if not await still_in():
                        return
                if now - sent >= PING_S:
                    sent = now
                    yield ": ping\n\n"

    @contextlib.contextmanager
    def _listening(self) -> Iterator[asyncio.Queue[Change]]:
        queue: asyncio.Queue[Change] = asyncio.Queue(WAITING)
        self._queues.add(queue)
        if self._task is None or self._task.done():
            self._ready = asyncio.Event()
            self._task = asyncio.create_task(self._watch())
        try:
            yield queue
        finally:
            self._queues.discard(queue)

    def _begin(self, since: Cursor | None) -> Found:
        now = self._now()
        if since is None:
            return Found(now, [])
        audit, events = self._rows(since, OVERLAP)
        if len(audit) == BATCH or len(events) == BATCH:
            return Found(now, [Change(id=str(now), topic="all")])
        return Found(now, _changes(now, audit, events))

    async def _watch(self) -> None:
        cursor: Cursor | None = None
        self._seen, self._alone, self._deployments = set(), None, None
        with self._bell.of_all() as ring:
            while self._queues:
                try:
                    if cursor is None:
                        cursor = await asyncio.to_thread(self._now)
                        self._ready.set()
                    found = await asyncio.to_thread(self._read, cursor)
                    cursor = found.cursor
                    self._tell(found.changes)
                except (DBAPIError, PoolTimeout) as error:
                    log.warning("cannot read what changed (%s): trying again", type(error).__name__)
                await asyncio.sleep(REST_S)
                await ring.wait(POLL_S)

    def _tell(self, changes: list[Change]) -> None:
        for queue in self._queues:
            for change in changes:
                if queue.full():
                    while not queue.empty():
                        queue.get_nowait()
                    queue.put_nowait(Change(id=change.id, topic="all"))
                else:
                    queue.put_nowait(change)

    def _now(self) -> Cursor:
        with self._database.transaction() as session:
            audit = session.scalar(select(func.max(AuditEvent.seq))) or 0
            event = session.scalar(select(func.max(JobEvent.id))) or 0
        return Cursor(audit, event)

    def _rows(
        self, since: Cursor, overlap: int
    ) -> tuple[list[tuple[int, str]], list[tuple[int, uuid.UUID, uuid.UUID | None, str]]]:
        with self._database.transaction() as session:
            audit = session.execute(
                select(AuditEvent.seq, AuditEvent.object)
                .where(AuditEvent.seq > since.audit)
                .order_by(AuditEvent.seq)
                .limit(BATCH)
            )
            events = session.execute(
                select(JobEvent.id, JobEvent.job_id, JobEvent.pipeline_id, JobEvent.kind)
                .where(JobEvent.id > since.event - overlap)
                .order_by(JobEvent.id)
                .limit(BATCH)
            )
            return list(audit), list(events)

    def _read(self, cursor: Cursor) -> Found:
        audit, events = self._rows(cursor, OVERLAP)
        first = self._alone is None
        fresh = [row for row in events if row[0] not in self._seen and (not first or row[0] > cursor.event)]
        reached = Cursor(
            audit[-1][0] if audit else cursor.audit, max(cursor.event, events[-1][0] if events else 0)
        )
        changes = _changes(reached, audit, fresh)
        if not first and fresh and fresh[0][0] <= cursor.event - OVERLAP // 2:
            # A long transaction has just committed; of what it wrote, older rows may lie below what is read again.
            changes.append(Change(id=str(reached), topic="all"))
        changes += self._others(reached)
        self._seen = {row[0] for row in events}  # at the end: what could not be read is read again
        return Found(reached, changes)

    def _others(self, cursor: Cursor) -> list[Change]:
        """What is told of by its row alone."""
        with self._database.transaction() as session:
            running = select(Job.id, Job.epoch).where(
                Job.state == JobState.RUNNING, Job.lease_until.is_not(None), Job.pipeline_id.is_(None)
            )
            alone = frozenset(
                (job_id, epoch)
                for job_id, epoch in session.execute(running.order_by(Job.id.desc()).limit(BATCH))
            )
            deployments = session.execute(
                select(func.max(Deployment.updated_at), func.count()).select_from(Deployment)
            ).one()
        told: list[Change] = []
        if self._alone is not None:
            jobs = sorted({str(job_id) for job_id, _ in alone ^ self._alone})
            told += [Change(id=str(cursor), topic="job", key=each, kinds=["state"]) for each in jobs]
            if tuple(deployments) != self._deployments:
                told.append(Change(id=str(cursor), topic="deployment"))
        self._alone, self._deployments = alone, tuple(deployments)
        return told


def _changes(
    cursor: Cursor,
    audit: list[tuple[int, str]],
    events: list[tuple[int, uuid.UUID, uuid.UUID | None, str]],
) -> list[Change]:
    topics = dict.fromkeys(about.partition("/")[0] for _, about in audit)
    told = [Change(id=str(cursor), topic=topic) for topic in topics]
    kinds: dict[tuple[uuid.UUID, uuid.UUID | None], set[str]] = {}
    for _, job_id, pipeline_id, kind in events:
        kinds.setdefault((job_id, pipeline_id), set()).add(kind)
    for (job_id, pipeline_id), said in kinds.items():
        told.append(
            Change(
                id=str(cursor),
                topic="job",
                key=str(job_id),
                pipeline_id=str(pipeline_id) if pipeline_id else None,
                kinds=sorted(said),
            )
        )
    return told


def _frame(change: Change) -> str:
    return f"id: {change.id}\nevent: change\ndata: {change.model_dump_json()}\n\n"
