"""What a replica counts, in Prometheus' text form.

Each replica writes its numbers to `<home>/metrics/gateway-<replica>.prom` every few seconds; `/metrics` of the
control plane joins the files of the living ones. So one scrape sees every replica of the machine, and a
request costs no more than a few additions.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from raymill.cluster.service import write_atomically

if TYPE_CHECKING:
    from raymill.serve.gateway.health import State
    from raymill.serve.gateway.spool import UsageRecord

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
OVERHEAD = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5)
BREAKER = {"closed": 0, "half_open": 1, "open": 2}
WRITE_S = 2.0
MAX_BUNDLES = 500
"""Distinct combinations that get numbers of their own: clients choose model names, so they must not grow for ever."""

WHO = ("route", "provider", "model")


class _Bundle(NamedTuple):
    """The numbers that one kind of request adds to."""

    requests: Counter
    latency: Histogram
    first: Histogram
    overhead: Histogram
    attempts: Counter
    prompt: Counter
    completion: Counter
    spend: Counter


class Metrics:
    def __init__(self, replica: str) -> None:
        self.registry = CollectorRegistry()
        self._replica = replica
        self._bundles: dict[tuple[str, str, str, str, str, int], _Bundle] = {}
        self._requests = self._counter(
            "requests", "Requests that were let in.", *WHO, "operation", "outcome", "status"
        )
        self._refused = self._counter("refused", "Requests that were not let in.", "code", "status")
        self._latency = self._histogram(
            "request_seconds", "From the request to its last byte.", SECONDS, *WHO
        )
        self._first = self._histogram(
            "first_token_seconds", "From the request to the first token.", SECONDS, *WHO
        )
        self._overhead = self._histogram(
            "overhead_seconds", "The gateway's own share of the latency.", OVERHEAD
        )
        self._tokens = self._counter("tokens", "Tokens.", *WHO, "kind")
        self._spend = self._counter("spend_micro_usd", "Spend, micro-dollars.", *WHO)
        self._attempts = self._counter("upstream_attempts", "Tries at targets.", *WHO)
        self._cache = self._counter("cache", "Looks into the answer cache.", "route", "result")
        self._in_flight = self._gauge("in_flight", "Requests being answered.")
        self._ready = self._gauge("ready", "1: more requests may come.")
        self._breakers = Gauge(
            "raymill_gateway_breaker",
            "0 closed, 1 half-open, 2 open.",
            ("replica", "target"),
            registry=self.registry,
        )
        self._spool = self._gauge("spool_bytes", "Usage records that are not in Postgres yet.")

    def ended(self, record: UsageRecord) -> None:
        """A request that was let in is over."""
        key = (record.route, record.provider, record.model, record.operation, record.outcome, record.status)
        bundle = self._bundles.get(key) or self._bundle(key)
        bundle.requests.inc()
        bundle.latency.observe(record.latency_ms / 1000)
        bundle.overhead.observe(record.overhead_ms / 1000)
        if record.first_token_ms is not None:
            bundle.first.observe(record.first_token_ms / 1000)
        bundle.attempts.inc(record.attempts)
        bundle.prompt.inc(record.prompt_tokens)
        bundle.completion.inc(record.completion_tokens)
        bundle.spend.inc(record.cost_micro_usd)

    def _bundle(self, key: tuple[str, str, str, str, str, int]) -> _Bundle:
        """Looking a label up costs more than adding to it: the ones that belong together are kept together."""
        route, provider, model, operation, outcome, status = key
        if len(self._bundles) >= MAX_BUNDLES:
            route = model = "other"
            key = (route, provider, model, operation, outcome, status)
            if key in self._bundles:
                return self._bundles[key]
        who = (self._replica, route, provider, model)
        bundle = _Bundle(
            requests=self._requests.labels(*who, operation, outcome, str(status)),
            latency=self._latency.labels(*who),
            first=self._first.labels(*who),
            overhead=self._overhead.labels(self._replica),
            attempts=self._attempts.labels(*who),
            prompt=self._tokens.labels(*who, "prompt"),
            completion=self._tokens.labels(*who, "completion"),
            spend=self._spend.labels(*who),
        )
        self._bundles[key] = bundle
        return bundle

    def refused(self, code: str, status: int) -> None:
        self._refused.labels(self._replica, code, str(status)).inc()

    def cache(self, route: str, *, hit: bool) -> None:
        self._cache.labels(self._replica, route, "hit" if hit else "miss").inc()

    def text(
        self, breakers: dict[str, State], spool_bytes: int, in_flight: int, not_ready: str | None
    ) -> bytes:
        """All of it, as a scrape wants it."""
        self._spool.labels(self._replica).set(spool_bytes)
        self._in_flight.labels(self._replica).set(in_flight)
        self._ready.labels(self._replica).set(not_ready is None)
        self._breakers.clear()
        for target, state in breakers.items():
            self._breakers.labels(self._replica, target).set(BREAKER[state])
        return bytes(generate_latest(self.registry))

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"raymill_gateway_{name}", text, ("replica", *labels), registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"raymill_gateway_{name}", text, ("replica",), registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(
            f"raymill_gateway_{name}", text, ("replica", *labels), registry=self.registry, buckets=buckets
        )


async def write_forever(text: Callable[[], bytes], directory: Path, replica: str) -> None:
    """Write a replica's numbers every few seconds until cancelled; then take them away."""
    path = directory / f"gateway-{replica}.prom"
    directory.mkdir(parents=True, exist_ok=True)
    try:
        while True:
            await asyncio.sleep(WRITE_S)
            data = (await asyncio.to_thread(text)).decode()
            with contextlib.suppress(OSError):  # a full disk takes the numbers, not the service
                await asyncio.to_thread(write_atomically, path, data)
    finally:
        path.unlink(missing_ok=True)
