"""The five scenarios of the public benchmark of queues in Postgres, by name, and a database away for a minute.

In each, 150 jobs with effects run while something goes away; afterwards all have succeeded, each effect is there once.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import func, select
from tests.cluster.small_engine import Processes, all_ended, check, exit_code, submit

from raymill.registry.database import Database
from raymill.registry.jobs import ErrorClass
from raymill.registry.postgres import EmbeddedPostgres, PostgresConfig
from raymill.registry.tables import Job, JobState

JOBS = 150
MAX_CONNECTIONS = 40


@pytest.fixture
def server() -> Iterator[EmbeddedPostgres]:
    # Not tmp_path: pytest makes that 0700, and root's PostgreSQL runs as a user who must pass through.
    folder = Path(tempfile.mkdtemp(prefix="raymill-outage-"))
    folder.chmod(0o755)
    found = EmbeddedPostgres(folder / "postgres", PostgresConfig(max_connections=MAX_CONNECTIONS))
    found.ensure_running()
    yield found
    found.stop()
    shutil.rmtree(folder)


@pytest.fixture
def outage(server: EmbeddedPostgres, tmp_path: Path) -> Iterator[tuple[Database, Processes]]:
    """Two engines at work on `JOBS` jobs."""
    database = Database(server.url())
    database.migrate()
    submit(database, JOBS, seconds=0.1)
    processes = Processes(server.url(), tmp_path)
    yield database, processes
    processes.stop()
    database.close()


def ended(database: Database) -> int:
    return database.patiently(
        lambda session: session.scalar(select(func.count()).where(Job.state == JobState.SUCCEEDED)) or 0
    )


def in_the_middle(database: Database, jobs: int = JOBS // 5) -> None:
    deadline = time.monotonic() + 60
    while ended(database) < jobs:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def all_done(database: Database) -> None:
    check(database)
    assert all_ended(database) == {JobState.SUCCEEDED: JOBS}


def test_postgres_restart(server: EmbeddedPostgres, outage: tuple[Database, Processes]) -> None:
    database, processes = outage
    engines = [processes.engine() for _ in range(2)]
    in_the_middle(database)
    server.stop()
    time.sleep(1)
    server.ensure_running()
    assert [exit_code(engine, 120) for engine in engines] == [0, 0]
    all_done(database)


def test_pg_backend_kill(server: EmbeddedPostgres, outage: tuple[Database, Processes]) -> None:
    database, processes = outage
    engines = [processes.engine() for _ in range(2)]
    with psycopg.connect(server.url().replace("+psycopg", ""), autocommit=True) as other:
        for share in range(1, 6):
            in_the_middle(database, JOBS * share // 8)
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name LIKE 'raymill%' AND pid <> pg_backend_pid()"
            )
    assert [exit_code(engine, 120) for engine in engines] == [0, 0]
    all_done(database)


def test_pool_exhaustion(server: EmbeddedPostgres, outage: tuple[Database, Processes]) -> None:
    database, processes = outage
    engines = [processes.engine() for _ in range(2)]
    in_the_middle(database)
    database.close()
    dsn = server.url().replace("+psycopg", "")
    refused = 0
    with ExitStack() as taken:
        until = time.monotonic() + 3
        while time.monotonic() < until or refused <= 10:
            assert time.monotonic() < until + 60
            try:
                taken.enter_context(psycopg.connect(dsn))
            except psycopg.OperationalError:
                refused += 1
                time.sleep(0.05)
    assert [exit_code(engine, 120) for engine in engines] == [0, 0]
    all_done(database)


def test_crash_recovery(server: EmbeddedPostgres, outage: tuple[Database, Processes]) -> None:
    database, processes = outage
    engines = [processes.engine() for _ in range(2)]
    in_the_middle(database)
    pid = server.pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    time.sleep(1)
    server.ensure_running()
    assert [exit_code(engine, 120) for engine in engines] == [0, 0]
    all_done(database)


def test_repeated_kills(outage: tuple[Database, Processes]) -> None:
    database, processes = outage
    for share in range(1, 6):
        engine = processes.engine()
        in_the_middle(database, JOBS * share // 8)
        engine.kill()
        assert exit_code(engine) == -signal.SIGKILL
    assert exit_code(processes.engine(), 120) == 0
    all_done(database)


@pytest.mark.slow
def test_a_database_away_for_a_minute_fails_no_job(
    server: EmbeddedPostgres, outage: tuple[Database, Processes]
) -> None:
    database, processes = outage
    engines = [processes.engine() for _ in range(2)]
    in_the_middle(database)
    server.stop()
    time.sleep(60)
    server.ensure_running()
    assert [exit_code(engine, 180) for engine in engines] == [0, 0]
    all_done(database)
    with database.transaction() as session:
        counted = session.scalars(select(Job.failures)).all()
    # What the work itself met is its own: one job in ten says that a network was away.
    assert {why for failures in counted for why in failures} <= {ErrorClass.TRANSIENT.value}
