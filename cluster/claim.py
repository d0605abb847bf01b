"""Claiming work: take ready jobs, and end at once those whose result is there already."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial

from sqlalchemy.orm import Session

from raymill.cluster.job_numbers import JobNumbers
from raymill.cluster.keeper import FOREVER_S
from raymill.cluster.kinds import Runner, kind_of
from raymill.cluster.settings import Settings
from raymill.policies.errors import NotFound, RaymillError
from raymill.registry import jobs
from raymill.registry.artifact_access import Artifacts
from raymill.registry.artifacts import digests_of
from raymill.registry.database import Database
from raymill.registry.failpoints import failpoint
from raymill.registry.jobs import Claimed, Done, ErrorClass, Floors
from raymill.registry.tables import Artifact

log = logging.getLogger(__name__)

LOOK_S = 5.0
"""For an answer of the store of artifacts."""


class Claimer:
    """Takes jobs of all queues that one kind of runner serves. For one thread at a time.

    Args:
        worker: unique to this process, so that what a lost answer had given it can be told.
        running: ids of the jobs that this worker knows it has.
        numbers: counts what is claimed, and how long that took.
    """

    QUEUES_EVERY_S = 1.0
    EMPTY_S = 0.1
    """A queue that had nothing is not looked at for so long by a worker that is busy with another."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        runner: Runner,
        worker: str,
        running: Callable[[], Sequence[uuid.UUID]],
        numbers: JobNumbers | None = None,
    ) -> None:
        self._database = database
        self._settings = settings
        self._runner = runner
        self._worker = worker
        self._running = running
        self._numbers = numbers or JobNumbers()
        self._held = database.hold()
        self._floors: dict[str, Floors] = defaultdict(Floors)
        self._queues: list[str] = []
        self._queues_until = 0.0
        self._empty_until: dict[str, float] = defaultdict(float)

    def take(self, limit: int, *, lease_s: float | None = None) -> list[Claimed]:
        """Claim up to `limit` jobs; those that a finished job stands for are ended, not returned."""
        found: list[Claimed] = []
        for queue in self._next_queues():
            if limit - len(found) < 1:
                break
            found += self._claim(queue, limit - len(found), lease_s or self._settings.lease_s)
        return [job for job in found if not self._ended_at_once(job)]

    def end_and_take(self, done: Sequence[Done], limit: int) -> tuple[set[uuid.UUID], list[Claimed]]:
        """End jobs (`jobs.complete`) and claim up to `limit` of one queue, in one statement.

        Returns:
            The ids that ended, and the jobs to run; fewer than `limit` may mean that other queues have more.
        """
        now = time.monotonic()
        queues = self._next_queues() if limit else []
        queue = next((each for each in queues if now >= self._empty_until[each]), None)
        if queue is None:
            return self._held.run(partial(jobs.complete, done=done), timeout_s=FOREVER_S), []
        both = partial(
            jobs.complete_and_claim,
            done=done,
            queue=queue,
            worker=self._worker,
            limit=limit,
            lease_s=self._settings.lease_s,
            floors=self._floors[queue],
        )

        def again(connection: jobs.Connection) -> tuple[set[uuid.UUID], list[Claimed]]:
            return jobs.complete(connection, done), jobs.unheard(connection, self._worker, self._running())

        failpoint("claim:before")
        ended, claimed = self._held.run(both, again=again, timeout_s=FOREVER_S)
        failpoint("claim:after")
        self._numbers.claimed(claimed, time.monotonic() - now)
        self._note_empty(queue, len(claimed) < limit)
        return ended, [job for job in claimed if not self._ended_at_once(job)]

    def close(self) -> None:
        self._held.close()

    def _claim(self, queue: str, limit: int, lease_s: float) -> list[Claimed]:
        floors = self._floors[queue]

        def work(connection: jobs.Connection) -> list[Claimed]:
            return jobs.claim(connection, queue, self._worker, limit=limit, lease_s=lease_s, floors=floors)

        def again(connection: jobs.Connection) -> list[Claimed]:
            return jobs.unheard(connection, self._worker, self._running()) or work(connection)

        started = time.monotonic()
        failpoint("claim:before")
        claimed = self._held.run(work, again=again)
        failpoint("claim:after")
        self._numbers.claimed(claimed, time.monotonic() - started)
        self._note_empty(queue, len(claimed) < limit)
        return claimed

    def _note_empty(self, queue: str, empty: bool) -> None:
        self._empty_until[queue] = time.monotonic() + self.EMPTY_S if empty else 0.0

    def _next_queues(self) -> list[str]:
        """Each in turn comes first, so that a full one does not starve the others."""
        if time.monotonic() >= self._queues_until:
            self._queues_until = time.monotonic() + self.QUEUES_EVERY_S
            self._queues = self._held.run(lambda connection: jobs.queues(connection, self._runner))
        self._queues = self._queues[1:] + self._queues[:1]
        return self._queues

    def _ended_at_once(self, job: Claimed) -> bool:
        try:
            kind = kind_of(job.kind)
        except NotFound as error:  # written by another release; it must not stand in the way of the others
            text = str(error)
            self._database.patiently(
                lambda session: jobs.fail(session, job.id, job.epoch, text, ErrorClass.INPUT)
            )
            return True
        if not kind.reusable or job.address is None:
            return False
        store = self._settings.artifacts
        return self._database.patiently(lambda session: _reused(session, store, job))


def _reused(session: Session, store: Artifacts, job: Claimed) -> bool:
    made = jobs.reusable(session, address=job.address, name=job.name, kind=job.kind, but=job.id)
    if made is None or made.result is None:
        return False
    names = [made.result.get("artifact"), *(made.result.get("artifacts") or {}).values()]
    gone = [name for name in names if name and not _present(session, store, name)]
    if gone:
        log.warning(
            "artifact %s of job %s is not found in the store: making it again", ", ".join(gone), made.id
        )
        return False
    jobs.succeed(session, job.id, job.epoch, result=made.result, reused_job_id=made.id)
    log.info("job %s (%s) reuses %s of job %s", job.id, job.step, names[0] or job.address, made.id)
    return True


def _present(session: Session, store: Artifacts, name: str) -> bool:
    row = session.get(Artifact, name)
    if row is None:
        return False
    try:
        return _within(LOOK_S, partial(store.holds, name, digests_of(row.files)))
    except (
        RaymillError,
        TimeoutError,
    ) as error:  # the attempt that is made instead meets the same, and is tried again
        log.warning("whether %s is in the store is not known: %s", name, error)
        return False


def _within(seconds: float, look: Callable[[], bool]) -> bool:
    """A store that does not answer must not hold up claims until the leases of what was claimed run out.

    Raises:
        TimeoutError: it took longer. The thread goes on, and ends with the process.
    """
    found: Future[bool] = Future()

    def run() -> None:
        try:
            found.set_result(look())
        except Exception as error:  # noqa: BLE001 (it is raised where it is asked for)
            found.set_exception(error)

    threading.Thread(target=run, name="store-look", daemon=True).start()
    return found.result(seconds)
