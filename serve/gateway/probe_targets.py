"""The cheap active probe: while a target's breaker is open, ask its provider for its list of models.

One that answers may be tried again at once, before its time is up. A list costs no tokens.
"""

from __future__ import annotations

import asyncio
import time

from raymill.serve.gateway.catalog import Target
from raymill.serve.gateway.dialect import head_lines
from raymill.serve.gateway.health import HealthBook
from raymill.serve.gateway.http_client import HttpClient, HttpError
from raymill.serve.gateway.snapshot import Refresher

EVERY_S = 2.0
TIMEOUT_S = 5.0


async def probe_forever(refresher: Refresher, book: HealthBook, http: HttpClient) -> None:
    """Until cancelled."""
    while True:
        await asyncio.sleep(EVERY_S)
        now = time.monotonic()
        resting = {name for name, state in book.states().items() if state == "open"}
        if not resting:
            continue
        targets = {
            target.id: target
            for route in refresher.current.routes.values()
            for target in route.targets
            if target.id in resting and target.provider is not None
        }
        answered = await asyncio.gather(*(answers(target, http) for target in targets.values()))
        for target, ok in zip(targets.values(), answered, strict=True):
            if ok and not book.of(target).admits(now):
                book.of(target).half_open()


async def answers(target: Target, http: HttpClient) -> bool:
    """Whether the provider gives its list of models."""
    provider = target.provider
    assert provider is not None
    path = provider.settings.paths.get("models")
    if path is None:
        return False
    secret = provider.secrets[0] if provider.secrets else None
    try:
        answer = await http.get(
            provider.address,
            path + provider.settings.query_string,
            head_lines(provider, secret),
            timeout_s=TIMEOUT_S,
        )
        try:
            await answer.whole(TIMEOUT_S)
        finally:
            answer.close()
    except HttpError:
        return False
    return answer.status < 400
