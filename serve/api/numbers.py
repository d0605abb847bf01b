"""What a replica of the control plane counts: requests by route, and how long they took to be answered.

A route is its pattern in the code, never a path that a client sent, so there are as many as `access.py` has rows.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterator

from prometheus_client.core import Metric
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raymill.cluster.numbers import Histogram, counter, gauge, histogram

API_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

QUIET = {"GET", "HEAD", "OPTIONS"}
"""What only looks is not logged, unless it fails."""

log = logging.getLogger(__name__)


class ApiNumbers:
    """Only the event loop's thread adds to them."""

    def __init__(self) -> None:
        self._requests: dict[tuple[str, str, str], int] = defaultdict(int)
        self._took: dict[tuple[str, str], Histogram] = defaultdict(lambda: Histogram(API_S))
        self.open = 0
        """Requests and event streams that are not over."""

    def answered(self, method: str, route: str, status: int, took_s: float) -> None:
        self._requests[method, route, str(status)] += 1
        self._took[method, route].add(took_s)

    def families(self) -> Iterator[Metric]:
        requests = counter("api_requests", "Requests to the control plane.", "method", "route", "status")
        for key, count in list(self._requests.items()):
            requests.add_metric([*key], count)
        took = histogram(
            "api_request_seconds", "From a request to the head of its answer.", "method", "route"
        )
        for of, each in list(self._took.items()):
            each.into(took, [*of])
        in_flight = gauge("api_in_flight", "Requests and event streams that are not over.")
        in_flight.add_metric([], self.open)
        yield from (requests, took, in_flight)


class Counted:
    """Counts each request once its answer begins."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        numbers: ApiNumbers = scope["app"].state.parts.numbers

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "unknown")
                method = scope["method"] if route != "unknown" else "other"
                status, took_s = message["status"], time.perf_counter() - started
                numbers.answered(method, route, status, took_s)
                known = (
                    route != "unknown" and status != 401
                )  # others may send what they like, as often as they like
                if status >= 500 or (scope["method"] not in QUIET and known):
                    path = scope.get("raw_path", b"").decode("latin-1")[:300]  # encoded: no line ends within
                    log.info("%s %s %d in %.0f ms", method, path, status, took_s * 1000)
            await send(message)

        numbers.open += 1
        try:
            await self._app(scope, receive, send_counted)
        finally:
            numbers.open -= 1
