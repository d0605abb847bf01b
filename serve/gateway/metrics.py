"""What a gateway replica counts; `cluster/numbers.py` tells how a scrape comes to see it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from raymill.cluster.numbers import (
    SECONDS,
    Histogram,
    ProcessNumbers,
    counter,
    exposition,
    gauge,
    histogram,
)
from raymill.cluster.service import write_atomically

if TYPE_CHECKING:
    from raymill.serve.gateway.health import State
    from raymill.serve.gateway.spool import UsageRecord

log = logging.getLogger(__name__)

OVERHEAD = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5)
BREAKER = {"closed": 0, "half_open": 1, "open": 2}
WRITE_S = 2.0
MAX_NAMES = 500
"""Routes, providers and models that get numbers of their own: clients choose names, so they must not add up."""

PREFIX = "gateway_"


class _Numbers:
    """Of one route, provider and model."""

    __slots__ = ("attempts", "completion", "first", "latency", "prompt", "requests", "spend")

    def __init__(self) -> None:
        self.requests: dict[tuple[str, str, int], int] = {}
        """By operation, outcome and status."""
        self.latency = Histogram(SECONDS)
        self.first = Histogram(SECONDS)
        self.attempts = self.prompt = self.completion = self.spend = 0


class Metrics:
    """One replica's numbers. Only its event loop's thread adds to them."""

    def __init__(self, replica: str) -> None:
        self._replica = replica
        self._process = ProcessNumbers("gateway", replica)
        self._numbers: dict[tuple[str, str, str], _Numbers] = {}
        self._overhead = Histogram(OVERHEAD)
        self._refused: dict[tuple[str, int], int] = {}
        self._cache: dict[tuple[str, str], int] = {}

    def ended(self, record: UsageRecord) -> None:
        """A request that was let in is over."""
        numbers = self._numbers.get((record.route, record.provider, record.model)) or self._of(record)
        kind = (record.operation, record.outcome, record.status)
        numbers.requests[kind] = numbers.requests.get(kind, 0) + 1
        numbers.latency.add(record.latency_ms / 1000)
        self._overhead.add(record.overhead_ms / 1000)
        if record.first_token_ms is not None:
            numbers.first.add(record.first_token_ms / 1000)
        numbers.attempts += record.attempts
        numbers.prompt += record.prompt_tokens
        numbers.completion += record.completion_tokens
        numbers.spend += record.cost_micro_usd

    def _of(self, record: UsageRecord) -> _Numbers:
        who = (record.route, record.provider, record.model)
        if len(self._numbers) >= MAX_NAMES:
            who = ("other", record.provider, "other")
        return self._numbers.setdefault(who, _Numbers())

    def refused(self, code: str, status: int) -> None:
        self._refused[code, status] = self._refused.get((code, status), 0) + 1

    def cache(self, route: str, *, hit: bool) -> None:
        key = (route, "hit" if hit else "miss")
        self._cache[key] = self._cache.get(key, 0) + 1

    def text(
        self, breakers: dict[str, State], spool_bytes: int, in_flight: int, not_ready: str | None
    ) -> str:
        """All of it, as a scrape wants it."""
        gauges = {
            "in_flight": ("Requests being answered.", in_flight),
            "ready": ("1: more requests may come.", not_ready is None),
            "spool_bytes": ("Usage records that are not in Postgres yet.", spool_bytes),
        }
        families: list[Metric] = [*self._by_name(), *self._counts()]
        for name, (text, value) in gauges.items():
            family = gauge(f"{PREFIX}{name}", text, "replica")
            family.add_metric([self._replica], float(value))
            families.append(family)
        states = gauge(f"{PREFIX}breaker", "0 closed, 1 half-open, 2 open.", "replica", "target")
        for target, state in breakers.items():
            if state != "closed":
                states.add_metric([self._replica, target], BREAKER[state])
        return exposition([*families, states, *self._process.families()])

    def _by_name(self) -> Iterator[Metric]:
        who = ["replica", "route", "provider", "model"]
        requests = _counter("requests", "Requests that were let in.", *who, "operation", "outcome", "status")
        latency = _histogram("request_seconds", "From the request to its last byte.", *who)
        first = _histogram("first_token_seconds", "From the request to the first token.", *who)
        attempts = _counter("upstream_attempts", "Tries at targets.", *who)
        tokens = _counter("tokens", "Tokens.", *who, "kind")
        spend = _counter("spend_micro_usd", "Spend, micro-dollars.", *who)
        for names, numbers in list(self._numbers.items()):
            labels = [self._replica, *names]
            for (operation, outcome, status), count in list(numbers.requests.items()):
                requests.add_metric([*labels, operation, outcome, str(status)], count)
            numbers.latency.into(latency, labels)
            numbers.first.into(first, labels)
            attempts.add_metric(labels, numbers.attempts)
            tokens.add_metric([*labels, "prompt"], numbers.prompt)
            tokens.add_metric([*labels, "completion"], numbers.completion)
            spend.add_metric(labels, numbers.spend)
        yield from (requests, latency, first, attempts, tokens, spend)

    def _counts(self) -> Iterator[Metric]:
        overhead = _histogram("overhead_seconds", "The gateway's own share of the latency.", "replica")
        self._overhead.into(overhead, [self._replica])
        yield overhead
        refused = _counter("refused", "Requests that were not let in.", "replica", "code", "status")
        for (code, status), count in list(self._refused.items()):
            refused.add_metric([self._replica, code, str(status)], count)
        yield refused
        cache = _counter("cache", "Looks into the answer cache.", "replica", "route", "result")
        for (route, result), count in list(self._cache.items()):
            cache.add_metric([self._replica, route, result], count)
        yield cache


def _counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
    return counter(f"{PREFIX}{name}", text, *labels)


def _histogram(name: str, text: str, *labels: str) -> HistogramMetricFamily:
    return histogram(f"{PREFIX}{name}", text, *labels)


async def write_forever(text: Callable[[], str], directory: Path, replica: str) -> None:
    """Write a replica's numbers every few seconds until cancelled; then take them away."""
    path = directory / f"gateway-{replica}.prom"
    directory.mkdir(parents=True, exist_ok=True)
    try:
        while True:
            await asyncio.sleep(WRITE_S)
            try:
                data = await asyncio.to_thread(text)
                await asyncio.to_thread(write_atomically, path, data)
            except (
                Exception
            ):  # broad: a full disk, or whatever is wrong with numbers, takes them and not the service
                log.warning("the gateway's numbers could not be written", exc_info=True)
    finally:
        path.unlink(missing_ok=True)
