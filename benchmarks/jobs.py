"""`make bench-jobs`: the job engine against procrastinate and a bare SKIP LOCKED loop, on one real Postgres, in one run.

Each system has a database of its own in the same server, with fsync on. Rounds take turns; what is reported is the
median. Claims and completions are the functions of each as its worker calls them (ours ends a job and takes the next in
one statement), without the worker around them; `worker` is the whole of it.
"Singly" is one job a statement on one connection, in batches 100 a statement; a life is enqueue, claim and
complete. Ratios are jobs/s. Writes benchmarks/results/jobs.json (a run with --quick to .bench/).
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from benchmarks.goals import Goal, judge
from benchmarks.peers import BENCH, PROCRASTINATE
from benchmarks.report import verdicts

from raymill.registry import jobs
from raymill.registry.database import Database, Held
from raymill.registry.jobs import Claimed, Done, Floors, JobSpec
from raymill.registry.postgres import EmbeddedPostgres

ROOT = Path(__file__).resolve().parent.parent
BATCH = 100

Rates = dict[str, dict[str, float]]
"""System -> part of a life -> jobs/s."""

GOALS = (
    Goal("ratios.single_vs_procrastinate", ">=", 3.0),
    Goal("ratios.batch_vs_bare_loop", ">=", 0.7),
    Goal("claim_p99_ms_at_100k", "<=", 20.0),
    Goal("held_transaction_loss", "<=", 0.10),
)


@dataclass(frozen=True)
class Plan:
    rounds: int = 5
    single: int = 2_000
    batched: int = 20_000
    queued: int = 100_000
    claims: int = 2_000
    held_s: float = 60.0
    latency: int = 300


QUICK = Plan(rounds=2, single=500, batched=4_000, queued=20_000, claims=500, held_s=8.0, latency=60)


# --- the systems ------------------------------------------------------------------------------------------


class Ours:
    """The registry's own functions, as the engine calls them."""

    name = "raymill"

    def __init__(self, url: str) -> None:
        self._database = Database(url)
        self._database.migrate()
        self._held = self._database.hold()
        self._floors = Floors()

    def enqueue(self, count: int) -> None:
        specs = [JobSpec(kind="note", config={"n": n}) for n in range(count)]
        self._held.run(lambda connection: jobs.enqueue(connection, specs))

    def claim(self, limit: int) -> list[Claimed]:
        return self._held.run(
            lambda connection: jobs.claim(connection, "short", "bench", limit=limit, floors=self._floors)
        )

    def complete(self, taken: Sequence[Any]) -> None:
        done = [Done(job.id, job.epoch, {}) for job in taken]
        ended = self._held.run(lambda connection: jobs.complete(connection, done))
        assert len(ended) == len(taken)

    def complete_and_claim(self, taken: Sequence[Any], limit: int) -> list[Claimed]:
        done = [Done(job.id, job.epoch, {}) for job in taken]
        ended, following = self._held.run(
            lambda connection: jobs.complete_and_claim(
                connection, done, "short", "bench", limit=limit, floors=self._floors
            )
        )
        assert len(ended) == len(taken)
        return following or self.claim(limit)

    def clear(self) -> None:
        empty(self._held)
        self._floors = Floors()
        self.vacuum()

    def vacuum(self) -> None:
        self._held.run(lambda connection: connection.execute("VACUUM (ANALYZE) job") and None)

    def close(self) -> None:
        self._held.close()
        self._database.close()


class Bare:
    """The least that a queue in Postgres can do: no leases, fences, priorities, limits or retries."""

    name = "bare_loop"

    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(url.replace("+psycopg", ""), autocommit=True)
        self._connection.execute(
            "CREATE TABLE bare_job (id bigserial PRIMARY KEY, state text NOT NULL DEFAULT 'queued', "
            "config jsonb NOT NULL, created_at timestamptz NOT NULL DEFAULT now())"
        )
        self._connection.execute("CREATE INDEX bare_ready ON bare_job (id) WHERE state = 'queued'")

    def enqueue(self, count: int) -> None:
        configs = [json.dumps({"n": n}) for n in range(count)]
        self._connection.execute("INSERT INTO bare_job (config) SELECT unnest(%s::text[])::jsonb", (configs,))

    def claim(self, limit: int) -> list[Any]:
        return self._connection.execute(
            "UPDATE bare_job SET state = 'running' WHERE id IN (SELECT id FROM bare_job WHERE state = 'queued' "
            "ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED) RETURNING id, config",
            (limit,),
        ).fetchall()

    def complete(self, taken: Sequence[Any]) -> None:
        self._connection.execute(
            "UPDATE bare_job SET state = 'done' WHERE id = ANY(%s)", ([row[0] for row in taken],)
        )

    def complete_and_claim(self, taken: Sequence[Any], limit: int) -> list[Any]:
        self.complete(taken)
        return self.claim(limit)

    def clear(self) -> None:
        self._connection.execute("TRUNCATE bare_job")
        self.vacuum()

    def vacuum(self) -> None:
        self._connection.execute("VACUUM (ANALYZE) bare_job")

    def close(self) -> None:
        self._connection.close()


class Procrastinate:
    """In a process of its own. Its claims and completions are its job manager's, without the worker around them;
    the whole worker is measured apart."""

    name = "procrastinate"

    def __init__(self, url: str) -> None:
        self._url = url.replace("+psycopg", "")
        self._python = BENCH / "procrastinate" / "bin" / "python"
        if not self._python.exists():
            raise FileNotFoundError("procrastinate is not installed: run make bench-peers")
        self.run("setup", 0)

    def run(self, command: str, count: int) -> float:
        script = ROOT / "benchmarks" / "jobs_procrastinate.py"
        done = subprocess.run(
            [str(self._python), str(script), self._url, command, str(count)],
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        if done.returncode != 0:
            raise RuntimeError(f"procrastinate {command} failed: {done.stderr.strip()[-400:]}")
        return float(json.loads(done.stdout.strip().splitlines()[-1]).get("seconds", 0.0))

    def clear(self) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute("TRUNCATE procrastinate_jobs, procrastinate_events CASCADE")
            connection.execute("VACUUM (ANALYZE) procrastinate_jobs")

    def latencies_ms(self, count: int) -> list[float]:
        self.clear()
        self.run("latency", count)
        with psycopg.connect(self._url) as connection:
            return [
                float(row[0])
                for row in connection.execute(
                    "SELECT 1000 * extract(epoch FROM s.at - d.at) FROM procrastinate_events s "
                    "JOIN procrastinate_events d ON d.job_id = s.job_id AND d.type = 'deferred' "
                    "WHERE s.type = 'started'"
                )
            ]


def empty(held: Held) -> None:
    """No jobs, and no room taken by those that were: other tables refer to them, so they cannot be truncated."""
    for statement in ("DELETE FROM job_event", "DELETE FROM job", "VACUUM (FULL, ANALYZE) job"):
        held.run(lambda connection, statement=statement: connection.execute(statement) and None)  # type: ignore[misc]


# --- what is measured -------------------------------------------------------------------------------------


def timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def life(system: Ours | Bare, count: int, batch: int) -> dict[str, float]:
    """Jobs/s of each part of a life, and of the whole."""
    system.clear()

    def enqueue() -> None:
        for _ in range(count // batch):
            system.enqueue(batch)

    def work() -> None:
        ended = 0
        taken = system.claim(batch)
        while taken:
            ended += len(taken)
            taken = system.complete_and_claim(taken, batch)
        assert ended == count

    enqueued, worked = timed(enqueue), timed(work)
    return {"enqueue": count / enqueued, "work": count / worked, "life": count / (enqueued + worked)}


def peer_life(peer: Procrastinate, count: int, how: str) -> dict[str, float]:
    peer.clear()
    enqueued = peer.run(how, count)
    worked = peer.run("work", count)
    return {"enqueue": count / enqueued, "work": count / worked, "life": count / (enqueued + worked)}


def claim_times_ms(system: Ours | Bare, queued: int, claims: int) -> list[float]:
    """Of single claims while very many jobs wait."""
    system.clear()
    for _ in range(queued // 1000):
        system.enqueue(1000)
    system.vacuum()
    times = []
    for _ in range(claims):
        started = time.perf_counter()
        taken = system.claim(1)
        times.append((time.perf_counter() - started) * 1000)
        system.complete(taken)
    return times


def steady(system: Ours | Bare, seconds: float) -> dict[str, float]:
    """Jobs/s of whole lives in batches, over all of `seconds` and over their last third."""
    ended: list[tuple[float, int]] = []
    started = time.perf_counter()
    while (now := time.perf_counter() - started) < seconds:
        system.enqueue(BATCH)
        taken = system.claim(BATCH)
        system.complete(taken)
        ended.append((now, len(taken)))
    last = [count for at, count in ended if at > seconds * 2 / 3]
    return {"jobs_per_s": sum(count for _, count in ended) / seconds, "last_third": sum(last) / (seconds / 3)}


def held(system: Ours | Bare, url: str, seconds: float) -> dict[str, Any]:
    """The same with and without a transaction that keeps its snapshot open all the time."""
    system.clear()
    free = steady(system, seconds)
    system.clear()
    with psycopg.connect(url.replace("+psycopg", "")) as other:
        other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        other.execute("SELECT 1 FROM pg_class LIMIT 1")
        during = steady(system, seconds)
        other.rollback()
    return {"free": free, "held": during, "loss": 1 - during["jobs_per_s"] / free["jobs_per_s"]}


def our_latencies_ms(url: str, home: Path, count: int) -> list[float]:
    """From a job's creation to its start by the pool's worker, which is idle."""
    os.environ |= {"DATABASE_URL": url, "RAYMILL_HOME": str(home), "RAYMILL_KINDS": "benchmarks.job_kinds"}
    from raymill.cluster.pool import PoolWorker

    worker = PoolWorker("bench")
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    time.sleep(2)
    database = Database(url)
    handle = database.hold()
    ids = []
    for _ in range(count):
        ids += handle.run(lambda connection: jobs.enqueue(connection, [JobSpec(kind="bench_noop")]))
        time.sleep(0.02)
    time.sleep(1)
    rows = handle.run(
        lambda connection: connection.execute(
            "SELECT 1000 * extract(epoch FROM started_at - created_at) FROM job WHERE id = ANY(%s)", (ids,)
        ).fetchall()
    )
    worker.drain()
    thread.join(10)
    handle.close()
    database.close()
    return [float(str(row[0])) for row in rows]


def worker_rate(url: str, home: Path, count: int, threads: int) -> float:
    """Jobs/s of the pool's worker itself, with so many threads, on jobs that do nothing."""
    os.environ |= {
        "DATABASE_URL": url,
        "RAYMILL_HOME": str(home),
        "RAYMILL_KINDS": "benchmarks.job_kinds",
        "RAYMILL_POOL_THREADS": str(threads),
    }
    from raymill.cluster.pool import PoolWorker

    database = Database(url)
    handle = database.hold()
    empty(handle)
    for _ in range(count // BATCH):
        handle.run(
            lambda connection: jobs.enqueue(connection, [JobSpec(kind="bench_noop") for _ in range(BATCH)])
        )
    worker = PoolWorker(f"bench-{threads}")
    started = time.perf_counter()
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    while handle.run(
        lambda connection: connection.execute(
            "SELECT 1 FROM job WHERE state <> 'succeeded' LIMIT 1"
        ).fetchone()
    ):
        time.sleep(0.02)
    seconds = time.perf_counter() - started
    worker.drain()
    thread.join(10)
    handle.close()
    database.close()
    return count / seconds


def percentiles(times: Sequence[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {
        "p50": round(ordered[len(ordered) // 2], 3),
        "p99": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))], 3),
        "max": round(ordered[-1], 3),
    }


def median_of(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: round(statistics.median(each[name] for each in rounds), 1) for name in rounds[0]}


def databases(server: EmbeddedPostgres) -> dict[str, str]:
    """An empty database for each system. Name -> URL."""
    base = Database(server.url()).url
    urls = {}
    with psycopg.connect(server.url().replace("+psycopg", ""), autocommit=True) as admin:
        for name in ("ours", "ours_worker", "bare", "peer"):
            admin.execute(f"CREATE DATABASE bench_{name}")
            urls[name] = base.set(database=f"bench_{name}").render_as_string(hide_password=False)
    worker_database = Database(urls["ours_worker"])
    worker_database.migrate()
    worker_database.close()
    return urls


def installed_peer(url: str) -> Procrastinate | None:
    try:
        return Procrastinate(url)
    except FileNotFoundError as error:
        sys.stderr.write(f"bench-jobs: {error}\n")
        return None


def lives(plan: Plan, ours: Ours, bare: Bare, peer: Procrastinate | None) -> tuple[Rates, Rates]:
    """Medians of jobs/s by system and part of a life: singly, and in batches."""
    singles: dict[str, list[dict[str, float]]] = {}
    batches: dict[str, list[dict[str, float]]] = {}
    for number in range(1, plan.rounds + 1):
        for system in (ours, bare):
            singles.setdefault(system.name, []).append(life(system, plan.single, 1))
            batches.setdefault(system.name, []).append(life(system, plan.batched, BATCH))
        if peer is not None:
            singles.setdefault(peer.name, []).append(peer_life(peer, plan.single, "enqueue"))
            batches.setdefault(peer.name, []).append(peer_life(peer, plan.single, "enqueue_batches"))
        said = ", ".join(f"{name} {rounds[-1]['life']:,.0f}" for name, rounds in singles.items())
        print(f"round {number}/{plan.rounds}: lives/s singly: {said}", flush=True)
    single = {name: median_of(rounds) for name, rounds in singles.items()}
    return single, {name: median_of(rounds) for name, rounds in batches.items()}


def workers(plan: Plan, url: str, home: Path, peer: Procrastinate | None) -> dict[str, float]:
    """Jobs/s of whole workers on jobs that do nothing."""
    rates = {f"threads_{threads}": worker_rate(url, home, plan.single, threads) for threads in (1, 8)}
    if peer is not None:
        peer.clear()
        peer.run("enqueue_batches", plan.single)
        rates["procrastinate_1"] = plan.single / peer.run("worker", plan.single)
    return {name: round(rate, 1) for name, rate in rates.items()}


def measure(plan: Plan, server: EmbeddedPostgres, home: Path) -> dict[str, Any]:
    urls = databases(server)
    ours, bare, peer = Ours(urls["ours"]), Bare(urls["bare"]), installed_peer(urls["peer"])
    single, batch = lives(plan, ours, bare, peer)
    claims = {
        system.name: percentiles(claim_times_ms(system, plan.queued, plan.claims)) for system in (ours, bare)
    }
    print(f"claims at {plan.queued:,} queued: {claims}", flush=True)
    holding = {
        system.name: held(system, urls[key], plan.held_s) for system, key in ((ours, "ours"), (bare, "bare"))
    }
    print(f"held transaction: {holding['raymill']['loss']:.1%} loss", flush=True)
    worker = workers(plan, urls["ours_worker"], home, peer)
    latency = {"raymill": percentiles(our_latencies_ms(urls["ours_worker"], home, plan.latency))}
    if peer is not None:
        latency["procrastinate"] = percentiles(peer.latencies_ms(plan.latency))
    ours.close()
    bare.close()
    return {
        "ratios": {
            "single_vs_procrastinate": _ratio(single, "procrastinate", "life"),
            "single_enqueue_vs_procrastinate": _ratio(single, "procrastinate", "enqueue"),
            "single_work_vs_procrastinate": _ratio(single, "procrastinate", "work"),
            "worker_vs_procrastinate": round(worker["threads_1"] / worker["procrastinate_1"], 3)
            if peer is not None
            else None,
            "batch_vs_bare_loop": _ratio(batch, "bare_loop", "life"),
            "batch_work_vs_bare_loop": _ratio(batch, "bare_loop", "work"),
        },
        "claim_p99_ms_at_100k": claims["raymill"]["p99"],
        "held_transaction_loss": round(holding["raymill"]["loss"], 4),
        "jobs_per_s": {"single": single, "batch": batch, "worker": worker},
        "claim_ms": claims,
        "held_transaction": holding,
        "start_latency_ms": latency,
    }


def _ratio(rates: dict[str, dict[str, float]], peer: str, part: str) -> float | None:
    return round(rates["raymill"][part] / rates[peer][part], 3) if peer in rates else None


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench-jobs")
    parser.add_argument("--quick", action="store_true", help="a first look, written to .bench/")
    arguments = parser.parse_args()
    plan = QUICK if arguments.quick else Plan()
    # Not below root's home: Postgres runs as another user, who must get in.
    folder = Path(tempfile.mkdtemp(prefix="raymill-bench-jobs-"))
    folder.chmod(0o755)
    server = EmbeddedPostgres(folder / "postgres")
    load = os.getloadavg()[0]
    try:
        server.ensure_running()
        results = measure(plan, server, folder / "home")
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
    report = {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "machine": {
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.machine()}",
            "load_before": load,
        },
        "versions": {
            "python": platform.python_version(),
            "psycopg": psycopg.__version__,
            "peer": PROCRASTINATE,
        },
        "plan": vars(plan),
        **results,
        "goals": judge(results, GOALS),
    }
    target = BENCH / "jobs.json" if arguments.quick else ROOT / "benchmarks" / "results" / "jobs.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(report, indent=2) + "\n")
    print(verdicts(report["goals"]))
    print(f"written to {target.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
