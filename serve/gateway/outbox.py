"""What a replica will say to the meters next: leases it asks for, and what it gives back. Knows no database."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from raymill.registry.meters import Ask
from raymill.serve.gateway.allowance import NEVER, Allowance

MOST_ASKS = 500
"""In one exchange."""


class Sent(NamedTuple):
    """One exchange with the meters."""

    asks: list[tuple[Allowance, Ask]]
    returns: list[tuple[Allowance, int]]


class Outbox:
    def __init__(self) -> None:
        self.wake = asyncio.Event()
        """Set when there is something to send."""

        self._asks: dict[Allowance, None] = {}
        self._returns: dict[Allowance, None] = {}

    def ask(self, allowance: Allowance) -> None:
        """Lease more, unless that is under way."""
        if not allowance.asking:
            allowance.asking = True
            self._asks[allowance] = None
            self.wake.set()

    def give_back(self, allowance: Allowance) -> None:
        """Return all that is free."""
        allowance.low = NEVER
        if allowance.free > 0:
            allowance.returning += allowance.free
            allowance.free = 0
            self._returns[allowance] = None
            self.wake.set()

    def take(self, now: float) -> Sent:
        """What is to be sent now. Asks that time or events have settled are left out."""
        returns = [(allowance, allowance.returning) for allowance in self._returns]
        self._returns.clear()
        asks = []
        for allowance in list(self._asks)[:MOST_ASKS]:
            del self._asks[allowance]
            ask = allowance.ask()
            if ask is None or now >= allowance.until:
                allowance.asking = False
            else:
                asks.append((allowance, ask))
        if self._asks:
            self.wake.set()
        return Sent(asks, returns)

    def take_asks(self) -> list[Allowance]:
        """Those that wait for a lease, when none can be asked for."""
        asks, self._asks = self._asks, {}
        return list(asks)
