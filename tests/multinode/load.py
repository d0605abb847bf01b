"""Load on a service that something is done to, and ways to wait and tell."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from typing import Any, Self

import httpx
from tests.conftest import RunningService

from raymill.client.sdk import Raymill
from raymill.policies.errors import Unavailable

LONG_S = 300.0
"""For what takes a service's start, or a training's, at the most."""


class Load:
    """Requests for a model at a fixed rate; what became of each."""

    def __init__(self, service: RunningService, model: str, messages: Any, per_s: float) -> None:
        self._service, self._model = service, model
        self._messages, self._per_s = messages, per_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._send()))
        self.answered: list[tuple[float, str]] = []
        """When each answer came, and which version gave it."""

        self.failed: list[tuple[float, str]] = []
        """When each request that has no answer was sent, and why."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def answered_between(self, begin: float, end: float) -> int:
        """How many answers came in a span of the monotonic clock."""
        return sum(begin <= at < end for at, _ in self.answered)

    async def _send(self) -> None:
        headers = {"authorization": f"Bearer {self._service.api_key}"}
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(
            base_url=self._service.url, headers=headers, timeout=60, limits=limits, trust_env=False
        ) as http:
            waiting: list[asyncio.Task[None]] = []
            started = time.monotonic()
            while not self._stop.is_set():
                waiting.append(asyncio.create_task(self._ask(http)))
                await asyncio.sleep(max(0.0, started + len(waiting) / self._per_s - time.monotonic()))
            await asyncio.gather(*waiting)

    async def _ask(self, http: httpx.AsyncClient) -> None:
        body = {"model": self._model, "messages": self._messages, "max_tokens": 2, "temperature": 0}
        sent_at = time.monotonic()
        try:
            response = await http.post("/v1/chat/completions", json=body)
        except httpx.HTTPError as error:
            self.failed.append((sent_at, repr(error)))
            return
        if response.status_code == 200:
            self.answered.append((time.monotonic(), response.headers["x-raymill-target"]))
        else:
            self.failed.append((sent_at, f"{response.status_code} {response.text[:300]}"))


def answers(client: Raymill) -> bool:
    """Whether the control plane does."""
    try:
        client.status()
    except Unavailable:
        return False
    return True


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
