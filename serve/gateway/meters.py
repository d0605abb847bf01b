"""Limits of a replica without a database call: allowances leased in chunks, reserved and settled in memory.

    try_reserve -> Hold                    what is leased suffices; costs microseconds
    reserve     -> waits in the queue of the first limit that lacks something:
                     it is leased          -> Hold
                     others hold it        -> they are asked to give it back, for 2 s at the most
                     it is used up         -> LimitReached, at once
                     Postgres is away      -> Unavailable: what cannot be checked is refused

One worker exchanges with Postgres: leases that somebody waits for, more of what is below half of the last
grant, the next minute before it begins, and back what is idle; each exchange says that the replica lives.
A replica that reaches nobody for FENCE_S stops using its leases, well before a sweep gives them away.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import NamedTuple

from raymill.policies.errors import Unavailable
from raymill.registry.meters import LOST_AFTER_S
from raymill.serve.gateway.allowance import Hold, Needs
from raymill.serve.gateway.book import Book
from raymill.serve.gateway.ledger import InDoubt, Ledger
from raymill.serve.gateway.limits import Clock, Delta, Limit, LimitReached, Window
from raymill.serve.gateway.outbox import Sent

__all__ = ["Clock", "Delta", "Hold", "Limit", "LimitReached", "Meters", "Needs", "Window"]

TICK_S = 0.5
BEAT_S = 5.0
STOP_S = 2.0
FENCE_S = LOST_AFTER_S * 0.75
AWAY = "the database went away: try again in a few seconds"


class Meters:
    """All limits of a replica. Lost with its process: the sweep gives its leases back.

    Args:
        dsn: Of Postgres, as libpq takes it.
        replica_id: Of this process, and never of another.
        node: Where it runs, for people.
    """

    def __init__(
        self,
        dsn: str,
        replica_id: uuid.UUID,
        node: str,
        *,
        clock: Clock | None = None,
        fence_s: float = FENCE_S,
    ) -> None:
        self._book = Book(clock or Clock())
        self._ledger = Ledger(dsn, replica_id)
        self._node = node
        self._fence_s, self._beat_s = fence_s, min(BEAT_S, fence_s / 3)
        self._fence: asyncio.TimerHandle | None = None
        self._doubt: _Doubt | None = None
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self._ticked_at = self._reached_at = 0.0
        self.try_reserve = self._book.try_reserve
        """`try_reserve(needs, now=None) -> Hold | None`: reserve all of `needs`, each limit once, from what
        is leased. None: `reserve` may still get it."""

    async def start(self) -> None:
        """Register the replica, and begin to lease.

        Raises:
            Unavailable: the database is away.
        """
        await self._ledger.register(self._node)
        self._reached()
        self._tasks = [
            asyncio.create_task(self._work(), name="meters"),
            asyncio.create_task(self._ledger.listen(self._book.give_way), name="meters-listen"),
        ]

    async def stop(self) -> None:
        """Give back what is free. What is reserved goes back once the replica's records are ingested."""
        self._stopping = True
        self._book.outbox.wake.set()
        if self._tasks:
            await asyncio.wait(self._tasks[:1], timeout=STOP_S)
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        self._book.halt("this replica is stopping")
        if self._fence is not None:
            self._fence.cancel()
        await self._ledger.close()

    def check(self) -> None:
        """Raises when nothing is leased any more: the replica must be replaced."""
        for task in self._tasks:
            if task.done() and not self._stopping:
                reason = "it was cancelled" if task.cancelled() else repr(task.exception())
                raise RuntimeError(f"the gateway's limits do not work any more: {reason}")

    async def reserve(self, needs: Needs) -> Hold:
        """Reserve all of `needs`, leasing what is missing. First come, first served at each limit.

        Raises:
            LimitReached: it does not fit, now or for good.
            Unavailable: the database is away, so that nobody knows.
        """
        return await self._book.reserve(needs)

    async def _work(self) -> None:
        try:
            while not self._stopping:
                try:
                    async with asyncio.timeout(TICK_S):
                        await self._book.outbox.wake.wait()
                except TimeoutError:
                    pass
                self._book.outbox.wake.clear()
                await self._exchange()
            self._book.return_all()
            await self._exchange()
        finally:
            self._book.halt("this replica no longer leases them")

    async def _exchange(self) -> None:
        try:
            if self._doubt is not None:
                await self._end_doubt(self._doubt)
        except Unavailable as error:
            self._book.refuse_asks(error)
            return
        now = time.monotonic()
        if now - self._ticked_at >= TICK_S:
            self._ticked_at = now
            self._book.tidy()
        sent = self._book.take()
        if not sent.asks and not sent.returns and now - self._reached_at < self._beat_s:
            return
        given = {allowance.key: amount for allowance, amount in sent.returns}
        try:
            exchanged = await self._ledger.exchange(given, [ask for _, ask in sent.asks])
        except Unavailable as error:
            self._book.unanswered(sent, error)
            self._book.undone(sent)
        except InDoubt as doubt:
            self._book.unanswered(sent, Unavailable(f"limits cannot be checked, for {AWAY}"))
            self._doubt = _Doubt(doubt, sent)
        else:
            self._reached()
            self._book.received(sent, exchanged.answers)

    async def _end_doubt(self, doubt: _Doubt) -> None:
        took_effect = await self._ledger.settled(doubt.error)
        self._doubt = None
        if took_effect:
            self._book.received(doubt.sent, doubt.error.exchanged.answers)
        else:
            self._book.undone(doubt.sent)

    def _reached(self) -> None:
        self._reached_at = time.monotonic()
        if self._fence is not None:
            self._fence.cancel()
        away = f"the database did not answer for {self._fence_s:.0f} s"
        self._fence = asyncio.get_running_loop().call_later(self._fence_s, self._book.halt, away)
        self._book.resume()


class _Doubt(NamedTuple):
    error: InDoubt
    sent: Sent
