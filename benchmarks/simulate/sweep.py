"""What is simulated: the machine that was measured, then 1,000 nodes, 100,000 jobs and 50,000 requests a second.

Each answer is a plain dictionary for the results' file. Utilisations are shares; a station saturates where its share
reaches 1, which is told from a run below it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from benchmarks.simulate import gateway, jobs
from benchmarks.simulate.gateway import Answers, Layout
from benchmarks.simulate.times import RESULTS, GatewayTimes, JobTimes

SEED = 1
WORKERS = (1, 2, 4, 8, 16, 32)
NODES = (50, 100, 200, 500, 1000)
RATES = (1_000, 5_000, 10_000, 20_000, 50_000)
TARGET = 50_000
"""Requests a second."""

LOAD = 0.7
"""Share of a station's time that a layout may use."""


def rounded(found: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4 if value < 10 else 1) for name, value in found.items()}


# --- held against what was measured -----------------------------------------------------------------------


def validation(of_jobs: JobTimes, of_gateway: GatewayTimes) -> dict[str, Any]:
    """Predictions for the machine of the benchmarks. At 128 connections it is what the gateway's own time came from: the
    model has to give it back; the others were not used."""
    jobs_file = json.loads((RESULTS / "jobs.json").read_text())
    gateway_file = json.loads((RESULTS / "gateway.json").read_text())
    cores = gateway_file["machine"]["cores"]
    layout = Layout(haproxy_threads=4, postgres_cores=cores)
    found = {
        "pool worker of 8 threads, jobs/s": (
            jobs.short_jobs(of_jobs, threads=8, cores=1, seed=SEED).jobs_per_s,
            jobs_file["jobs_per_s"]["worker"]["threads_8"],
        )
    }
    for connections in (1, 16, 128):
        predicted = gateway.closed(of_gateway, layout, connections=connections, cores=cores, seed=SEED)
        measured = gateway_file["systems"]["raymill"]["median"][str(connections)]["requests_per_s"]
        found[f"gateway at {connections} connections, requests/s"] = (predicted.requests_per_s, measured)
    return {
        name: {"predicted": round(a, 1), "measured": b, "error": round(a / b - 1, 3)}
        for name, (a, b) in found.items()
    }


# --- jobs -------------------------------------------------------------------------------------------------


def short_jobs(times: JobTimes) -> dict[str, Any]:
    """More pool workers on one Postgres of 1 and of 8 cores: jobs that do nothing, so that only the engine is seen."""
    found = {}
    for cores in (1, 8):
        for workers in WORKERS:
            run = jobs.short_jobs(times, workers=workers, cores=cores, queued=10**9, seconds=1.0, seed=SEED)
            found[f"{workers} workers, Postgres of {cores} cores"] = rounded(run._asdict())
    return found


def backlog(times: JobTimes) -> dict[str, Any]:
    """100,000 jobs of 2 s each, by one worker as there is now and by one for each of 1,000 nodes."""
    found = {}
    for workers in (1, 100, 1000):
        seconds = 20.0
        run = jobs.short_jobs(
            times, workers=workers, queued=100_000, job_s=2.0, cores=4, seconds=seconds, seed=SEED
        )
        hours = 100_000 / run.jobs_per_s / 3600 if run.jobs_per_s else None
        found[f"{workers} workers"] = {**rounded(run._asdict()), "hours": round(hours, 3) if hours else None}
    return found


def heavy_jobs(times: JobTimes) -> dict[str, Any]:
    """A node for each job of half an hour: how many of the nodes the one dispatcher keeps busy."""
    found: dict[str, Any] = {}
    for nodes in NODES:
        run = jobs.heavy_jobs(times, nodes=nodes, seed=SEED)
        found[f"{nodes} nodes"] = rounded(vars(run))
    variants: dict[str, dict[str, float]] = {
        "1000 nodes, bound by quotas": {"bound": True},
        "1000 nodes, polled every 60 s": {"every_s": 60.0},
        "1000 nodes, polls of 2 ms": {"poll_s": 0.002},
        "1000 nodes, polls of 20 ms": {"poll_s": 0.02},
        "1000 nodes, jobs of 5 minutes": {"job_s": 300.0},
    }
    for label, given in variants.items():
        poll_s = given.pop("poll_s", times.poll_s)
        run = jobs.heavy_jobs(replace(times, poll_s=poll_s), nodes=1000, seed=SEED, **given)  # type: ignore[arg-type]
        found[label] = rounded(vars(run))
    return found


# --- requests ---------------------------------------------------------------------------------------------


def requests(times: GatewayTimes) -> dict[str, Any]:
    """One replica as there is by default, and layouts that carry each rate."""
    found: dict[str, Any] = {}
    for share in (0.5, 0.8, 0.95):
        rate = share / times.gateway_s
        found[f"1 replica at {rate:,.0f}/s"] = rounded(gateway.open_(times, Layout(), rate=rate)._asdict())
    for rate in RATES:
        layout = layout_for(times, rate)
        run = gateway.open_(times, layout, rate=rate, seconds=2.0, seed=SEED)
        found[f"{rate:,}/s"] = {"layout": vars(layout), **rounded(run._asdict())}
    return found


def layout_for(times: GatewayTimes, rate: float) -> Layout:
    """So much of each part that none is busier than `LOAD`. Machines have 8 replicas each."""

    def enough(service_s: float) -> int:
        return max(1, -int(-rate * service_s // LOAD))

    replicas = enough(times.gateway_s)
    machines = max(1, -(-replicas // 8), enough(times.store.client_each_s))
    of_postgres = times.store.server_each_s + times.lease.server_s(1) * replicas / gateway.LEASE_S / rate
    return Layout(
        replicas=replicas,
        haproxy_threads=max(4, enough(times.haproxy_s)),
        machines=machines,
        postgres_cores=enough(of_postgres),
    )


def saturation(times: GatewayTimes, of_jobs: JobTimes) -> list[dict[str, Any]]:
    """Where each station is full, as it stands by default, with what would lift it."""
    layout = Layout()
    rate = 0.5 / times.gateway_s
    run: Answers = gateway.open_(times, layout, rate=rate, seconds=10.0, seed=SEED)
    heavy = jobs.heavy_jobs(of_jobs, nodes=100, seed=SEED)
    short = jobs.short_jobs(of_jobs, queued=10**9, seconds=2.0, seed=SEED)

    def at(station: str, share: float, rate: float, unit: str, lift: str) -> dict[str, Any]:
        return {
            "station": station,
            "saturates_at": round(rate / share, 1) if share else None,
            "unit": unit,
            "lift": lift,
        }

    return [
        at("gateway replica", run.replicas, rate, "requests/s", "replicas: they share nothing but leases"),
        at(
            "HAProxy, 4 threads",
            run.haproxy,
            rate,
            "requests/s",
            "RAY_SERVE_HAPROXY_NBTHREAD; one on each node",
        ),
        at("ingester of a machine", run.ingest, rate, "requests/s", "one for each machine with replicas"),
        at(
            "Postgres, 4 cores, usage records",
            run.postgres,
            rate,
            "requests/s",
            "cores; partitions of usage by machine",
        ),
        at(
            "pool worker's Python",
            short.python,
            short.jobs_per_s,
            "short jobs/s",
            "a pool worker on each node",
        ),
        at(
            "Postgres, 1 core, short jobs",
            short.postgres,
            short.jobs_per_s,
            "short jobs/s",
            "cores; larger batches",
        ),
        at(
            "dispatcher's polls",
            heavy.polls,
            heavy.running,
            "running heavy jobs",
            "one call that lists all jobs",
        ),
        at(
            "dispatcher's submissions",
            of_jobs.submit_s,
            1.0,
            "heavy jobs started/s",
            "several threads that submit",
        ),
        at(
            "Postgres, 4 cores, beats of drivers",
            heavy.postgres,
            heavy.running,
            "running heavy jobs",
            "a longer lease",
        ),
    ]
