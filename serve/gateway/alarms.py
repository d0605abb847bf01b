"""Deadlines of very many short waits, on one timer of the event loop.

Nearly every wait of a request ends long before its deadline. A timer of its own costs it 3 µs to make and to throw
away; an entry here costs a tenth. The price: an alarm may ring `TICK_S` late.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

TICK_S = 0.05


class Alarms:
    """For one event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._set: dict[object, tuple[float, Callable[[], None]]] = {}
        self._ticking = False

    def set(self, key: object, after_s: float, ring: Callable[[], None]) -> None:
        """Call `ring` once after `after_s` seconds or a little later, unless `clear` comes first."""
        self._set[key] = (self._loop.time() + after_s, ring)
        if not self._ticking:
            self._ticking = True
            self._loop.call_later(TICK_S, self._tick)

    def clear(self, key: object) -> None:
        self._set.pop(key, None)

    def _tick(self) -> None:
        now = self._loop.time()
        for key, (at, ring) in list(self._set.items()):
            if at <= now and self._set.pop(key, None) is not None:
                ring()
        self._ticking = bool(self._set)
        if self._ticking:
            self._loop.call_later(TICK_S, self._tick)


_alarms: dict[int, Alarms] = {}


def alarms() -> Alarms:
    """Those of the running event loop."""
    loop = asyncio.get_running_loop()
    found = _alarms.get(id(loop))
    if found is None or found._loop is not loop:
        found = _alarms[id(loop)] = Alarms()
    return found
