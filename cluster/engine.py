"""The job engine's process: `python -m raymill.cluster.engine`.

Three loops over Postgres: start heavy jobs, keep the pool for short ones alive, take back jobs whose
worker went silent. `kill -9` of it loses nothing; whoever starts it again needs to know nothing.
"""

from __future__ import annotations

import datetime as dt
import logging
import signal
import threading
import time
from functools import partial

import ray
from ray.job_submission import JobSubmissionClient
from sqlalchemy.orm import Session

from raymill.cluster import artifact_sweep, logs
from raymill.cluster.dispatcher import Dispatcher
from raymill.cluster.job_logs import last_lines
from raymill.cluster.job_numbers import JobNumbers
from raymill.cluster.numbers import Publisher
from raymill.cluster.pool import Pool
from raymill.cluster.service import read_service
from raymill.cluster.settings import Settings
from raymill.cluster.wake import Wake
from raymill.registry import jobs
from raymill.registry.database import Database, clock
from raymill.registry.failpoints import failpoint
from raymill.registry.tables import Job

log = logging.getLogger(__name__)

POLL_S = 1.0
SWEEP_S = 5.0
FULL_SWEEP_S = 60.0


class Sweeper:
    """Takes back jobs whose lease ran out, except just after the database was away.

    Then nobody could beat, and leases have run out that living workers still hold; they get one lease's
    time to beat again.
    """

    def __init__(self, database: Database, settings: Settings, numbers: JobNumbers | None = None) -> None:
        self._database = database
        self._settings = settings
        self._numbers = numbers or JobNumbers()
        self._lease_s = lease_s = settings.lease_s
        self._since = jobs.LONG_AGO
        self._full_at = 0.0
        # Workers may have been cut off from the database before we came up as well.
        self._not_before = time.monotonic() + lease_s / 2
        self._last = time.monotonic()

    def step(self) -> None:
        # `patiently` waits while the database is away: the time since the last sweep tells of it.
        self._database.patiently(lambda session: session.connection())
        if time.monotonic() - self._last > SWEEP_S + 5:
            self._not_before = time.monotonic() + self._lease_s
        self._last = time.monotonic()
        if self._last >= self._not_before:
            failpoint("sweep:before")
            swept = self._database.patiently(self._sweep)
            failpoint("sweep:after")
            for job in swept:
                self._numbers.lost(job.queue, job.kind)
                log.warning(
                    "job %s (%s): worker %s was lost, now %s", job.id, job.step, job.worker, job.state.value
                )

    def _sweep(self, session: Session) -> list[Job]:
        # An index walks over the entries of jobs that have ended while an old snapshot may need them: those before
        # the last look are left out, but for a full look once a minute.
        full = time.monotonic() >= self._full_at
        now = clock(session)
        since = jobs.LONG_AGO if full else self._since
        found = jobs.sweep(session, since=since, last_log=partial(last_lines, self._settings))
        if len(found) < jobs.SWEEP_LIMIT:
            self._since = now - dt.timedelta(seconds=SWEEP_S)
            if full:
                self._full_at = time.monotonic() + FULL_SWEEP_S
        return found

    def run(self) -> None:
        while True:
            self.step()
            time.sleep(SWEEP_S)


def main() -> None:
    logs.set_up("engine")
    settings = Settings()
    service = read_service(settings)
    database = settings.open_database()
    ray.init(
        address=service.ray_address, namespace="raymill", log_to_driver=False, logging_level=logging.WARNING
    )
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    numbers = JobNumbers()
    publisher = Publisher(settings.metrics_dir, "engine", numbers.families, database=database)
    publisher.start()
    sweeper = Sweeper(database, settings, numbers)
    threading.Thread(target=sweeper.run, name="sweeper", daemon=True).start()
    artifact_sweep.start(database, settings)
    dispatcher = Dispatcher(database, settings, JobSubmissionClient(service.dashboard_url), numbers)
    pool = Pool()
    wake = Wake(database.url, "raymill_job")
    log.info("engine ready: %d heavy slots, %d pool threads", settings.heavy_slots, settings.pool_threads)
    while not stopping.is_set():
        pool.tend()
        if not dispatcher.step():
            wake.wait(POLL_S)
    pool.drain()
    publisher.stop()


if __name__ == "__main__":
    main()
