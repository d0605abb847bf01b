"""Deadlines on one timer: they ring once, not before their time, and not when they were cleared."""

from __future__ import annotations

import asyncio
import time
from functools import partial

from raymill.serve.gateway.alarms import TICK_S, alarms


def test_an_alarm_rings_once_at_its_time_and_a_cleared_one_never() -> None:
    async def run() -> None:
        rang: list[tuple[str, float]] = []
        started = time.monotonic()

        def ring(name: str) -> None:
            rang.append((name, time.monotonic() - started))

        found = alarms()
        assert found is alarms()
        for name, after_s in (("late", 0.25), ("soon", 0.1), ("never", 0.1)):
            found.set(name, after_s, partial(ring, name))
        await asyncio.sleep(0)
        found.clear("never")
        found.clear("unknown")
        await asyncio.sleep(0.25 + 3 * TICK_S)
        assert sorted(name for name, _ in rang) == ["late", "soon"]  # in one tick, where the loop came late
        assert dict(rang)["soon"] >= 0.1
        assert dict(rang)["late"] >= 0.25

    asyncio.run(run())


def test_one_alarm_may_set_another_and_each_loop_has_its_own() -> None:
    async def run() -> None:
        done = asyncio.Event()
        alarms().set("a", 0.01, lambda: alarms().set("a", 0.01, done.set))
        await asyncio.wait_for(done.wait(), 5)

    for _ in range(2):
        asyncio.run(run())
