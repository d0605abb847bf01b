"""The process that brings usage records from the spools of this machine's replicas into Postgres.

    python -m raymill.serve.gateway.ingest

One for each spool directory, by a lock; replicas start it when there is none (`ensure_ingester`), and it
ends by itself when no replica is left. A batch is one transaction: rows, meters, traces. A batch that comes
again, after a crash between commit and `remember`, changes nothing, for its rows are there already and only
new rows count. Of a dead replica, requests that were open become rows with outcome `lost`; then its leases
go back at once. While Postgres is away it waits.

It reads two settings from the environment, RAYMILL_HOME and DATABASE_URL, rather than import all of them
with what they need: it shall stay small. Times are seconds.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from raymill.cluster import logs
from raymill.cluster.processes import spawn
from raymill.registry import meters
from raymill.registry.home import default_home
from raymill.registry.postgres import EmbeddedPostgres
from raymill.serve.gateway.segments import MAX_BATCH_BYTES, MAX_RECORDS, SpoolReader, is_spool
from raymill.serve.gateway.usage_rows import prepare, store, store_end

if TYPE_CHECKING:
    from raymill.cluster.settings import Settings

logger = logging.getLogger(__name__)

POLL_S = 0.25
SWEEP_EVERY_S = 5.0
FORGET_EVERY_S = 600.0
AGAIN_S = 1.0
LINGER_S = 30.0
START_S = 60.0
DETACH = "--detach"
LOCK_FILE = "ingest.lock"
URL_VARIABLES = ("RAYMILL_DATABASE_URL", "DATABASE_URL")

AWAY = (psycopg.OperationalError, psycopg.InterfaceError)


class Ingester:
    """Reads every spool in `directory`. Its lock must be held."""

    def __init__(
        self, directory: Path, url: Callable[[], str], *, lost_after_s: float = meters.LOST_AFTER_S
    ) -> None:
        self._directory = directory
        self._url = url
        self._lost_after_s = lost_after_s
        self._readers: dict[Path, SpoolReader] = {}
        self._connection: psycopg.Connection[Any] | None = None
        self._connected_at = self._swept_at = self._forgot_at = 0.0

    def run(self, stop: threading.Event, *, linger_s: float = LINGER_S) -> None:
        """Until there has been no replica for `linger_s`, or `stop`; then once more what is there."""
        last_seen = time.monotonic()
        away = False
        while not stop.is_set() and time.monotonic() - last_seen < linger_s:
            try:
                more = self.step()
                away = False
            except AWAY as error:
                if not away:
                    logger.warning("Waiting for Postgres: %s", error)
                away, more = True, False
                self.close()
                stop.wait(AGAIN_S)
            if self._readers:
                last_seen = time.monotonic()
            if not more:
                stop.wait(POLL_S)
        if stop.is_set() and not away:
            self.step()
        self.close()

    def step(self) -> bool:
        """Ingest a batch of each replica. Returns whether any was full, so that more is there."""
        connection = self._connected()
        for folder in sorted(self._directory.iterdir()):
            if is_spool(folder) and folder not in self._readers:
                self._readers[folder] = SpoolReader(folder)
        more = [self._ingest(connection, reader) for reader in list(self._readers.values())]
        self._sweep(connection)
        return any(more)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ingest(self, connection: psycopg.Connection[Any], reader: SpoolReader) -> bool:
        dead = reader.is_dead()
        batch = reader.read()
        if batch.end != reader.position:
            store(connection, reader.replica_id, batch.closed, refused=self._directory)
            reader.remember(batch)
            return len(batch.closed) >= MAX_RECORDS or batch.size_bytes >= MAX_BATCH_BYTES or dead
        if dead:
            lost = list(reader.open.values())
            store_end(connection, reader.replica_id, lost, refused=self._directory)
            logger.info("Replica %s is gone: %d requests were lost", reader.replica_id, len(lost))
            reader.delete()
            del self._readers[reader.folder]
        return False

    def _sweep(self, connection: psycopg.Connection[Any]) -> None:
        now = time.monotonic()
        # After Postgres was away for long, replicas get the same time to be seen again.
        if now - self._swept_at > SWEEP_EVERY_S and now - self._connected_at > self._lost_after_s:
            self._swept_at = now
            with connection.transaction():
                for replica_id in meters.sweep(connection, self._lost_after_s):
                    logger.warning("Replica %s was not seen: its leases went back", replica_id)
        if now - self._forgot_at > FORGET_EVERY_S:
            self._forgot_at = now
            with connection.transaction():
                meters.forget_old(connection)

    def _connected(self) -> psycopg.Connection[Any]:
        if self._connection is None:
            connection = psycopg.connect(self._url(), autocommit=True, application_name="raymill-ingest")
            prepare(connection)
            self._connection, self._connected_at = connection, time.monotonic()
        return self._connection


def ensure_ingester(settings: Settings) -> None:
    """Start the ingester of these settings' spool if none runs. Cheap enough for every few seconds."""
    directory = settings.spool_dir
    directory.mkdir(parents=True, exist_ok=True)
    lock = take_lock(directory, timeout_s=0.0)
    if lock is None:
        return
    os.close(lock)
    environment = {**os.environ, "RAYMILL_HOME": str(settings.home)}
    if settings.database_url is not None:
        environment[URL_VARIABLES[0]] = settings.database_url.get_secret_value()
    command = [sys.executable, "-m", "raymill.serve.gateway.ingest", DETACH]
    spawn(command, log=settings.logs_dir / "ingest.log", env=environment).wait(START_S)


def take_lock(directory: Path, *, timeout_s: float) -> int | None:
    """Be the one ingester of `directory`; None when another one is. The lock goes with the process."""
    descriptor = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                return None
            time.sleep(0.05)
        else:
            return descriptor


def database_url(home: Path) -> str:
    """As libpq takes it. Asked for at each connection: an embedded Postgres may come back on another port."""
    url = next((os.environ[name] for name in URL_VARIABLES if os.environ.get(name)), None)
    url = url or EmbeddedPostgres(home / "postgres").url()
    return url.replace("postgresql+psycopg://", "postgresql://", 1)


def main() -> None:
    logs.set_up("ingest")
    home = default_home()
    directory = home / "spool"
    directory.mkdir(parents=True, exist_ok=True)
    # A replica that looks whether the lock is free holds it for a moment.
    if take_lock(directory, timeout_s=1.0) is None:
        return
    # Nobody's child: Ray kills the children of a worker that ends. The lock goes on with the fork.
    if DETACH in sys.argv and os.fork():
        os._exit(0)
    os.nice(5)  # requests first
    stop = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stop.set())
    logger.info("ingesting usage records from %s", directory)
    Ingester(directory, lambda: database_url(home)).run(stop)


if __name__ == "__main__":
    main()
