"""A job engine without Ray, for tests that kill it: the pool's worker and the sweeper, until nothing is left to do.

Processes are forked from one that has imported everything, so that each starts in milliseconds.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
from sqlalchemy import func, select

from raymill.cluster import engine, pool
from raymill.cluster.chaos_kinds import EFFECT
from raymill.cluster.context import JobContext, Outcome
from raymill.cluster.kinds import KINDS as ALL_KINDS
from raymill.cluster.kinds import Kind, kind_of
from raymill.cluster.pool import PoolWorker
from raymill.cluster.settings import Settings
from raymill.registry import failpoints, jobs
from raymill.registry.database import Database
from raymill.registry.failpoints import failpoint
from raymill.registry.jobs import JobSpec
from raymill.registry.tables import AuditEvent, Job, JobState

OPEN = [JobState.QUEUED, JobState.RUNNING]
LEASE_S = 1.5
MODULES = "raymill.cluster.chaos_kinds,tests.cluster.small_engine"

for _kind in ALL_KINDS.values():
    if _kind.queue == "short":
        _kind.load()


def plain(context: JobContext) -> Outcome:
    """Work of a kind without effects, so that its end is the plain one."""
    context.event("step", step=1)
    threading.Event().wait(float(context.config.get("seconds", 0.0)))
    context.check()
    if context.config.get("error"):
        raise ConnectionError("the network is away")
    return Outcome(result={"digest": "d"})


KINDS = {"plain": Kind(queue="short", work=f"{__name__}:plain", reusable=False)}


def submit(database: Database, count: int, seconds: float = 0.05) -> None:
    """Jobs with effects, each again until it is acknowledged."""
    for number in range(count):
        spec = JobSpec(
            kind="chaos", config={"seconds": seconds, "number": number}, idempotency_key=f"n{number}"
        )
        database.patiently(lambda session, spec=spec: jobs.enqueue(jobs.raw(session), [spec]))  # type: ignore[misc]
        failpoint("enqueue:after")


def _work(_: int) -> None:
    engine.SWEEP_S, pool.DRAIN_S = 0.2, 1.0  # no test is about how long they are
    settings = Settings()
    database = settings.open_database()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())  # before the first job runs, which a test waits for
    worker = PoolWorker(f"small {os.getpid()}")
    threading.Thread(target=worker.run, daemon=True).start()
    sweeper = engine.Sweeper(database, settings)
    while not stop.wait(0.1):
        sweeper.step()
        if not database.patiently(
            lambda session: session.scalar(select(func.count()).where(Job.state.in_(OPEN)))
        ):
            return
    worker.drain()


def _submit(count: int) -> None:
    submit(Settings().open_database(), count)


def _run(
    what: Callable[[int], None], count: int, environment: dict[str, str], points: str, errors: str
) -> None:
    os.environ.update(environment)
    descriptor = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 2)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    failpoints._active.update(failpoints.parse(points))
    assert kind_of("plain")
    what(count)
    os._exit(0)


class Processes:
    """Starts engines and submitters on one database, and ends what is left of them."""

    def __init__(self, url: str, home: Path, lease_s: float = LEASE_S) -> None:
        self._environment = {
            "RAYMILL_HOME": str(home),
            "DATABASE_URL": url,
            "RAYMILL_LEASE_S": str(lease_s),
            "RAYMILL_KINDS": MODULES,
        }
        self._started: list[ForkServerProcess] = []
        self.errors = home / "stderr"
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.cluster.small_engine"])

    def engine(self, failpoints: str = "") -> ForkServerProcess:
        return self._start(_work, 0, failpoints)

    def submitter(self, count: int, failpoints: str = "") -> ForkServerProcess:
        return self._start(_submit, count, failpoints)

    def stop(self) -> None:
        for process in self._started:
            if process.is_alive():
                process.kill()
            process.join(10)

    def _start(self, what: Callable[[int], None], count: int, points: str) -> ForkServerProcess:
        process = self._context.Process(
            target=_run, args=(what, count, self._environment, points, str(self.errors)), daemon=True
        )
        process.start()
        self._started.append(process)
        return process


def exit_code(process: ForkServerProcess, timeout_s: float = 60.0) -> int | None:
    """How it ended; None while it goes on after `timeout_s`."""
    process.join(timeout_s)
    return process.exitcode


def all_ended(database: Database) -> Counter[JobState]:
    with database.transaction() as session:
        return Counter(session.scalars(select(Job.state)))


def effects(database: Database) -> Counter[str]:
    with database.transaction() as session:
        rows = session.scalars(select(AuditEvent.object).where(AuditEvent.action == EFFECT))
        return Counter(rows)


def check(database: Database) -> None:
    """P1, P2: every job has ended, and those that succeeded have one effect each."""
    with database.transaction() as session:
        rows = session.execute(select(Job.id, Job.state, Job.kind)).all()
    assert all(row.state.terminal for row in rows)
    succeeded = {
        f"job/{row.id}": 1 for row in rows if row.state is JobState.SUCCEEDED and row.kind == "chaos"
    }
    assert effects(database) == Counter(succeeded)


@pytest.fixture
def processes(database: Database, tmp_path: Path) -> Iterator[Processes]:
    started = Processes(database.url.render_as_string(hide_password=False), tmp_path)
    yield started
    started.stop()
