"""One attempt at one job, in whichever process does the work: progress, and the end.

The process's `Keeper` beats for it. A database that is away fails nothing: the end tries again until it is back.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy.orm import Session

from raymill.cluster import logs
from raymill.cluster.context import Cancelled, JsonObject, Outcome, Paused, Preempted
from raymill.cluster.errors import classify
from raymill.cluster.job_span import JobSpan
from raymill.cluster.keeper import FOREVER_S, Keeper
from raymill.cluster.kinds import Kind, kind_of
from raymill.cluster.plain import as_json, first_line
from raymill.cluster.settings import Settings
from raymill.policies.errors import Conflict, NotFound, RaymillError, Unavailable
from raymill.registry import jobs
from raymill.registry.artifact_access import checked
from raymill.registry.artifacts import (
    Published,
    digest_files,
    digests_of,
    tree_digest,
    verify_files,
)
from raymill.registry.database import Database
from raymill.registry.failpoints import failpoint
from raymill.registry.jobs import Beat, Claimed, Done, LeaseLost
from raymill.registry.tables import Artifact, JobState

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_BUFFERED_EVENTS = 10_000
"""While the database is away, step events beyond this are dropped, oldest first; the work goes on."""

PAUSE_PATIENCE_S = 900.0
"""Work that has heard of a pause may take so long to come to rest: a large model's checkpoint is written first."""


class Attempt:
    """The `JobContext` of a claimed job."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        job: Claimed,
        inputs: dict[str, JsonObject],
        keeper: Keeper | None = None,
    ) -> None:
        self.database = database
        self.settings = settings
        self.kind: Kind = kind_of(job.kind)
        self.inputs = inputs
        self.config: JsonObject = job.config
        self.name = job.name
        self.address = job.address or ""
        self.id = job.id
        self.epoch = job.epoch
        self._job = job
        self._keeper = keeper
        self._buffer: list[tuple[str, JsonObject]] = []
        self._buffer_lock = threading.Lock()
        self._cancelled = threading.Event()
        self._paused = threading.Event()
        self._lost = threading.Event()
        self._leaving: str | None = None
        # When the work was first asked to stop, and when it heard of a pause.
        self._asked_at = self._heard_at = 0.0
        self._on_abandon: Callable[[], None] | None = None
        self._held = contextlib.ExitStack()
        """Artifacts that were asked for: they stay on this node until the work has ended."""

        self._digests: dict[str, str] = {}

    @property
    def job_id(self) -> str:
        return str(self.id)

    @property
    def work_dir(self) -> Path:
        path = self.settings.work_dir / self.job_id
        path.mkdir(parents=True, exist_ok=True)
        return path

    def path(self, artifact: str) -> Path:
        # What this attempt has published has no row yet.
        digest = self._digests.get(artifact) or self._registered(artifact).digest
        return self._held.enter_context(self.settings.artifacts.hold(artifact, digest))

    def verified(self, artifact: str) -> Path:
        path, files = self.path(artifact), digests_of(self._registered(artifact).files)
        checked(self.settings.artifacts, path, lambda: verify_files(path, files))
        return path

    def _registered(self, artifact: str) -> Artifact:
        row = self.database.patiently(lambda session: session.get(Artifact, artifact))
        if row is None:
            raise NotFound(f"artifact {artifact} is not registered: run the step that makes it")
        return row

    def publish(self, kind: str, directory: Path) -> Published:
        name = f"{kind}/{self.name}/{self.address}"
        registered = self.database.patiently(lambda session: session.get(Artifact, name))
        if registered is not None and registered.digest != tree_digest(digest_files(directory)):
            raise Conflict(jobs.other_bytes(name))
        published = self.settings.artifacts.publish(name, directory)
        self._digests[name] = published.digest
        return published

    def event(self, kind: str, **data: Any) -> None:
        with self._buffer_lock:
            self._buffer.append((kind, as_json(data)))
            del self._buffer[:-MAX_BUFFERED_EVENTS]

    def check(self) -> None:
        if self._lost.is_set():
            raise LeaseLost(f"job {self.job_id} is not ours any more at epoch {self.epoch}")
        if self._cancelled.is_set():
            raise Cancelled(f"job {self.job_id} was cancelled")
        if self._leaving is not None:
            raise Preempted(self._leaving)
        if self._paused.is_set():
            self._heard_at = self._heard_at or time.monotonic()
            raise Paused(f"job {self.job_id} was paused")

    def run(self, on_abandon: Callable[[], None] | None = None) -> JobState | None:
        """Do the work and end the job.

        Args:
            on_abandon: called from the keeper's thread when the work must stop (the lease is lost, or a cancel
                or pause was not heeded in time) and cannot be stopped otherwise.

        Returns:
            The state the job ended in, or None when it is not ours any more.
        """
        self._on_abandon = on_abandon
        keeper = self._keeper or Keeper(self.database, self.settings.lease_s)
        keeper.keep(self)
        try:
            with logs.only_about(job_id=self.job_id), JobSpan(self.database, self._job) as span:
                span.state = self._work_and_end(keeper)
                return span.state
        except LeaseLost:
            log.warning("job %s epoch %d: lease lost, nothing of it takes effect", self.job_id, self.epoch)
            return None
        finally:
            self._held.close()
            keeper.release(self)
            if self._keeper is None:
                keeper.stop()

    def leave(self, reason: str) -> None:
        """The process has to go soon: `check` says so, and the job goes back when the work has stopped. Called from
        another thread. Work that has lost its lease is not told to leave anything behind.

        Raises:
            LeaseLost: the job is not ours any more.
        """
        try:
            self.database.patiently(lambda session: jobs.owned(session, self.id, self.epoch), timeout_s=1.0)
        except LeaseLost:
            self._lost.set()
            raise
        except Unavailable:
            pass  # nobody can have taken it over meanwhile
        self._leaving = reason

    def give_back(self, reason: str) -> None:
        """The process has to go now: somebody else goes on with the job. Called from another thread."""
        with contextlib.suppress(LeaseLost):
            self._finish("give_back", lambda session: jobs.give_back(session, self.id, self.epoch, reason))
        self._lost.set()

    def flush(self) -> None:
        with self._buffer_lock:
            events, self._buffer = self._buffer, []
        if not events or self._lost.is_set():
            return
        failpoint("events:before")
        self.database.patiently(
            lambda session: jobs.add_events(session, self._job, events), timeout_s=FOREVER_S
        )
        failpoint("events:after")

    def beaten(self, beat: Beat) -> None:
        if not beat.owned:
            self._lost.set()
        elif beat.cancel:
            self._ask(self._cancelled)
        elif beat.pause:
            self._ask(self._paused)
        else:
            self._paused.clear()  # resumed before the work had looked

    def _ask(self, wish: threading.Event) -> None:
        if not wish.is_set():
            self._asked_at = time.monotonic()
            wish.set()

    def look(self) -> None:
        if self._on_abandon is None:
            return
        if not self._lost.is_set():
            if not self._cancelled.is_set() and not self._paused.is_set():
                return
            abandon_at = self._asked_at + self.settings.lease_s / 2
            if not self._cancelled.is_set() and self._heard_at:
                abandon_at = max(self._asked_at, self._heard_at) + PAUSE_PATIENCE_S
            if time.monotonic() < abandon_at:
                return
            with contextlib.suppress(LeaseLost):
                self._finish("stop", self._stopped)
        self._on_abandon()

    def _stopped(self, session: Session) -> None:
        if self._cancelled.is_set():
            jobs.end_cancel(session, self.id, self.epoch)
        else:
            jobs.end_pause(session, self.id, self.epoch)

    def _work_and_end(self, keeper: Keeper) -> JobState:
        try:
            outcome = self.kind.load()(self)
            if not self._paused.is_set() and self._leaving is None:  # what is done already needs no rest
                self.check()
        except Cancelled:
            self._finish("stop", lambda session: jobs.end_cancel(session, self.id, self.epoch))
            return JobState.CANCELLED
        except Paused:
            return self._finish("stop", lambda session: jobs.end_pause(session, self.id, self.epoch))
        except Preempted as notice:
            return self._given_back(str(notice))
        except LeaseLost:
            raise
        except Exception as error:  # noqa: BLE001 (whatever it is, it is classified and recorded)
            # What breaks while the machine goes down is no fault of the job's.
            return self._fail(error) if self._leaving is None else self._given_back(self._leaving)
        try:
            return self._succeed(keeper, outcome)
        except (LeaseLost, Unavailable):
            raise
        except Exception as error:  # noqa: BLE001 (whatever it is, it is classified and recorded)
            return self._fail(error)

    def _succeed(self, keeper: Keeper, outcome: Outcome) -> JobState:
        plain = self._job.pipeline_id is None and self.kind.effects is None and not outcome.artifacts
        if plain:
            self.flush()
            if keeper.complete(Done(self.id, self.epoch, dict(outcome.result))):
                return JobState.SUCCEEDED
        return self._finish(
            "succeed",
            lambda session: jobs.succeed(
                session,
                self.id,
                self.epoch,
                result=dict(outcome.result),
                artifacts=outcome.artifacts,
                effects=self.kind.effects,
            ),
        )

    def _given_back(self, reason: str) -> JobState:
        return self._finish("give_back", lambda session: jobs.give_back(session, self.id, self.epoch, reason))

    def _fail(self, error: Exception) -> JobState:
        why = classify(error)
        if isinstance(error, RaymillError):
            log.warning("job %s failed: %s", self.job_id, error)
            said = str(error)
        else:
            log.exception("job %s: attempt %d failed", self.job_id, self._job.attempt)
            said = f"{type(error).__name__}: {first_line(error)}"
        text: str = as_json(said)
        return self._finish("fail", lambda session: jobs.fail(session, self.id, self.epoch, text, why))

    def _finish(self, name: str, end: Callable[[Session], T]) -> T:
        """Write the end, preceded by the events still buffered, however long the database is away."""
        self.flush()

        def work(session: Session) -> T:
            failpoint(f"{name}:before")
            ended = end(session)
            session.flush()
            failpoint(f"{name}:written")
            return ended

        ended = self.database.patiently(work, timeout_s=FOREVER_S)
        failpoint(f"{name}:after")
        return ended


def open_attempt(
    database: Database,
    settings: Settings,
    job_id: uuid.UUID,
    epoch: int,
    worker: str | None = None,
    keeper: Keeper | None = None,
) -> Attempt:
    """Take over a job that was claimed for this process.

    Args:
        worker: who does the work now; None: whoever has claimed it just now.

    Raises:
        LeaseLost: `epoch` owns it no longer.
    """

    def read(session: Session) -> Attempt:
        failpoint("open:before")
        row = jobs.owned(session, job_id, epoch)
        if worker is not None:
            jobs.beat(jobs.raw(session), [(job_id, epoch)], lease_s=settings.lease_s)
            jobs.touch_worker(session, job_id, epoch, worker)
        job = Claimed._make(getattr(row, name) for name in Claimed._fields)
        return Attempt(database, settings, job, jobs.parent_results(session, row), keeper)

    attempt = database.patiently(read)
    failpoint("open:after")
    return attempt
