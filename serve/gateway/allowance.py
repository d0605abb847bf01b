"""What a replica may use of one limit in one window, who holds how much of it, and who waits for more.

Knows no database: grants come from outside. An allowance below 0 is a debt, which its next grant pays.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Protocol

from raymill.registry.meters import Ask, LeaseAnswer, MeterKey
from raymill.serve.gateway.limits import (
    Delta,
    Limit,
    LimitReached,
    end_of,
    too_large,
    used_up,
)

Needs = Sequence[tuple[Limit, int]]
NEVER = -(1 << 62)

IDLE_S = 2.0
"""What was not touched for this long goes back."""

FORGET_S = 60.0
"""That nothing is left of a limit is remembered for this long, so that refusing costs no database call."""


class Allowance:
    """One meter in one window. The replica's lease is free + reserved + used but not ingested yet + returning."""

    __slots__ = (
        "answered_at",
        "asking",
        "bucket",
        "contended_until",
        "counts",
        "free",
        "limit",
        "low",
        "name",
        "queue",
        "reserved",
        "retry_s",
        "returning",
        "settles_whole",
        "touched",
        "until",
        "used_for_sure",
    )

    def __init__(self, limit: Limit, bucket: int) -> None:
        self.limit = limit
        self.name = limit.name
        self.bucket = bucket
        self.until = end_of(limit.window, bucket)
        self.counts = limit.window != "now"
        """Whether settling uses it up; what is only held at once is just given back."""
        self.settles_whole = limit.kind == "requests"
        """A reservation is always used whole, so that waiting for those in flight frees nothing."""

        self.free = 0
        self.reserved = 0
        self.returning = 0  # on its way back to the meter
        self.used_for_sure = 0  # of the whole limit, by all replicas, at the least
        self.low = NEVER  # below this it is topped up
        self.touched = 0.0  # Unix seconds of the last reservation
        self.asking = False  # a lease is being asked for, or will be asked for again soon
        self.answered_at = 0.0  # loop time of the last answer
        self.contended_until = 0.0  # loop time; until then what is idle goes to other replicas
        self.retry_s = 0.0
        self.queue: deque[Waiter] = deque()

    @property
    def key(self) -> MeterKey:
        return self.name, self.bucket

    def learn(self, answer: LeaseAnswer) -> None:
        """Take a grant, and what the answer says of the limit as a whole."""
        self.free += answer.granted
        # What is in the lease but in none of our books was used here and is not ingested yet.
        ours = answer.mine - self.free - self.reserved - self.returning
        self.used_for_sure = max(self.used_for_sure, answer.used + ours)

    def refusal(self, limit: Limit, need: int, now: float) -> LimitReached | None:
        """Why `need` will not fit into this window, whatever is given back."""
        if need > limit.amount:
            return too_large(limit, need)
        used = self.used_for_sure + (self.reserved if self.settles_whole else 0)
        if self.counts and used + need > limit.amount:
            return used_up(limit, need, limit.amount - used, now)
        return None

    def ask(self) -> Ask | None:
        """What to lease; None when nothing is needed any more.

        Where replicas contend for what is left, each asks for exactly what its first waiter lacks.
        """
        most = self.limit.amount
        if not self.queue:
            return None if self.contended_until else Ask(self.name, self.bucket, most, 1, most, urgent=False)
        lacks = self.queue[0].need - self.free
        if lacks <= 0:
            return None
        want = lacks if self.contended_until else max(lacks, most)
        return Ask(self.name, self.bucket, most, lacks, want, urgent=True)

    def is_done(self, now: float) -> bool:
        """Nothing here is worth keeping: nobody asks for a debt of a window that is over, and what is known
        of a limit that was used saves asking for a while."""
        if self.reserved or self.returning or self.queue or self.asking:
            return False
        if now >= self.until:
            return self.free <= 0
        return self.free == 0 and now - self.touched >= (FORGET_S if self.used_for_sure else IDLE_S)


class Waiter:
    """A reservation that waits in one queue at a time: that of the first limit that it lacks."""

    __slots__ = ("at", "future", "limit", "need", "needs", "since", "timeout")

    def __init__(self, needs: Needs, loop: asyncio.AbstractEventLoop) -> None:
        self.needs = needs
        self.future: asyncio.Future[Hold] = loop.create_future()
        self.since = loop.time()
        self.timeout: asyncio.Timeout | None = None
        self.at: Allowance | None = None
        self.limit, self.need = needs[0]

    def queue_at(self, allowance: Allowance, limit: Limit, need: int) -> None:
        self.at, self.limit, self.need = allowance, limit, need
        allowance.queue.append(self)

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    @property
    def hold(self) -> Hold | None:
        """What it got."""
        done = self.future.done() and not self.future.cancelled() and self.future.exception() is None
        return self.future.result() if done else None


class Owner(Protocol):
    def freed(self, allowance: Allowance) -> None:
        """Something of `allowance` is free again that somebody may wait for."""
        ...


class Hold:
    """A reservation of several limits. It ends once, by `settle` or `release`; later calls do nothing."""

    __slots__ = ("_allowances", "_needs", "_owner")

    def __init__(self, owner: Owner, needs: Needs, allowances: Sequence[Allowance]) -> None:
        self._owner = owner
        self._needs = needs
        self._allowances = allowances

    def settle(self, actual: Mapping[Limit, int]) -> list[Delta]:
        """Put back what was not used. More than was reserved may have been used.

        Args:
            actual: What was used of each limit; one that is missing was not used.

        Returns:
            What goes into the usage record. Streams are never used up, so they are not in it.
        """
        allowances, self._allowances = self._allowances, ()
        deltas: list[Delta] = []
        for allowance, (limit, need) in zip(allowances, self._needs, strict=False):
            used = actual.get(limit, 0) if allowance.counts else 0
            if used < 0:
                raise ValueError(f"{used} of {limit.name} cannot have been used: give at least 0")
            allowance.reserved -= need
            allowance.free += need - used
            if used:
                allowance.used_for_sure += used
                deltas.append((allowance.name, allowance.bucket, used))
            if allowance.queue or allowance.contended_until:
                self._owner.freed(allowance)
        return deltas

    def release(self) -> None:
        """Nothing was used."""
        self.settle({})
