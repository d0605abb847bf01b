"""Keeps what a process works on: one thread that beats for all its attempts and carries their events to
Postgres, and another that brings the plain ends of short jobs there, as many at once as have come together.

Neither waits for the work nor the work for them. A database that is away fails nothing: both try again until it
is back.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue
from typing import Protocol

from raymill.registry import jobs
from raymill.registry.database import Database, Held
from raymill.registry.failpoints import failpoint
from raymill.registry.jobs import Beat, Done

log = logging.getLogger(__name__)

FLUSH_S = 0.5
"""Events reach Postgres, and so the screen, this long after they happen."""

FOREVER_S = 7 * 24 * 3600.0
MAX_TOGETHER = 200


Ender = Callable[[list[Done]], set[uuid.UUID]]


class Kept(Protocol):
    """An attempt as its keeper sees it."""

    @property
    def id(self) -> uuid.UUID: ...
    @property
    def epoch(self) -> int: ...

    def flush(self) -> None:
        """Write buffered events."""

    def beaten(self, beat: Beat) -> None:
        """What the last heartbeat said."""

    def look(self) -> None:
        """Called twice a second."""


class Keeper:
    """For one process. Its threads start with the first attempt and end with `stop`.

    Args:
        end: writes ends and returns the ids that ended so; None has them written on a connection of the keeper's.
    """

    def __init__(self, database: Database, lease_s: float, end: Ender | None = None) -> None:
        self._database = database
        self._lease_s = lease_s
        self._end_all = end
        self._kept: dict[tuple[uuid.UUID, int], Kept] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._beating: threading.Thread | None = None
        self._ending: threading.Thread | None = None
        self._ends: SimpleQueue[_End] = SimpleQueue()

    def keep(self, attempt: Kept) -> None:
        with self._lock:
            self._kept[attempt.id, attempt.epoch] = attempt
            if self._beating is None:
                self._beating = threading.Thread(target=self._beat, name="leases", daemon=True)
                self._beating.start()

    def release(self, attempt: Kept) -> None:
        with self._lock:
            self._kept.pop((attempt.id, attempt.epoch), None)

    def running(self) -> list[Kept]:
        with self._lock:
            return list(self._kept.values())

    def complete(self, done: Done) -> bool:
        """End a job that stands alone and has no effects; returns when that is committed.

        Returns:
            Whether it ended so; if not, `jobs.succeed` says why.
        """
        end = _End(done)
        with self._lock:
            if self._ending is None:
                self._ending = threading.Thread(target=self._end, name="ends", daemon=True)
                self._ending.start()
        self._ends.put(end)
        end.told.wait()
        return end.ended

    def stop(self) -> None:
        self._stop.set()
        if self._beating is not None:
            self._beating.join(timeout=FLUSH_S + 1)

    def _beat(self) -> None:
        held = self._database.hold()
        next_beat = time.monotonic() + self._lease_s / 6
        while not self._stop.wait(FLUSH_S):
            kept = self.running()
            for attempt in kept:
                self._guarded(attempt.flush)
            if kept and time.monotonic() >= next_beat:
                next_beat = time.monotonic() + self._lease_s / 6
                self._guarded(partial(self._beat_all, held, kept))
            for attempt in kept:
                self._guarded(attempt.look)
        held.close()

    def _beat_all(self, held: Held, kept: list[Kept]) -> None:
        mine = [(attempt.id, attempt.epoch) for attempt in kept]
        failpoint("beat:before")
        answers = held.run(partial(jobs.beat, jobs=mine, lease_s=self._lease_s), timeout_s=FOREVER_S)
        failpoint("beat:after")
        for attempt, answer in zip(kept, answers, strict=True):
            attempt.beaten(answer)

    def _guarded(self, work: Callable[[], None]) -> None:
        """One attempt whose events the database refuses must not cost all the others their leases."""
        try:
            work()
        except Exception:
            log.exception("an attempt could not be kept up with; the others go on")

    def _end(self) -> None:
        held = self._database.hold()

        def complete(done: list[Done]) -> set[uuid.UUID]:
            return held.run(partial(jobs.complete, done=done), timeout_s=FOREVER_S)

        end_all = self._end_all or complete
        while not self._stop.is_set():
            try:
                together = [self._ends.get(timeout=1.0)]
            except Empty:
                continue
            while len(together) < MAX_TOGETHER and not self._ends.empty():
                together.append(self._ends.get())
            done = [end.done for end in together]
            failpoint("complete:before")
            try:
                ended = end_all(done)
            except Exception:
                # One that the database refuses must not hold the others: each is told apart by `succeed`.
                log.exception("%d ends were refused together", len(done))
                ended = set()
            failpoint("complete:after")
            for end in together:
                end.ended = end.done.id in ended
                end.told.set()
        held.close()


class _End:
    __slots__ = ("done", "ended", "told")

    def __init__(self, done: Done) -> None:
        self.done = done
        self.ended = False
        self.told = threading.Event()
