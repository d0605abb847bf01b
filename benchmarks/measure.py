"""What is measured: throughput and latency of every system in interleaved rounds; of Raymill also streams,
memory over many requests, and whether its books agree with what was answered.

Times are milliseconds where the name says so, memory is MiB. Knows nothing of how systems are started.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from benchmarks.goals import Results, added_p50_ms, medians
from benchmarks.programs import CHUNK_INTERVAL_MS, Load, Outcome, Percentiles
from benchmarks.report import MIB
from benchmarks.service import Books, OverMock
from benchmarks.systems import Direct, System

LEVELS = (1, 16, 128)
"""Connections."""

EXTRA = "uvicorn_httpx"
"""Measured at 16 connections only: it is no goal, and slow."""

FIRST_TOKEN_CHUNKS = 2
STREAM_CHUNKS = 50


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured. The default takes about ten minutes."""

    rounds: int = 3
    seconds: float = 5.0
    warmup_s: float = 1.0
    streams: int = 500
    """At once, of 50 chunks over 5 s."""

    first_tokens: int = 30
    """Streams one after another, of each side, in each of `first_token_turns` turns."""

    first_token_turns: int = 3
    memory_warmup: int = 20_000
    memory_requests: int = 200_000
    memory_blocks: int = 10
    """Memory is looked at after each."""

    memory_cap_s: float = 300.0
    """No further block is begun after this."""

    @classmethod
    def quick(cls) -> Self:
        return cls(
            rounds=1,
            seconds=2.0,
            warmup_s=0.5,
            streams=100,
            first_tokens=10,
            first_token_turns=1,
            memory_warmup=2_000,
            memory_requests=10_000,
            memory_blocks=2,
        )

    def changed(self, *, rounds: int | None, seconds: float | None) -> Self:
        """With what is not None in place of its own."""
        return dataclasses.replace(self, rounds=rounds or self.rounds, seconds=seconds or self.seconds)

    def as_json(self) -> Results:
        return {
            **dataclasses.asdict(self),
            "connections": list(LEVELS),
            "chunk_interval_ms": CHUNK_INTERVAL_MS,
        }


def say(text: str) -> None:
    """A line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def rounds(systems: Sequence[System], plan: Plan) -> dict[str, Results | None]:
    """Each system in each round, one at a time; every other round in reverse."""
    found: dict[str, list[Results]] = {system.name: [] for system in systems}
    for number in range(plan.rounds):
        for system in systems if number % 2 == 0 else reversed(systems):
            system.resume()
            cells = {}
            for connections in LEVELS if system.name != EXTRA else (16,):
                cells[str(connections)] = cell = _cell(system, connections, plan)
                say(
                    f"round {number + 1}/{plan.rounds}  {system.name:14} {connections:>4} connections  "
                    f"{cell['requests_per_s']:>10,.0f} req/s  p50 {cell['p50_ms'] or 0:.2f} ms"
                )
            system.pause()
            found[system.name].append(cells)
    return {name: {"median": medians(each), "rounds": each} for name, each in found.items()}


def _cell(system: System, connections: int, plan: Plan) -> Results:
    load = Load(connections=connections, seconds=plan.seconds, warmup_s=plan.warmup_s)
    outcome = system.ask(load)
    complain(system, outcome)
    latency = outcome.latency_ms
    return {
        "requests": outcome.requests,
        "errors": outcome.errors,
        "requests_per_s": outcome.requests_per_s,
        "p50_ms": latency and latency.p50,
        "p90_ms": latency and latency.p90,
        "p99_ms": latency and latency.p99,
        "max_ms": latency and latency.max,
        "rss_mib": mib(system.resident_bytes()),
    }


def raymill(service: OverMock, direct: Direct, plan: Plan, systems: dict[str, Results | None]) -> Results:
    """What is measured of Raymill alone; `systems` are the results of the rounds."""
    service.resume()
    first_token = _first_token(service, direct, plan)
    streams = _streams(service, direct, plan)
    memory = _memory(service, plan)
    found = systems[service.name] or {}
    seen = [cell["rss_mib"] for each in found["rounds"] for cell in each.values()] + memory["rss_mib"]
    return {
        "raymill": {
            "added_p50_ms_c1": added_p50_ms(systems),
            "added_first_token_ms": first_token["added_p50_ms"],
            "rss_mib": max(seen),
            "rss_drift_percent": memory["drift_percent"],
            "whole_service_pss_mib": mib(service.service_bytes()),
            "first_token": first_token,
            "memory": memory,
        },
        "streams": streams,
        "records": _records(service),
    }


def _first_token(service: OverMock, direct: Direct, plan: Plan) -> Results:
    """The first event of a stream through the gateway and without it, by turns, one stream at a time."""
    load = Load(connections=1, requests=plan.first_tokens, stream=True, max_tokens=FIRST_TOKEN_CHUNKS)
    turns = []
    for _ in range(plan.first_token_turns):
        p50, p99 = {}, {}
        for system in (direct, service):
            outcome = system.ask(load)
            complain(system, outcome)
            first = outcome.first_data_ms
            p50[system.name], p99[system.name] = (first.p50, first.p99) if first else (float("nan"),) * 2
        turns.append({"p50_ms": p50, "p99_ms": p99})
    added = statistics.median(turn["p50_ms"][service.name] - turn["p50_ms"][direct.name] for turn in turns)
    say(f"first token {added:.2f} ms later than direct")
    return {"added_p50_ms": round(added, 3), "turns": turns}


def _streams(service: OverMock, direct: Direct, plan: Plan) -> Results:
    """Many streams at once, first without the gateway, then through it."""
    load = Load(connections=plan.streams, requests=plan.streams, stream=True, max_tokens=STREAM_CHUNKS)
    expected = plan.streams * (STREAM_CHUNKS + 1)  # and [DONE]
    found: dict[str, Outcome] = {}
    for system in (direct, service):
        found[system.name] = outcome = system.ask(load)
        complain(system, outcome)
        say(f"{plan.streams} streams, {system.name}: {plan.streams - outcome.answered} broken")
    ours, without = found[service.name], found[direct.name]
    return {
        "concurrent": plan.streams,
        "chunks": STREAM_CHUNKS,
        "broken": plan.streams - ours.answered,
        "events_missing": expected - ours.events,
        "first_data_ms": _as_json(ours.first_data_ms),
        "total_ms": _as_json(ours.latency_ms),
        "direct_first_data_ms": _as_json(without.first_data_ms),
        "direct_total_ms": _as_json(without.latency_ms),
    }


def _memory(service: OverMock, plan: Plan) -> Results:
    """The replica's memory over many requests, after a warm-up: first and last of the samples are compared."""
    service.ask(Load(connections=16, requests=plan.memory_warmup))
    samples, done = [mib(service.resident_bytes())], 0
    block = Load(connections=16, requests=plan.memory_requests // plan.memory_blocks)
    began = time.monotonic()
    while done < plan.memory_requests and time.monotonic() - began < plan.memory_cap_s:
        complain(service, service.ask(block))
        done += block.requests
        samples.append(mib(service.resident_bytes()))
        say(f"memory after {done:,} requests: {samples[-1]:.1f} MiB")
    drift = round(100 * (samples[-1] - samples[0]) / samples[0], 2) if samples[0] else None
    return {
        "warmup_requests": plan.memory_warmup,
        "requests": done,
        "drift_percent": drift,
        "rss_mib": samples,
    }


def _records(service: OverMock) -> Results:
    """Whether the service's books agree with what the load generator saw, to the row and to the micro-dollar."""
    books: Books = service.books()
    rows = books.requests - books.errors
    say(f"{service.answered:,} answers, {rows:,} records of them")
    return {
        "answered": service.answered,
        "failed": service.failed,
        "rows": books.requests,
        "rows_of_errors": books.errors,
        "unmatched": abs(service.answered - rows),
        "due_micro_usd": service.due_micro_usd,
        "recorded_micro_usd": books.cost_micro_usd,
        "budget_spent_micro_usd": books.spent_micro_usd,
        "budget_held_micro_usd": books.held_micro_usd,
        "off_by_micro_usd": max(
            abs(books.spent_micro_usd - books.cost_micro_usd),
            abs(books.cost_micro_usd - service.due_micro_usd),
        ),
    }


def complain(system: System, outcome: Outcome) -> None:
    if outcome.first_error is not None:
        say(f"{system.name}: {outcome.failed} failed; the first: {outcome.first_error[:200]}")


def mib(size_bytes: int) -> float:
    return round(size_bytes / MIB, 1)


def _as_json(percentiles: Percentiles | None) -> Results | None:
    return None if percentiles is None else percentiles._asdict()
