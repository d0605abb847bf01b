"""A replica's allowances and who waits for them, in memory: reserving, queues, what to ask for and give back.

Knows no database: the worker of `meters` takes what is to be sent, and brings the answers. Everything runs
on one event loop. Windows go by Unix seconds, patience by the loop's clock.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import cast, get_args

from raymill.policies.errors import Unavailable
from raymill.registry.meters import LeaseAnswer, MeterKey
from raymill.serve.gateway.allowance import FORGET_S, IDLE_S, NEVER, Allowance, Hold, Needs, Waiter
from raymill.serve.gateway.limits import Clock, Limit, Window, bucket_of, held_up
from raymill.serve.gateway.outbox import Outbox, Sent

PATIENCE_S = 2.0
"""How long a reservation waits for what requests in flight hold."""

REQUESTS_PATIENCE_S = 0.3
"""As above, for requests: other replicas give idle ones back at once, and those in flight never come back."""

AHEAD_S = 5.0
"""The next window is leased this long before it begins, for meters in use."""

RETRY_S, MOST_RETRY_S = 0.03, 0.2
CONTENDED_S = 2.0


class Book:
    def __init__(self, clock: Clock) -> None:
        self.outbox = Outbox()
        self._clock = clock
        self._allowances: dict[MeterKey, Allowance] = {}
        self._current: dict[Limit, Allowance] = {}
        """Of the window that runs, by the limit as it is now. Empty while nothing may be used."""

        self._halted: str | None = "this replica has not started yet"

    def try_reserve(self, needs: Needs, now: float | None = None) -> Hold | None:
        """Reserve all of `needs` from what is leased, or nothing."""
        if now is None:
            now = self._clock.time()
        current = self._current
        allowances = []
        for limit, need in needs:
            allowance = current.get(limit)
            if allowance is None or now >= allowance.until:
                allowance = self._enter(limit, now)
                if allowance is None:
                    return None
            if allowance.free < need or allowance.queue:
                return None
            allowances.append(allowance)
        return self._take(needs, allowances, now)

    async def reserve(self, needs: Needs) -> Hold:
        """Reserve all of `needs`, in turn at each limit. Raises LimitReached and Unavailable."""
        hold = self.try_reserve(needs)
        if hold is not None:
            return hold
        waiter = Waiter(needs, asyncio.get_running_loop())
        try:
            async with asyncio.timeout(PATIENCE_S) as waiter.timeout:
                self._place(waiter)
                return await waiter.future
        except TimeoutError:
            if not waiter.future.cancelled():  # it came in the very moment
                return waiter.future.result()
            raise self._gave_up(waiter) from None
        except asyncio.CancelledError:
            if (hold := waiter.hold) is not None:
                hold.release()
            raise
        finally:
            waiter.future.cancel()
            if waiter.at is not None:
                self._serve(waiter.at)

    def freed(self, allowance: Allowance) -> None:
        """Whoever waits here gets it; what then is left goes where it is wanted more."""
        self._serve(allowance)
        if allowance.contended_until:
            self.outbox.give_back(allowance)

    def give_way(self, name: str) -> None:
        """Another replica lacks something of a meter: what is idle here goes back at once."""
        window = name.rpartition("/")[2]
        if window not in get_args(Window):
            return  # of another release
        bucket = bucket_of(cast(Window, window), self._clock.time())
        if (allowance := self._allowances.get((name, bucket))) is not None:
            allowance.contended_until = asyncio.get_running_loop().time() + CONTENDED_S
            self.outbox.give_back(allowance)

    def halt(self, reason: str) -> None:
        """From now on nothing may be used. Reservations that were made stand."""
        self._halted = reason
        self._current.clear()
        for allowance in self._allowances.values():
            self._fail_queue(allowance, _halted(reason))

    def resume(self) -> None:
        self._halted = None

    # --- what the worker sends, and what comes back -------------------------------------------------

    def take(self) -> Sent:
        """What is to be sent now."""
        return self.outbox.take(self._clock.time())

    def return_all(self) -> None:
        """Nothing will be reserved any more."""
        for allowance in self._allowances.values():
            self.outbox.give_back(allowance)

    def received(self, sent: Sent, answers: Sequence[LeaseAnswer]) -> None:
        """The exchange took effect."""
        for allowance, amount in sent.returns:
            allowance.returning -= amount
        for (allowance, _), answer in zip(sent.asks, answers, strict=True):
            allowance.asking = False
            allowance.learn(answer)
            self._answered(allowance, answer.granted)

    def unanswered(self, sent: Sent, error: Exception) -> None:
        """Nobody knows yet whether it took effect; who waited for it waits no longer."""
        for allowance, _ in sent.asks:
            self._fail_ask(allowance, error)

    def refuse_asks(self, error: Exception) -> None:
        """Nothing can be sent now."""
        for allowance in self.outbox.take_asks():
            self._fail_ask(allowance, error)

    def undone(self, sent: Sent) -> None:
        """It took no effect: what was to go back is still here, and may be used."""
        for allowance, amount in sent.returns:
            allowance.returning -= amount
            allowance.free += amount
            self._serve(allowance)

    def tidy(self) -> None:
        """Now and then: give idle things back, move queues into the new window, lease the next one, forget."""
        now, loop_now = self._clock.time(), asyncio.get_running_loop().time()
        for allowance in list(self._allowances.values()):
            if allowance.contended_until and allowance.contended_until <= loop_now:
                allowance.contended_until = 0.0
            if now >= allowance.until:
                self.outbox.give_back(allowance)
                self._requeue(allowance)
            elif allowance.free > 0 and not allowance.queue and now - allowance.touched >= IDLE_S:
                self.outbox.give_back(allowance)
            elif allowance.free < 0 and allowance.used_for_sure < allowance.limit.amount:
                self.outbox.ask(allowance)  # for the debt
            if now < allowance.until < now + AHEAD_S and now - allowance.touched < FORGET_S:
                self._look_ahead(allowance)
            if allowance.is_done(now):
                del self._allowances[allowance.key]
                if self._current.get(allowance.limit) is allowance:
                    del self._current[allowance.limit]

    # --- reserving ----------------------------------------------------------------------------------

    def _take(self, needs: Needs, allowances: Sequence[Allowance], now: float) -> Hold:
        for allowance, (_, need) in zip(allowances, needs):  # noqa: B905 (strict costs a fifth of this loop)
            allowance.reserved += need
            allowance.free = free = allowance.free - need
            allowance.touched = now
            if free < allowance.low:
                allowance.low = NEVER
                self.outbox.ask(allowance)
        return Hold(self, needs, allowances)

    def _enter(self, limit: Limit, now: float) -> Allowance | None:
        """The allowance of the window that `now` lies in, if there is one for exactly this limit."""
        if self._halted is not None:
            return None
        found = self._allowances.get((limit.name, bucket_of(limit.window, now)))
        if found is None or found.limit != limit:
            return None
        self._current[limit] = found
        return found

    def _allowance(self, limit: Limit, now: float) -> Allowance:
        """As `_enter`, and made when there is none."""
        key = (limit.name, bucket_of(limit.window, now))
        found = self._allowances.get(key)
        if found is None:
            found = self._allowances[key] = Allowance(limit, key[1])
        elif found.limit != limit:
            self._current.pop(found.limit, None)
            if limit.amount < found.limit.amount:
                self.outbox.give_back(found)  # to be leased again if it fits under the lower limit
            found.limit = limit
        self._current[limit] = found
        return found

    def _place(self, waiter: Waiter, *, in_turn: bool = False) -> None:
        """Give the waiter what it needs, or queue it at the first limit that lacks something.

        Args:
            in_turn: It was the first of a queue, and need not queue behind others at its other limits.
        """
        if self._halted is not None:
            waiter.fail(_halted(self._halted))
            return
        now = self._clock.time()
        allowances = []
        for limit, need in waiter.needs:
            allowance = self._allowance(limit, now)
            lacks = allowance.free < need
            if lacks and (refusal := allowance.refusal(limit, need, now)) is not None:
                waiter.fail(refusal)
                return
            if lacks or (allowance.queue and not in_turn):
                waiter.queue_at(allowance, limit, need)
                self._serve(allowance)
                return
            allowances.append(allowance)
        waiter.future.set_result(self._take(waiter.needs, allowances, now))

    def _serve(self, allowance: Allowance) -> None:
        """Let in from the queue who can be; ask for a lease for the first who cannot."""
        while allowance.queue:
            first = allowance.queue[0]
            if not first.future.done() and allowance.free < first.need:
                self.outbox.ask(allowance)
                return
            allowance.queue.popleft()
            if not first.future.done():
                self._place(first, in_turn=True)

    def _gave_up(self, waiter: Waiter) -> Exception:
        if waiter.at is None or waiter.at.answered_at < waiter.since:
            return _halted("Postgres gives no answer")
        return held_up(waiter.limit, waiter.need)

    # --- leases -------------------------------------------------------------------------------------

    def _ask_again(self, allowance: Allowance) -> None:
        allowance.asking = False
        self._serve(allowance)

    def _answered(self, allowance: Allowance, granted: int) -> None:
        loop = asyncio.get_running_loop()
        allowance.answered_at = loop.time()
        if granted:
            allowance.retry_s = 0.0
            allowance.low = granted // 2
            self.freed(allowance)
            return
        now = self._clock.time()
        waiting, allowance.queue = allowance.queue, deque()
        for waiter in waiting:
            refusal = allowance.refusal(waiter.limit, waiter.need, now)
            if refusal is not None and allowance.free < waiter.need:
                waiter.fail(refusal)
                continue
            allowance.queue.append(waiter)
            if allowance.settles_whole and waiter.timeout is not None and not waiter.future.done():
                soon = waiter.since + REQUESTS_PATIENCE_S
                waiter.timeout.reschedule(max(loop.time(), min(soon, waiter.since + PATIENCE_S)))
        if allowance.queue:
            # Held up by requests in flight: what they free here is served at once, elsewhere on asking again.
            allowance.asking = True
            allowance.retry_s = min(MOST_RETRY_S, allowance.retry_s * 1.6 or RETRY_S)
            loop.call_later(allowance.retry_s, self._ask_again, allowance)
            self._serve(allowance)

    def _look_ahead(self, allowance: Allowance) -> None:
        key = (allowance.name, int(allowance.until))
        if key not in self._allowances:
            following = self._allowances[key] = Allowance(allowance.limit, key[1])
            following.touched = allowance.until
            self.outbox.ask(following)

    def _requeue(self, allowance: Allowance) -> None:
        """Its window is over: who waits here waits in the one that runs."""
        waiting, allowance.queue = allowance.queue, deque()
        for waiter in waiting:
            if not waiter.future.done():
                self._place(waiter, in_turn=True)

    def _fail_ask(self, allowance: Allowance, error: Exception) -> None:
        allowance.asking = False
        self._fail_queue(allowance, error)

    def _fail_queue(self, allowance: Allowance, error: Exception) -> None:
        waiting, allowance.queue = allowance.queue, deque()
        for waiter in waiting:
            waiter.fail(error)


def _halted(reason: str) -> Unavailable:
    return Unavailable(f"limits cannot be checked, for {reason}: try again in a few seconds")
