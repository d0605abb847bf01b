"""Limits in replicas, on a real Postgres: exact together, fast alone, and refused when nobody can know."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import psycopg
import pytest
from tests.registry.postgres_proxy import At, PostgresProxy

from raymill.policies.errors import Unavailable
from raymill.registry import meters as ledger
from raymill.registry.database import Database, dsn_of
from raymill.registry.meters import MeterKey
from raymill.serve.gateway import book as book_module
from raymill.serve.gateway.allowance import Allowance
from raymill.serve.gateway.book import Book
from raymill.serve.gateway.limits import Clock, Delta, Limit, LimitReached, Window, bucket_of, end_of
from raymill.serve.gateway.meters import Hold, Meters

T = TypeVar("T")
NOON = dt.datetime(2026, 5, 1, 12, tzinfo=dt.UTC).timestamp()


class StandingClock(Clock):
    def __init__(self, now: float = NOON) -> None:
        self.now = now

    def time(self) -> float:
        return self.now


def limit(amount: int, kind: str = "micro_usd", window: Window = "total") -> Limit:
    return Limit(f"account:a/{kind}", window, amount)


class World:
    """Replicas on one Postgres. What they record is ingested when a test says so."""

    def __init__(self, database: Database) -> None:
        self.url = database.url
        self.dsn = dsn_of(database.url)
        self.connection = psycopg.connect(self.dsn, autocommit=True)
        self.spooled: dict[uuid.UUID, Counter[MeterKey]] = {}
        self.clock = StandingClock()

    @asynccontextmanager
    async def replicas(
        self, count: int, dsn: str | None = None, **options: Any
    ) -> AsyncIterator[list[Meters]]:
        ids = [uuid.uuid4() for _ in range(count)]
        replicas = [Meters(dsn or self.dsn, id_, "here", **{"clock": self.clock, **options}) for id_ in ids]
        self.ids = dict(zip(replicas, ids, strict=True))
        for replica in replicas:
            await replica.start()
        try:
            yield replicas
        finally:
            for replica in replicas:
                await replica.stop()

    @asynccontextmanager
    async def replica(self, **options: Any) -> AsyncIterator[Meters]:
        async with self.replicas(1, **options) as (replica,):
            yield replica

    def spool(self, replica: Meters, deltas: list[Delta]) -> None:
        book = self.spooled.setdefault(self.ids[replica], Counter())
        for name, bucket, amount in deltas:
            book[name, bucket] += amount

    def ingest(self) -> None:
        spooled, self.spooled = self.spooled, {}
        for replica_id, used in spooled.items():
            with self.connection.transaction():
                ledger.apply(self.connection, replica_id, used)

    async def ingest_for_ever(self) -> None:
        while True:
            await asyncio.sleep(0.1)
            await asyncio.to_thread(self.ingest)

    def meter(self, of: Limit, now: float | None = None) -> tuple[int, int]:
        """Used and leased."""
        key = (of.name, bucket_of(of.window, now or self.clock.now))
        rows = self.connection.execute("SELECT used, leased FROM meter WHERE (name, bucket) = (%s, %s)", key)
        return rows.fetchone() or (0, 0)


@pytest.fixture
def world(database: Database) -> Iterator[World]:
    world = World(database)
    yield world
    world.connection.close()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes a moment may take long on a busy machine, and is not given up for that."""
    monkeypatch.setattr(book_module, "PATIENCE_S", 60.0)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch, patient: None) -> None:  # noqa: ARG001 (it comes after that)
    """For who waits in vain."""
    monkeypatch.setattr(book_module, "PATIENCE_S", 2.0)


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


async def until(true: Callable[[], bool], timeout_s: float = 60.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not true():
            await asyncio.sleep(0.02)


# --- exact together ---------------------------------------------------------------------------------------


def test_64_clients_of_three_replicas_spend_a_small_budget_to_the_last_unit_and_no_more(world: World) -> None:
    budget, chance = limit(3000), random.Random(4)
    spent = in_flight = 0

    async def client(replica: Meters) -> None:
        nonlocal spent, in_flight
        bound = 20
        while True:
            try:
                hold = replica.try_reserve([(budget, bound)]) or await replica.reserve([(budget, bound)])
            except LimitReached as reached:
                if reached.spent_for_good and bound == 1:
                    return
                bound = max(1, bound // 2) if reached.spent_for_good else bound
                continue
            in_flight += bound
            assert spent + in_flight <= budget.amount
            await asyncio.sleep(chance.uniform(0, 0.01))
            actual = chance.randint(1, bound)
            spent, in_flight = spent + actual, in_flight - bound
            world.spool(replica, hold.settle({budget: actual}))

    async def main() -> None:
        async with world.replicas(3) as replicas:
            ingesting = asyncio.create_task(world.ingest_for_ever())
            async with asyncio.TaskGroup() as clients:
                for number in range(64):
                    clients.create_task(client(replicas[number % 3]))
            ingesting.cancel()

    run(main())
    world.ingest()
    assert spent == budget.amount
    assert world.meter(budget) == (budget.amount, 0)


def test_what_another_replica_holds_idle_comes_at_once(world: World) -> None:
    budget = limit(800)

    async def main() -> float:
        async with world.replicas(2) as (ada, ben):
            (await ada.reserve([(budget, 1)])).release()
            assert world.meter(budget) == (0, 100)
            started = time.monotonic()
            await ben.reserve([(budget, 750)])
            return time.monotonic() - started

    # The clock stands still, so that nothing goes back for having been idle for long.
    assert run(main()) < 30


def test_two_replicas_with_a_part_each_do_not_wait_for_each_other(world: World) -> None:
    budget = limit(10)

    async def main() -> None:
        async with world.replicas(2) as (ada, ben):
            parts = [await replica.reserve([(budget, 5)]) for replica in (ada, ben)]
            waiting = [asyncio.create_task(replica.reserve([(budget, 8)])) for replica in (ada, ben)]
            await asyncio.sleep(0.1)
            for part in parts:
                part.release()
            for task in asyncio.as_completed(waiting):
                (await task).release()

    run(main())


# --- reserving and settling -------------------------------------------------------------------------------


def test_the_next_reservations_need_no_database(world: World) -> None:
    limits = [limit(800, kind, "minute") for kind in ("requests", "tokens")] + [limit(8000)]
    needs = [(one, 1) for one in limits]

    async def main() -> None:
        async with world.replica() as replica:
            assert replica.try_reserve(needs) is None
            await replica.reserve(needs)
            holds = [replica.try_reserve(needs) for _ in range(40)]
            assert None not in holds

    run(main())


def test_settling_tells_what_was_used_and_puts_the_rest_back(world: World) -> None:
    tokens, streams = limit(100, "tokens", "minute"), limit(3, "streams", "now")

    async def main() -> None:
        async with world.replica() as replica:
            hold = await replica.reserve([(tokens, 90), (streams, 1)])
            assert hold.settle({tokens: 30, streams: 1}) == [("account:a/tokens/minute", int(NOON), 30)]
            assert hold.settle({tokens: 30}) == []
            hold.release()
            again = await replica.reserve([(tokens, 70), (streams, 3)])
            again.release()

    run(main())


def test_using_more_than_was_reserved_is_a_debt_that_the_next_reservation_pays(world: World) -> None:
    tokens = limit(100, "tokens", "minute")

    async def main() -> None:
        async with world.replica() as replica:
            hold = await replica.reserve([(tokens, 10)])
            world.spool(replica, hold.settle({tokens: 60}))
            with pytest.raises(LimitReached, match="40 of 100 is left"):
                await replica.reserve([(tokens, 41)])
            await asyncio.to_thread(world.ingest)
            await replica.reserve([(tokens, 40)])
            assert world.meter(tokens) == (60, 40)

    run(main())


def test_a_request_that_is_more_than_the_limit_is_refused_for_good(world: World) -> None:
    async def main() -> None:
        async with world.replica() as replica:
            with pytest.raises(LimitReached, match="allows 10: ask for less, or raise the limit") as caught:
                await replica.reserve([(limit(10), 11)])
            assert caught.value.spent_for_good

    run(main())


def test_a_used_up_window_refuses_at_once_and_says_when_the_next_one_begins(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(book_module, "REQUESTS_PATIENCE_S", 60.0)
    requests = limit(3, "requests", "minute")
    world.clock.now += 13

    async def main() -> None:
        async with world.replica() as replica:
            for _ in range(3):
                await replica.reserve([(requests, 1)])  # in flight, and sure to be used
            for _ in range(2):
                started = time.monotonic()
                with pytest.raises(LimitReached, match="try again in 47 s") as caught:
                    await replica.reserve([(requests, 1)])
                assert time.monotonic() - started < 30
                assert (caught.value.retry_after_s, caught.value.spent_for_good) == (47.0, True)

    run(main())


def test_a_negative_use_is_refused(world: World) -> None:
    async def main() -> None:
        async with world.replica() as replica:
            hold = await replica.reserve([(limit(10), 1)])
            with pytest.raises(ValueError, match="give at least 0"):
                hold.settle({limit(10): -1})

    run(main())


# --- waiting ----------------------------------------------------------------------------------------------


def test_a_reservation_waits_for_what_one_in_flight_puts_back(world: World) -> None:
    budget = limit(10)

    async def main() -> None:
        async with world.replica() as replica:
            first = await replica.reserve([(budget, 9)])
            second = asyncio.create_task(replica.reserve([(budget, 5)]))
            await asyncio.sleep(0.2)
            assert not second.done()
            first.settle({budget: 4})
            await asyncio.wait_for(second, 60)

    run(main())


@pytest.mark.usefixtures("impatient")
def test_a_reservation_that_waited_in_vain_may_be_tried_again(world: World) -> None:
    budget = limit(10)

    async def main() -> float:
        async with world.replicas(2) as (ada, ben):
            await ada.reserve([(budget, 8)])
            started = time.monotonic()
            with pytest.raises(LimitReached, match="requests in flight hold what is left") as caught:
                await ben.reserve([(budget, 5)])
            assert not caught.value.spent_for_good
            await ben.reserve([(budget, 2)])
            return time.monotonic() - started

    assert 1.9 < run(main()) < 60


def test_who_waits_longer_is_served_first(world: World) -> None:
    budget, order = limit(10), list[int]()

    async def wait(replica: Meters, number: int) -> None:
        hold = await replica.reserve([(budget, 6)])
        order.append(number)
        await asyncio.sleep(0.01)
        hold.release()

    async def main() -> None:
        async with world.replica() as replica:
            first = await replica.reserve([(budget, 6)])
            async with asyncio.TaskGroup() as tasks:
                for number in range(8):
                    tasks.create_task(wait(replica, number))
                await asyncio.sleep(0.1)
                # Small enough, and too late all the same.
                assert replica.try_reserve([(budget, 1)]) is None
                first.release()

    run(main())
    assert order == list(range(8))


@pytest.mark.usefixtures("impatient")
def test_nobody_waits_behind_one_who_lacks_something_else(world: World) -> None:
    team, mine = Limit("team:t/tokens", "total", 100), Limit("account:a/tokens", "total", 10)

    async def main() -> None:
        async with world.replica() as replica:
            await replica.reserve([(mine, 8)])
            stuck = asyncio.create_task(replica.reserve([(team, 50), (mine, 5)]))
            await asyncio.sleep(0.1)
            await asyncio.wait_for(replica.reserve([(team, 100)]), 1.5)  # before `stuck` has given up
            with pytest.raises(LimitReached):
                await stuck

    run(main())


def test_giving_up_while_waiting_leaves_nothing_behind(world: World) -> None:
    budget = limit(10)

    async def main() -> None:
        async with world.replica() as replica:
            first = await replica.reserve([(budget, 9)])
            waiting = [asyncio.create_task(replica.reserve([(budget, 5)])) for _ in range(3)]
            await asyncio.sleep(0.1)
            waiting[0].cancel()
            first.release()
            waiting[1].cancel()  # in the moment in which it is served
            (await waiting[2]).release()
            await replica.reserve([(budget, 10)])

    run(main())


# --- windows ----------------------------------------------------------------------------------------------


def test_windows_begin_at_utc_midnight_and_at_the_first_of_the_month() -> None:
    late = dt.datetime(2026, 12, 31, 23, 59, 59, tzinfo=dt.UTC).timestamp()
    assert [bucket_of(window, late) for window in ("minute", "day", "month", "total", "now")] == [
        late - 59,
        dt.datetime(2026, 12, 31, tzinfo=dt.UTC).timestamp(),
        dt.datetime(2026, 12, 1, tzinfo=dt.UTC).timestamp(),
        0,
        0,
    ]
    year = dt.datetime(2027, 1, 1, tzinfo=dt.UTC).timestamp()
    assert {end_of(window, bucket_of(window, late)) for window in ("minute", "day", "month")} == {year}


def test_the_next_minute_is_leased_before_it_begins(world: World) -> None:
    tokens = limit(800, "tokens", "minute")

    async def main() -> None:
        async with world.replica() as replica:
            world.clock.now = NOON + 56
            await replica.reserve([(tokens, 1)])
            await until(lambda: world.meter(tokens, NOON + 60) == (0, 100))
            world.clock.now = NOON + 60
            # Postgres's answer may still be on its way; `try_reserve` asks for nothing itself.
            await until(lambda: replica.try_reserve([(tokens, 1)]) is not None)

    run(main())


def test_who_waits_over_the_end_of_a_window_gets_from_the_next(world: World) -> None:
    tokens = limit(10, "tokens", "minute")

    async def main() -> None:
        async with world.replica() as replica:
            await replica.reserve([(tokens, 10)])
            waiting = asyncio.create_task(replica.reserve([(tokens, 5)]))
            await asyncio.sleep(0.1)
            world.clock.now = NOON + 60
            hold = await waiting
            assert hold.settle({tokens: 5}) == [("account:a/tokens/minute", int(NOON) + 60, 5)]

    run(main())


def test_what_is_idle_or_of_a_past_window_goes_back(world: World) -> None:
    tokens, budget = limit(800, "tokens", "minute"), limit(800)

    async def main() -> None:
        async with world.replica() as replica:
            hold = await replica.reserve([(tokens, 1), (budget, 1)])
            hold.release()
            world.clock.now = NOON + 1
            await asyncio.sleep(0.7)
            assert world.meter(tokens) == world.meter(budget) == (0, 100)
            world.clock.now = NOON + 3
            await until(lambda: world.meter(tokens) == world.meter(budget) == (0, 0))
            hold = await replica.reserve([(tokens, 1)])
            world.clock.now = NOON + 60
            await until(lambda: world.meter(tokens, NOON) == (0, 1))
            hold.release()
            await until(lambda: world.meter(tokens, NOON) == (0, 0))

    run(main())


@pytest.mark.usefixtures("impatient")
def test_a_lower_limit_holds_at_once_and_a_higher_one_too(world: World) -> None:
    low, high, higher = limit(10), limit(800), limit(1000)

    async def main() -> None:
        async with world.replica() as replica:
            first = await replica.reserve([(high, 4)])
            assert await replica.reserve([(low, 6)])
            with pytest.raises(LimitReached):
                await replica.reserve([(low, 1)])
            await replica.reserve([(higher, 990)])
            first.release()
            assert world.meter(low)[1] <= 1000

    run(main())


# --- the database goes away -------------------------------------------------------------------------------


def test_without_the_database_what_is_leased_is_used_and_the_rest_refused(world: World) -> None:
    budget, other = limit(800), limit(800, "tokens")

    async def main() -> None:
        proxy = PostgresProxy(world.url)
        await proxy.start()
        async with world.replica(dsn=proxy.dsn) as replica:
            await replica.reserve([(budget, 1)])
            await proxy.stop()
            for _ in range(50):
                assert replica.try_reserve([(budget, 1)])
            with pytest.raises(Unavailable, match="the database is away"):
                await replica.reserve([(other, 1)])
            await proxy.start()
            await replica.reserve([(other, 1)])
            await proxy.stop()

    run(main())


@pytest.mark.parametrize("at", ["before", "after"])
def test_a_lease_whose_commit_nobody_answered_is_neither_lost_nor_counted_twice(world: World, at: At) -> None:
    budget, other = limit(100), limit(100, "tokens")

    async def main() -> None:
        proxy = PostgresProxy(world.url)
        await proxy.start()
        async with world.replica(dsn=proxy.dsn) as replica:
            proxy.cut = at
            with pytest.raises(Unavailable):
                await replica.reserve([(budget, 40)])
            assert world.meter(budget) == ((0, 40) if at == "after" else (0, 0))
            await replica.reserve([(other, 1)])
            await replica.reserve([(budget, 100)])
            assert world.meter(budget) == (0, 100)
        await proxy.stop()

    run(main())


def test_a_replica_that_reaches_nobody_stops_before_its_leases_go_to_others(world: World) -> None:
    budget = limit(800)

    async def main() -> None:
        proxy = PostgresProxy(world.url)
        await proxy.start()
        async with world.replica(dsn=proxy.dsn, fence_s=1.0) as replica:
            await replica.reserve([(budget, 1)])
            await proxy.stop()
            assert replica.try_reserve([(budget, 1)])
            await asyncio.sleep(1.1)
            assert replica.try_reserve([(budget, 1)]) is None
            with pytest.raises(Unavailable, match="did not answer for 1 s"):
                await replica.reserve([(budget, 1)])
            await proxy.start()
            await until(lambda: replica.try_reserve([(budget, 1)]) is not None)
            replica.check()
        await proxy.stop()

    run(main())


def test_a_replica_whose_leases_went_to_others_must_be_replaced(world: World) -> None:
    async def main() -> None:
        async with world.replica() as replica:
            await replica.reserve([(limit(800), 1)])
            replica.check()
            await asyncio.to_thread(ledger.drop, world.connection, world.ids[replica])
            with pytest.raises(Unavailable):
                await replica.reserve([(limit(800, "tokens"), 1)])
            with pytest.raises(RuntimeError, match="ReplicaLost"):
                replica.check()

    run(main())


def test_a_replica_that_stops_gives_back_all_that_is_not_reserved(world: World) -> None:
    async def main() -> None:
        async with world.replica() as replica:
            await replica.reserve([(limit(800), 7)])
            assert world.meter(limit(800)) == (0, 100)

    run(main())
    assert world.meter(limit(800)) == (0, 7)


def test_before_it_has_started_a_replica_refuses_what_is_limited_and_nothing_else(world: World) -> None:
    async def main() -> None:
        replica = Meters(world.dsn, uuid.uuid4(), "here")
        assert isinstance(replica.try_reserve([]), Hold)
        with pytest.raises(Unavailable, match="has not started"):
            await replica.reserve([(limit(10), 1)])

    run(main())


# --- fast alone -------------------------------------------------------------------------------------------


def test_reserving_four_limits_costs_less_than_5_microseconds() -> None:
    async def main() -> float:
        book = Book(StandingClock())
        book.resume()
        kinds: list[tuple[str, Window]] = [("requests", "minute"), ("tokens", "minute"), ("streams", "now")]
        needs = [(limit(1 << 60, kind, window), 5) for kind, window in [*kinds, ("micro_usd", "month")]]
        for one, _ in needs:
            allowance = Allowance(one, bucket_of(one.window, NOON))
            allowance.free = 1 << 40
            book._allowances[allowance.key] = allowance
        best_s = 1.0
        for _ in range(50):
            started = time.perf_counter()
            for _ in range(1000):
                book.try_reserve(needs)
            best_s = min(best_s, time.perf_counter() - started)
        return best_s / 1000

    assert run(main()) < 5e-6
