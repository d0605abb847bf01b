"""Wakes whoever waits for events: one connection to Postgres that listens for all the streams of a replica.

Knows nothing of events but whose stream they are in. It may miss a ring; whoever waits looks by itself as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator

import psycopg
from sqlalchemy import URL

from raymill.registry.database import dsn_of

log = logging.getLogger(__name__)

CHANNEL = "raymill_event"
IDLE_S = 10.0
"""The connection is given up when nobody has waited for so long."""

AWAY_S = 1.0

EVERY = "*"
"""Whose rings ring for all streams."""


class Ring:
    """What one stream waits for. For the event loop that made it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def ring(self) -> None:
        """May be called from any thread."""
        with contextlib.suppress(RuntimeError):  # its loop is gone, and so is who waited
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self, timeout_s: float) -> None:
        """Until it has rung since the last wait, for at most `timeout_s`."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._event.wait(), timeout_s)
        self._event.clear()


class Bell:
    """Rings for a pipeline, or a job that stands alone, when it has said something. Its thread starts with the
    first stream."""

    def __init__(self, url: URL) -> None:
        self._dsn = dsn_of(url)
        self._rings: dict[str, set[Ring]] = defaultdict(set)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def of(self, stream: uuid.UUID) -> contextlib.AbstractContextManager[Ring]:
        """What rings for that stream, in the block."""
        return self._ringing(str(stream))

    def of_all(self) -> contextlib.AbstractContextManager[Ring]:
        """What rings for every stream, in the block."""
        return self._ringing(EVERY)

    @contextlib.contextmanager
    def _ringing(self, stream: str) -> Iterator[Ring]:
        ring = Ring()
        with self._lock:
            self._rings[stream].add(ring)
            if self._thread is None:
                self._thread = threading.Thread(target=self._listen, name="events", daemon=True)
                self._thread.start()
        try:
            yield ring
        finally:
            with self._lock:
                self._rings[stream].discard(ring)
                if not self._rings[stream]:
                    del self._rings[stream]

    def _listen(self) -> None:
        while not self._over():
            try:
                with psycopg.connect(self._dsn, autocommit=True, application_name="raymill") as connection:
                    connection.execute(f"LISTEN {CHANNEL}")
                    self._ring_all()  # something may have happened before we listened
                    self._hear(connection)
            except psycopg.Error as error:
                log.warning("cannot listen for events (%s): looking for them instead", type(error).__name__)
                time.sleep(AWAY_S)

    def _hear(self, connection: psycopg.Connection[tuple[object, ...]]) -> None:
        while True:
            for heard in connection.notifies(timeout=IDLE_S):
                with self._lock:
                    rings = [*self._rings.get(heard.payload, ()), *self._rings.get(EVERY, ())]
                for ring in rings:
                    ring.ring()
            with self._lock:
                if not self._rings:
                    return

    def _over(self) -> bool:
        with self._lock:
            if self._rings:
                return False
            self._thread = None
            return True

    def _ring_all(self) -> None:
        with self._lock:
            rings = [ring for each in self._rings.values() for ring in each]
        for ring in rings:
            ring.ring()
