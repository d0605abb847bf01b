"""`make bench-reads`: how fast the control plane answers while very much has been done; writes `results/reads.json`.

A service as a user runs it, whose registry holds 100,000 jobs (most of them ended, some of pipelines), and
1,000,000 audit rows. Over HTTP, through HAProxy, 50 requests a second ask for lists and single things by turns.
A request's time counts from when it was due, so one slow answer is not hidden by the requests that it delayed.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import psycopg
from benchmarks import report
from benchmarks.goals import Results
from benchmarks.measure import say
from benchmarks.programs import BenchmarkFailed
from benchmarks.service import RaymillService, forget_other_services
from benchmarks.systems import errors_told, interrupt_once

from raymill.client.sdk import Raymill

P50_GOAL_MS, P99_GOAL_MS = 5.0, 30.0
THREADS = 8

PIPELINES = """
INSERT INTO pipeline (id, name, recipe, state, created_by, request_hash, created_at, finished_at)
SELECT gen_random_uuid(), 'model-' || n %% 20, '{"model": "m"}', 'succeeded', 'ada', repeat('0', 64),
       now() - n * interval '1 minute', now()
FROM generate_series(1, %(pipelines)s) AS n
"""

# A few of each kind that people look for; the rest ended well. Ids are in the order of time, as ours are.
JOBS = """
INSERT INTO job (id, step, kind, queue, name, config, state, error, attempt, epoch, pipeline_id, created_at, started_at,
                 finished_at, result)
SELECT (lpad(to_hex(1700000000000 + n), 12, '0') || '7000' || '8000' || lpad(to_hex(n), 12, '0'))::uuid,
       'note', CASE WHEN n %% 1000 = 0 THEN 'rare' ELSE 'note' END, 'archive', 'model-' || n %% 20, '{"n": 1}',
       made.state, CASE WHEN made.state = 'dead' THEN 'worker lost' END, 1, 1, pipeline.id,
       now() - interval '1 day', now() - interval '1 day', now() - interval '1 day', '{"digest": "d"}'
FROM generate_series(1, %(jobs)s) AS n
CROSS JOIN LATERAL (SELECT CASE WHEN n %% 500 = 0 THEN 'dead' WHEN n %% 700 = 0 THEN 'failed' WHEN n %% 100 = 1 THEN 'queued'
                                ELSE 'succeeded' END AS state) AS made
LEFT JOIN (SELECT id, row_number() OVER () AS place FROM pipeline) AS pipeline
  ON n <= 4 * %(pipelines)s AND pipeline.place = 1 + (n - 1) / 4
"""

AUDIT = """
INSERT INTO audit_event (seq, at, actor, action, object, detail, previous_hash, hash)
SELECT last.seq + n, now(), 'ada', 'job.submit', 'job/' || n %% 100000, '{"kind": "note"}', sha256('a'), sha256('a')
FROM (SELECT coalesce(max(seq), 0) AS seq FROM audit_event) AS last, generate_series(1, %(audit)s) AS n
"""


@dataclass(frozen=True, kw_only=True)
class Plan:
    jobs: int = 100_000
    audit: int = 1_000_000
    pipelines: int = 2_000
    rate: float = 50.0
    seconds: float = 60.0


class FullService(RaymillService):
    """The service with a registry that much has gone through."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self._plan = plan

    def configure(self, client: Raymill) -> str:
        raise NotImplementedError

    def start(self) -> None:
        self.up()
        embedded = self.settings.embedded_postgres
        assert embedded is not None
        with psycopg.connect(embedded.url().replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute(
                "INSERT INTO queue (name, runner, paused_at) VALUES ('archive', 'short', now())"
            )
            for statement in (PIPELINES, JOBS, AUDIT):
                connection.execute(statement, vars(self._plan))
            connection.execute("VACUUM (ANALYZE)")

    @property
    def port(self) -> int:
        return self._port

    def paths(self) -> list[str]:
        """What is asked for by turns."""
        with self.client() as client:
            jobs = list(itertools.islice(client.jobs.list(), 200))
            pipelines = list(itertools.islice(client.pipelines.list(), 50))
        deep = json.loads(self._get("/api/v1/jobs?limit=200"))["next_cursor"]
        single = [f"/api/v1/jobs/{job.id}" for job in jobs[::20]]
        return [
            "/api/v1/jobs",
            "/api/v1/jobs?limit=200",
            f"/api/v1/jobs?cursor={deep}",
            "/api/v1/jobs?state=dead",
            "/api/v1/jobs?state=queued",
            "/api/v1/jobs?kind=rare",
            "/api/v1/jobs?name=model-7&state=succeeded",
            f"/api/v1/jobs?pipeline_id={pipelines[-1].id}",
            *single,
            "/api/v1/pipelines",
            f"/api/v1/pipelines/{pipelines[0].id}",
            f"/api/v1/pipelines/{pipelines[-1].id}",
            "/api/v1/queues",
            "/api/v1/audit",
            "/api/v1/audit?limit=200",
            "/api/v1/accounts",
            "/api/v1/llms",
            "/api/v1/triggers",
        ]

    def _get(self, path: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        connection.request("GET", path, headers=self.headers())
        return connection.getresponse().read()

    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {(self.settings.keys_dir / 'admin.key').read_text().strip()}"}


def ask(service: FullService, paths: Sequence[str], plan: Plan, seconds: float) -> dict[str, list[float]]:
    """Path -> milliseconds of each answer.

    Raises:
        BenchmarkFailed: one was no 200.
    """
    numbers = itertools.count()
    times: dict[str, list[float]] = {path: [] for path in paths}
    refused: list[str] = []
    total = int(seconds * plan.rate)
    begin = time.perf_counter() + 0.1

    def work() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
        headers = service.headers()
        while (number := next(numbers)) < total and not refused:
            due = begin + number / plan.rate
            time.sleep(max(0.0, due - time.perf_counter()))
            path = paths[number % len(paths)]
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            body = answer.read()
            times[path].append((time.perf_counter() - due) * 1000)
            if answer.status != 200:
                refused.append(f"{path}: {answer.status} {body[:200]!r}")

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if refused:
        raise BenchmarkFailed(refused[0])
    return times


def quantiles(times: Sequence[float]) -> Results:
    ordered = sorted(times)
    at = {"p50": 0.5, "p99": 0.99}
    found: Results = {name: round(ordered[int(len(ordered) * share)], 2) for name, share in at.items()}
    return found | {"max": round(ordered[-1], 2), "requests": len(ordered)}


def run(plan: Plan) -> Results:
    with ExitStack() as stack:
        service = FullService(plan)
        stack.callback(service.stop)
        say(f"starting, and making {plan.jobs:,} jobs and {plan.audit:,} audit rows")
        service.start()
        paths = service.paths()
        ask(service, paths, plan, min(5.0, plan.seconds))  # connections, plans and pages come in
        say(f"asking {len(paths)} things at {plan.rate:g} requests/s for {plan.seconds:g} s")
        times = ask(service, paths, plan, plan.seconds)
    everything = quantiles(list(itertools.chain.from_iterable(times.values())))
    grouped: dict[str, list[float]] = {}
    for path in paths:
        grouped.setdefault(_shown(path), []).extend(times[path])
    by_path = {path: quantiles(each) for path, each in grouped.items()}
    return {
        "date": report.now(),
        "machine": report.machine(),
        "plan": vars(plan),
        "all": everything,
        "by_path": by_path,
        "goals": {
            "all.p50": _verdict(everything["p50"], P50_GOAL_MS),
            "all.p99": _verdict(everything["p99"], P99_GOAL_MS),
        },
    }


def _shown(path: str) -> str:
    """Without what differs from run to run."""
    head, _, query = path.partition("?")
    for one in ("jobs", "pipelines"):
        if f"/{one}/" in head:
            head = f"/api/v1/{one}/{{id}}"
    if query.startswith(("cursor=", "pipeline_id=")):
        query = query.partition("=")[0] + "=…"
    return f"{head}?{query}" if query else head


def _verdict(value: float, bound: float) -> dict[str, Any]:
    return {"goal": f"<= {bound:g}", "value": value, "met": value <= bound}


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench-reads ARGS=…", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of everything, written to .bench/")
    quick = parser.parse_args().quick
    plan = Plan(jobs=10_000, audit=100_000, pipelines=200, seconds=10.0) if quick else Plan()
    forget_other_services()
    interrupt_once()
    with errors_told("bench-reads"):
        results = run(plan)
    for path, found in {**results["by_path"], "all": results["all"]}.items():
        print(f"{path:<45} p50 {found['p50']:7.2f} ms   p99 {found['p99']:7.2f}   max {found['max']:7.2f}")
    print(report.verdicts(results["goals"]))
    print(f"written to {report.write(results, 'reads.json', whole=not quick)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
