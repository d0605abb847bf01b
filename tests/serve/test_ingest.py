"""From the spool into a real Postgres: each record once, whatever is killed, restarted or repeated in between."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from pydantic import SecretStr
from tests.serve.usage_records import NOBODY, record
from tests.waiting import eventually

from raymill.cluster.settings import Settings
from raymill.registry import meters
from raymill.registry.database import Database, dsn_of
from raymill.registry.postgres import EmbeddedPostgres
from raymill.serve.gateway.ingest import LOCK_FILE, Ingester, database_url, ensure_ingester, take_lock
from raymill.serve.gateway.segments import REFUSED, SpoolReader
from raymill.serve.gateway.spool import Spool, TraceRecord
from raymill.serve.gateway.usage_rows import prepare, store

TOKENS = ("account:a/tokens/total", 0)


def dsn(database: Database) -> str:
    return dsn_of(database.url)


@pytest.fixture
def connection(database: Database) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(dsn(database), autocommit=True) as connection:
        yield connection


@pytest.fixture
def ingester(database: Database, tmp_path: Path) -> Iterator[Ingester]:
    ingester = Ingester(tmp_path, lambda: dsn(database))
    yield ingester
    ingester.close()


def lease(connection: psycopg.Connection[Any], replica_id: uuid.UUID, amount: int) -> None:
    """As a replica would get it."""
    with connection.transaction():
        connection.execute(meters.REGISTER, {"replica": replica_id, "node": "here"})
        connection.execute("INSERT INTO meter VALUES (%s, %s, 0, %s)", [*TOKENS, amount])
        connection.execute("INSERT INTO meter_lease VALUES (%s, %s, %s, %s)", [replica_id, *TOKENS, amount])


def rows(connection: psycopg.Connection[Any], what: str, *arguments: object) -> list[tuple[Any, ...]]:
    return connection.execute(what, arguments).fetchall()


def test_records_become_rows_and_their_use_moves_from_lease_to_meter(
    ingester: Ingester, connection: psycopg.Connection[Any], tmp_path: Path
) -> None:
    spool = Spool(tmp_path, uuid.uuid4())
    lease(connection, replica_id(spool), 100)
    for number in range(1, 6):
        spool.open_request(record(number))
    for number in range(1, 5):
        done = record(number, outcome="ok", completion_tokens=number, first_token_ms=1.5, team_id=NOBODY)
        spool.close_request(done, [(*TOKENS, number)])
    ingester.step()
    got = rows(connection, "SELECT request_id, outcome, completion_tokens, at FROM usage ORDER BY id")
    assert [row[:3] for row in got] == [(f"r{number}", "ok", number) for number in range(1, 5)]
    assert got[0][3] == record().at
    assert rows(connection, "SELECT used, leased FROM meter") == [(10, 90)]
    assert rows(connection, "SELECT amount FROM meter_lease") == [(90,)]
    spool.close()


def replica_id(spool: Spool) -> uuid.UUID:
    return uuid.UUID(spool.folder.name)


def test_of_a_dead_replica_open_requests_are_lost_leases_go_back_and_the_folder_goes(
    ingester: Ingester, connection: psycopg.Connection[Any], tmp_path: Path
) -> None:
    spool = Spool(tmp_path, uuid.uuid4())
    lease(connection, replica_id(spool), 100)
    spool.open_request(record(1))
    spool.open_request(record(2))
    spool.close_request(record(1, outcome="ok"), [(*TOKENS, 30)])
    spool.close()
    ingester.step()
    ingester.step()
    outcomes = rows(connection, "SELECT request_id, outcome, completion_tokens FROM usage ORDER BY id")
    assert outcomes == [("r1", "ok", 0), ("r2", "lost", 0)]
    assert rows(connection, "SELECT used, leased FROM meter") == [(30, 0)]
    assert rows(connection, "SELECT * FROM meter_lease") == []
    assert rows(connection, "SELECT * FROM gateway_replica") == []
    assert not spool.folder.exists()


def test_a_batch_that_was_committed_and_not_remembered_changes_nothing_when_it_comes_again(
    ingester: Ingester, connection: psycopg.Connection[Any], tmp_path: Path
) -> None:
    spool = Spool(tmp_path, uuid.uuid4())
    lease(connection, replica_id(spool), 100)
    spool.close_request(record(1), [(*TOKENS, 10)], TraceRecord(prompt={}, answer={}))
    prepare(connection)
    store(connection, replica_id(spool), SpoolReader(spool.folder).read().closed, refused=tmp_path)
    spool.close_request(record(2), [(*TOKENS, 5)])
    spool.close_request(record(2), [(*TOKENS, 5)])  # nor does a record that was written twice
    ingester.step()
    assert rows(connection, "SELECT used, leased FROM meter") == [(15, 85)]
    assert rows(connection, "SELECT count(*) FROM usage") == [(2,)]
    assert rows(connection, "SELECT count(*) FROM trace") == [(1,)]
    spool.close()


def test_a_trace_is_kept_with_its_request(
    ingester: Ingester, connection: psycopg.Connection[Any], tmp_path: Path
) -> None:
    spool = Spool(tmp_path, uuid.uuid4())
    trace = TraceRecord(prompt={"messages": ["hé\0llo"]}, answer={"text": "ok"})
    spool.close_request(record(1), [], trace)
    ingester.step()
    kept = rows(connection, "SELECT usage_id, request_id, route, prompt, answer FROM trace")
    assert kept == [(record(1).id, "r1", "gpt", {"messages": ["hé\ufffdllo"]}, {"text": "ok"})]
    spool.close()


def test_text_that_a_column_cannot_hold_is_cut_and_what_postgres_refuses_is_kept_aside(
    ingester: Ingester, connection: psycopg.Connection[Any], tmp_path: Path
) -> None:
    spool = Spool(tmp_path, uuid.uuid4())
    spool.close_request(record(1, route="a\0" + "b" * 500), [])
    spool.close_request(record(2, prompt_tokens=1 << 80), [(*TOKENS, 5)])
    spool.close_request(record(3), [(*TOKENS, 7)])
    ingester.step()
    assert rows(connection, "SELECT route FROM usage ORDER BY id") == [("a\ufffd" + "b" * 198,), ("gpt",)]
    assert rows(connection, "SELECT used FROM meter") == [(7,)]
    assert b'"r2"' in (tmp_path / REFUSED).read_bytes()
    spool.close()


def test_a_replica_on_another_machine_is_swept_only_after_postgres_was_there_for_as_long(
    database: Database, connection: psycopg.Connection[Any], tmp_path: Path
) -> None:
    lease(connection, uuid.uuid4(), 100)
    connection.execute("UPDATE gateway_replica SET seen_at = seen_at - interval '1 hour'")
    ingester = Ingester(tmp_path, lambda: dsn(database), lost_after_s=0.5)
    ingester.step()
    assert rows(connection, "SELECT leased FROM meter") == [(100,)]
    time.sleep(0.6)
    ingester.step()
    assert rows(connection, "SELECT leased FROM meter") == [(0,)]
    ingester.close()


@pytest.fixture
def server() -> Iterator[EmbeddedPostgres]:
    """One to kill; the shared one holds every test's database, and takes long to come back."""
    # Not tmp_path: pytest makes that 0700, and root's PostgreSQL runs as a user who must pass through.
    path = Path(tempfile.mkdtemp(prefix="raymill-ingest-"))
    path.chmod(0o755)
    server = EmbeddedPostgres(path / "postgres")
    database = Database(server.ensure_running())
    database.migrate()
    database.close()
    yield server
    server.stop()
    shutil.rmtree(path)


def test_it_waits_while_postgres_restarts_and_ends_when_nobody_is_left(
    server: EmbeddedPostgres, tmp_path: Path
) -> None:
    spool = Spool(tmp_path, uuid.uuid4())
    ingester = Ingester(tmp_path, lambda: database_url(server.data_dir.parent))
    thread = threading.Thread(target=lambda: ingester.run(threading.Event(), linger_s=1.0))
    thread.start()
    for number in range(1, 401):
        spool.close_request(record(number), [(*TOKENS, 1)])
        time.sleep(0.002)
        if number == 200:
            pid = server.pid()
            assert pid is not None
            os.kill(pid, signal.SIGQUIT)
            server.ensure_running()
    spool.close()
    thread.join(60)
    assert not thread.is_alive()
    assert not spool.folder.exists()
    with psycopg.connect(database_url(server.data_dir.parent)) as connection:
        assert rows(connection, "SELECT count(*) FROM usage") == [(400,)]
        assert rows(connection, "SELECT used, leased FROM meter") == [(400, 0)]


# --- killed processes -------------------------------------------------------------------------------------

KILLED = """
import pathlib, sys, uuid
from raymill.serve.gateway.spool import Spool
from tests.serve.usage_records import record
spool = Spool(pathlib.Path(sys.argv[1]), uuid.UUID(sys.argv[2]), segment_bytes=20_000)
number = 0
while True:
    number += 1
    spool.open_request(record(number))
    if number % 10:
        spool.close_request(record(number, outcome="ok"), [("account:a/tokens/total", 0, 1)])
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
"""


def test_kill_9_of_a_replica_loses_no_record_and_leaks_no_lease(
    database: Database, connection: psycopg.Connection[Any], tmp_path: Path
) -> None:
    replica = uuid.uuid4()
    lease(connection, replica, 1_000_000)
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(replica)]
    ingester = Ingester(tmp_path, lambda: dsn(database))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        written = [process.stdout.readline() for _ in range(500)]
        ingester.step()
        written += [process.stdout.readline() for _ in range(2500)]
        process.kill()
        written += process.stdout.readlines()
    numbers = [int(line) for line in written if line.endswith("\n")]
    eventually(lambda: not ingester.step() and not (tmp_path / str(replica)).exists())
    got = rows(connection, "SELECT request_id, outcome FROM usage")
    assert len(got) == len(set(got))
    expected = {(f"r{number}", "ok" if number % 10 else "lost") for number in numbers}
    # The kill may have come after a write and before it was told of.
    assert expected <= set(got)
    assert len(set(got) - expected) <= 1
    used = sum(outcome == "ok" for _, outcome in got)
    assert rows(connection, "SELECT used, leased FROM meter") == [(used, 0)]
    assert rows(connection, "SELECT * FROM meter_lease") == []
    ingester.close()


@pytest.fixture
def home(database: Database, tmp_path: Path) -> Iterator[Settings]:
    yield Settings(home=tmp_path, database_url=SecretStr(dsn(database)))
    for process in ingesters(tmp_path):
        process.kill()
        process.wait(60)


def test_kill_9_of_the_ingester_stores_each_record_once(
    home: Settings, connection: psycopg.Connection[Any], tmp_path: Path
) -> None:
    spool = Spool(home.spool_dir, uuid.uuid4(), segment_bytes=50_000)
    number = 0
    for _ in range(2):
        ensure_ingester(home)
        (before,) = rows(connection, "SELECT count(*) FROM usage")
        while rows(connection, "SELECT count(*) FROM usage") == [before]:
            for _ in range(100):
                number += 1
                spool.close_request(record(number), [(*TOKENS, 1)])
            time.sleep(0.005)
        (process,) = ingesters(tmp_path)
        assert process.ppid() != os.getpid()
        process.kill()
        process.wait(60)
    spool.close()
    ensure_ingester(home)
    eventually(lambda: not spool.folder.exists())
    assert rows(connection, "SELECT count(*) FROM usage") == [(number,)]
    assert rows(connection, "SELECT used, leased FROM meter") == [(number, 0)]
    (process,) = ingesters(tmp_path)
    assert process.memory_info().rss < 60 << 20
    process.terminate()
    process.wait(60)


def ingesters(home: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            ours = process.environ().get("RAYMILL_HOME") == str(home)
            if ours and "raymill.serve.gateway.ingest" in process.cmdline():
                found.append(process)
    return found


def test_there_is_one_ingester_for_a_spool(tmp_path: Path) -> None:
    held = take_lock(tmp_path, timeout_s=0.0)
    assert held is not None
    assert take_lock(tmp_path, timeout_s=0.1) is None
    os.close(held)
    assert (tmp_path / LOCK_FILE).exists()
