"""One attempt at one job, in whichever process does the work: lease, progress, and the end.

A thread of its own beats every sixth of the lease and carries buffered events to Postgres, so that
neither waits for the work nor the work for them. A database that is away fails nothing: the beat and
the end try again until it is back.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy.orm import Session

from raymill.cluster.context import JsonObject, Outcome
from raymill.cluster.kinds import Kind, kind_of
from raymill.cluster.settings import Settings
from raymill.policies.errors import Conflict, RaymillError, Unavailable
from raymill.registry import jobs
from raymill.registry.artifacts import Published, digest_files, tree_digest
from raymill.registry.database import Database
from raymill.registry.jobs import LeaseLost
from raymill.registry.tables import Artifact, Job, JobState

log = logging.getLogger(__name__)

T = TypeVar("T")

FLUSH_S = 0.5
"""Events reach Postgres, and so the screen, this long after they happen."""

MAX_BUFFERED_EVENTS = 10_000
"""While the database is away, step events beyond this are dropped, oldest first; the work goes on."""


class Cancelled(RaymillError):
    """Someone asked for the end of this job."""

    code = "cancelled"


class Attempt:
    """The `JobContext` of a claimed job."""

    def __init__(
        self, database: Database, settings: Settings, job: Job, inputs: dict[str, JsonObject]
    ) -> None:
        self.database = database
        self.settings = settings
        self.kind: Kind = kind_of(job.kind)
        self.inputs = inputs
        self.config: JsonObject = job.config
        self.name = job.name
        self.address = job.address or ""
        self._job = job
        self._buffer: list[tuple[str, JsonObject]] = []
        self._buffer_lock = threading.Lock()
        self._cancelled = threading.Event()
        self._lost = threading.Event()
        self._done = threading.Event()

    @property
    def job_id(self) -> str:
        return str(self._job.id)

    @property
    def epoch(self) -> int:
        return self._job.epoch

    @property
    def work_dir(self) -> Path:
        path = self.settings.work_dir / self.job_id
        path.mkdir(parents=True, exist_ok=True)
        return path

    def path(self, artifact: str) -> Path:
        return self.settings.artifacts.existing(artifact)

    def publish(self, kind: str, directory: Path) -> Published:
        name = f"{kind}/{self.name}/{self.address}"
        registered = self.database.patiently(lambda session: session.get(Artifact, name))
        if registered is not None and registered.digest != tree_digest(digest_files(directory)):
            raise Conflict(jobs.other_bytes(name))
        return self.settings.artifacts.publish(name, directory)

    def event(self, kind: str, **data: Any) -> None:
        with self._buffer_lock:
            self._buffer.append((kind, as_json(data)))
            del self._buffer[:-MAX_BUFFERED_EVENTS]

    def check(self) -> None:
        if self._lost.is_set():
            raise LeaseLost(f"job {self.job_id} is not ours any more at epoch {self.epoch}")
        if self._cancelled.is_set():
            raise Cancelled(f"job {self.job_id} was cancelled")

    def run(self, on_abandon: Callable[[], None] | None = None) -> JobState | None:
        """Do the work and end the job.

        Args:
            on_abandon: called from the beating thread when the work must stop (the lease is lost, or a
                cancel was not heeded in time) and cannot be stopped otherwise.

        Returns:
            The state the job ended in, or None when it is not ours any more.
        """
        beat = threading.Thread(
            target=self._beat, args=(on_abandon,), name=f"lease-{self.job_id}", daemon=True
        )
        beat.start()
        try:
            return self._work_and_end()
        except LeaseLost:
            log.warning("job %s epoch %d: lease lost, nothing of it takes effect", self.job_id, self.epoch)
            return None
        finally:
            self._done.set()
            beat.join(timeout=FLUSH_S + 1)

    def _work_and_end(self) -> JobState:
        try:
            outcome = self.kind.load()(self)
            self.check()
        except Cancelled:
            self._finish(lambda session: jobs.end_cancel(session, self._job.id, self.epoch))
            return JobState.CANCELLED
        except LeaseLost:
            raise
        except RaymillError as error:
            log.warning("job %s failed: %s", self.job_id, error)
            return self._fail(str(error), retry=isinstance(error, Unavailable))
        except Exception as error:
            log.exception("job %s: attempt %d failed", self.job_id, self._job.attempt)
            return self._fail(f"{type(error).__name__}: {first_line(error)}", retry=True)
        try:
            return self._succeed(outcome)
        except RaymillError as error:
            if isinstance(error, LeaseLost | Unavailable):
                raise
            return self._fail(str(error), retry=False)
        except Exception as error:
            log.exception("job %s: its result was refused", self.job_id)
            return self._fail(f"{type(error).__name__}: {first_line(error)}", retry=True)

    def _succeed(self, outcome: Outcome) -> JobState:
        return self._finish(
            lambda session: jobs.succeed(
                session,
                self._job.id,
                self.epoch,
                result=dict(outcome.result),
                artifacts=outcome.artifacts,
                effects=self.kind.effects,
            )
        )

    def _fail(self, error: str, *, retry: bool) -> JobState:
        text: str = as_json(error)
        return self._finish(lambda session: jobs.fail(session, self._job.id, self.epoch, text, retry=retry))

    def _finish(self, end: Callable[[Session], T]) -> T:
        """Write the end, preceded by the events still buffered, however long the database is away."""
        self._flush()
        return self.database.patiently(end, timeout_s=24 * 3600)

    def _beat(self, on_abandon: Callable[[], None] | None) -> None:
        next_beat = 0.0
        abandon_at: float | None = None
        while not self._done.wait(FLUSH_S):
            self._flush()
            if time.monotonic() >= next_beat:
                next_beat = time.monotonic() + self.settings.lease_s / 6
                self._beat_once()
            if self._lost.is_set():
                abandon_at = abandon_at or time.monotonic()
            elif self._cancelled.is_set():
                abandon_at = abandon_at or time.monotonic() + self.settings.lease_s / 2
            if abandon_at is not None and time.monotonic() >= abandon_at and on_abandon is not None:
                if not self._lost.is_set():
                    with contextlib.suppress(LeaseLost):
                        self._finish(lambda session: jobs.end_cancel(session, self._job.id, self.epoch))
                on_abandon()

    def _beat_once(self) -> None:
        answer = self.database.patiently(
            lambda session: jobs.heartbeat(session, self._job.id, self.epoch, lease_s=self.settings.lease_s),
            timeout_s=24 * 3600,
        )
        if self._done.is_set():
            return
        if not answer.owned:
            self._lost.set()
        elif answer.cancel:
            self._cancelled.set()

    def _flush(self) -> None:
        with self._buffer_lock:
            events, self._buffer = self._buffer, []
        if events and not self._lost.is_set():
            self.database.patiently(
                lambda session: jobs.add_events(session, self._job, events), timeout_s=24 * 3600
            )


def first_line(error: BaseException) -> str:
    """What a person needs of an exception; the rest is in the log."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:500] if lines else type(error).__name__


def as_json(value: Any) -> Any:
    """`value` as Postgres takes it: a loss may be NaN and a log line may hold a NUL, which JSONB refuses."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, str):
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
    if isinstance(value, dict):
        return {as_json(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    return value


def open_attempt(
    database: Database, settings: Settings, job_id: uuid.UUID, epoch: int, worker: str
) -> Attempt:
    """Take over a job that was claimed for this process.

    Raises:
        LeaseLost: `epoch` owns it no longer.
    """

    def read(session: Session) -> Attempt:
        job = jobs.owned(session, job_id, epoch)
        jobs.heartbeat(session, job_id, epoch, lease_s=settings.lease_s)
        jobs.touch_worker(session, job_id, epoch, worker)
        return Attempt(database, settings, job, jobs.parent_results(session, job))

    return database.patiently(read)
