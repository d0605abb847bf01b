"""Leases of limits, on a real Postgres: exact under concurrency, after debts, late records and lost replicas."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from raymill.registry import meters
from raymill.registry.database import Database, dsn_of
from raymill.registry.meters import METER_CHANNEL, Ask, LeaseAnswer, MeterKey, ReplicaLost

T = TypeVar("T")
BUDGET: MeterKey = ("account:a/micro_usd/total", 0)


def dsn(database: Database) -> str:
    return dsn_of(database.url)


class Replica:
    """Holds leases over a connection of its own."""

    def __init__(self, url: str, loop: asyncio.AbstractEventLoop) -> None:
        self.id = uuid.uuid4()
        self._loop = loop
        self._connection: psycopg.AsyncConnection[Any] = loop.run_until_complete(
            psycopg.AsyncConnection.connect(url)
        )
        self._run(meters.register(self._connection, self.id, "here"))

    def exchange(self, given: Mapping[MeterKey, int], *asks: Ask) -> list[LeaseAnswer]:
        return self._run(meters.exchange(self._connection, self.id, given, asks)).answers

    def lease(self, need: int, want: int, *, limit: int, key: MeterKey = BUDGET) -> LeaseAnswer:
        (answer,) = self.exchange({}, Ask(*key, limit, need, want, urgent=True))
        return answer

    def close(self) -> None:
        self._loop.run_until_complete(self._connection.close())

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        async def transaction() -> T:
            async with self._connection.transaction():
                return await work

        return self._loop.run_until_complete(transaction())


class Ledger:
    """The meters as the ingester and the tests see them, and replicas that hold leases of them."""

    def __init__(self, database: Database) -> None:
        self.url = dsn(database)
        self.loop = asyncio.new_event_loop()
        self.connection = psycopg.connect(self.url, autocommit=True)
        self.replicas: list[Replica] = []

    def replica(self) -> Replica:
        self.replicas.append(Replica(self.url, self.loop))
        return self.replicas[-1]

    def ingest(self, replica: Replica, amount: int, key: MeterKey = BUDGET) -> None:
        with self.connection.transaction():
            meters.apply(self.connection, replica.id, {key: amount})

    def meter(self, key: MeterKey = BUDGET) -> tuple[int, int]:
        """Used and leased."""
        rows = self.connection.execute("SELECT used, leased FROM meter WHERE (name, bucket) = (%s, %s)", key)
        return rows.fetchone() or (0, 0)

    def leases(self, key: MeterKey = BUDGET) -> Sequence[int]:
        rows = self.connection.execute("SELECT amount FROM meter_lease WHERE (name, bucket) = (%s, %s)", key)
        return sorted(row[0] for row in rows)

    def close(self) -> None:
        for replica in self.replicas:
            replica.close()
        self.connection.close()
        self.loop.close()


@pytest.fixture
def ledger(database: Database) -> Iterator[Ledger]:
    ledger = Ledger(database)
    yield ledger
    ledger.close()


# --- leasing ----------------------------------------------------------------------------------------------


def test_a_lease_is_an_eighth_of_what_is_left_but_never_less_than_the_need(ledger: Ledger) -> None:
    replica = ledger.replica()
    assert replica.lease(1, 1000, limit=800) == LeaseAnswer(granted=100, used=0, leased_by_all=100, mine=100)
    assert replica.lease(1, 50, limit=800).granted == 50
    assert replica.lease(300, 1000, limit=800).granted == 300
    assert ledger.meter() == (0, 450)


def test_what_does_not_fit_is_not_granted_in_part(ledger: Ledger) -> None:
    ada, ben = ledger.replica(), ledger.replica()
    ada.lease(90, 90, limit=100)
    assert ben.lease(11, 11, limit=100) == LeaseAnswer(granted=0, used=0, leased_by_all=90, mine=0)
    assert ben.lease(10, 10, limit=100).granted == 10
    assert ledger.meter() == (0, 100)


def test_several_meters_are_leased_in_one_exchange_and_answered_in_order(ledger: Ledger) -> None:
    replica = ledger.replica()
    asks = [Ask(f"account:{name}/tokens/minute", 60, 80, 1, 80, urgent=False) for name in ("c", "a", "b")]
    asks[1] = asks[1]._replace(limit=160)
    assert [answer.granted for answer in replica.exchange({}, *asks)] == [10, 20, 10]


def test_what_is_given_back_can_be_leased_in_the_same_exchange(ledger: Ledger) -> None:
    replica = ledger.replica()
    replica.lease(100, 100, limit=100)
    (answer,) = replica.exchange({BUDGET: 30}, Ask(*BUDGET, 100, 30, 30, urgent=True))
    assert answer == LeaseAnswer(granted=30, used=0, leased_by_all=100, mine=100)
    replica.exchange({BUDGET: 5000})
    assert (ledger.meter(), ledger.leases()) == ((0, 0), [0])


def test_recorded_use_moves_from_the_lease_to_the_meter(ledger: Ledger) -> None:
    replica = ledger.replica()
    replica.lease(50, 50, limit=100)
    ledger.ingest(replica, 20)
    assert (ledger.meter(), ledger.leases()) == ((20, 30), [30])


@pytest.mark.parametrize("ingested_first", [True, False])
def test_a_debt_is_paid_by_the_next_lease_whenever_it_is_ingested(
    ledger: Ledger, ingested_first: bool
) -> None:
    replica = ledger.replica()
    replica.lease(10, 10, limit=100)
    if ingested_first:
        ledger.ingest(replica, 25)
        assert (ledger.meter(), ledger.leases()) == ((25, 0), [-15])
    assert replica.lease(15 + 7, 15 + 7, limit=100).granted == 22
    if not ingested_first:
        ledger.ingest(replica, 25)
    assert (ledger.meter(), ledger.leases()) == ((25, 7), [7])


def test_a_debt_over_the_limit_leaves_nothing_to_lease(ledger: Ledger) -> None:
    ada, ben = ledger.replica(), ledger.replica()
    ada.lease(10, 10, limit=100)
    ledger.ingest(ada, 130)
    assert ben.lease(1, 1, limit=100).granted == 0
    assert ada.lease(121, 121, limit=100).granted == 0
    assert ada.lease(120, 120, limit=100).granted == 120  # the debt alone takes nothing from anybody
    assert (ledger.meter(), ledger.leases()) == ((130, 0), [0])


def test_a_replica_that_gets_nothing_tells_the_others(ledger: Ledger) -> None:
    ada, ben = ledger.replica(), ledger.replica()
    ada.lease(95, 95, limit=100)
    ledger.connection.execute(f"LISTEN {METER_CHANNEL}")
    ben.exchange({}, Ask(*BUDGET, 100, 6, 6, urgent=False))
    assert list(ledger.connection.notifies(timeout=0.1)) == []
    ben.lease(6, 6, limit=100)
    assert [notice.payload for notice in ledger.connection.notifies(timeout=60, stop_after=1)] == [BUDGET[0]]


def test_nobody_is_told_when_no_giving_back_would_help(ledger: Ledger) -> None:
    ada, ben = ledger.replica(), ledger.replica()
    ada.lease(10, 10, limit=100)
    ledger.ingest(ben, 95)
    ledger.connection.execute(f"LISTEN {METER_CHANNEL}")
    assert ben.lease(200, 200, limit=100).granted == 0
    assert list(ledger.connection.notifies(timeout=0.1)) == []


# --- replicas that go away --------------------------------------------------------------------------------


def test_leases_of_a_replica_that_was_not_seen_go_back(ledger: Ledger) -> None:
    gone, alive = ledger.replica(), ledger.replica()
    gone.lease(40, 40, limit=100)
    ledger.ingest(gone, 10)
    alive.lease(20, 20, limit=100)
    ledger.connection.execute(
        "UPDATE gateway_replica SET seen_at = seen_at - interval '1 hour' WHERE id = %s", [gone.id]
    )
    assert meters.sweep(ledger.connection, 60.0) == [gone.id]
    assert (ledger.meter(), ledger.leases()) == ((10, 20), [20])
    assert meters.sweep(ledger.connection, 60.0) == []


def test_a_swept_replica_gets_no_lease_and_changes_nothing(ledger: Ledger) -> None:
    replica = ledger.replica()
    replica.lease(40, 40, limit=100)
    meters.drop(ledger.connection, replica.id)
    with pytest.raises(ReplicaLost, match="start another"):
        replica.lease(10, 10, limit=100)
    assert (ledger.meter(), ledger.leases()) == ((0, 0), [])


def test_a_late_record_of_a_swept_replica_counts_as_used_and_owes_nothing(ledger: Ledger) -> None:
    replica = ledger.replica()
    replica.lease(40, 40, limit=100)
    meters.drop(ledger.connection, replica.id)
    ledger.ingest(replica, 12)
    assert (ledger.meter(), ledger.leases()) == ((12, 0), [])


def test_meters_of_past_minutes_and_days_are_forgotten_and_budgets_never(ledger: Ledger) -> None:
    replica, now = ledger.replica(), int(time.time())
    names = {"minute": now - 7200, "day": now - 20 * 86_400, "month": now - 90 * 86_400, "total": 0}
    young = {"minute": now - 60, "day": now - 2 * 86_400}
    for window, bucket in [*names.items(), *young.items()]:
        replica.lease(5, 5, limit=100, key=(f"team:t/tokens/{window}", bucket))
    meters.forget_old(ledger.connection)
    left = {tuple(row) for row in ledger.connection.execute("SELECT name, bucket FROM meter")}
    leased = {tuple(row) for row in ledger.connection.execute("SELECT name, bucket FROM meter_lease")}
    kept = {**names, **young}
    assert left == leased == {(f"team:t/tokens/{window}", bucket) for window, bucket in kept.items()}


# --- anything in any order --------------------------------------------------------------------------------

AMOUNTS = st.integers(1, 60)
WHO = st.integers(0, 2)


class Leases(RuleBasedStateMachine):
    """Three replicas lease, use, give back, are ingested late, and die; a model keeps their books."""

    ledger: Ledger
    LIMIT = 100

    @initialize()
    def begin(self) -> None:
        self.ledger.connection.execute("TRUNCATE meter, meter_lease, gateway_replica")
        self.used = 0
        for who in range(3):
            self._start(who)

    def _start(self, who: int) -> None:
        if not hasattr(self, "replicas"):
            self.replicas: dict[int, Replica] = {}
            self.free: dict[int, int] = {}
            self.spooled: dict[int, int] = {}
        self.replicas[who] = self.ledger.replica()
        self.free[who] = self.spooled[who] = 0

    @rule(who=WHO, need=AMOUNTS, more=st.integers(0, 60))
    def lease(self, who: int, need: int, more: int) -> None:
        room = self.LIMIT - self.used - sum(self.free.values()) - sum(self.spooled.values())
        answer = self.replicas[who].lease(need, need + more, limit=self.LIMIT)
        assert answer.granted == 0 if need > room else need <= answer.granted <= min(room, need + more)
        self.free[who] += answer.granted
        assert answer.mine == self.free[who] + self.spooled[who]

    @rule(who=WHO, amount=AMOUNTS)
    def use(self, who: int, amount: int) -> None:
        amount = min(amount, self.free[who])
        self.free[who] -= amount
        self.spooled[who] += amount

    @rule(who=WHO, amount=AMOUNTS)
    def ingest(self, who: int, amount: int) -> None:
        amount = min(amount, self.spooled[who])
        if amount:
            self.ledger.ingest(self.replicas[who], amount)
            self.spooled[who] -= amount
            self.used += amount

    @rule(who=WHO, amount=AMOUNTS)
    def give_back(self, who: int, amount: int) -> None:
        amount = min(amount, self.free[who])
        self.replicas[who].exchange({BUDGET: amount})
        self.free[who] -= amount

    @rule(who=WHO)
    def die(self, who: int) -> None:
        self.ingest(who, self.spooled[who])
        meters.drop(self.ledger.connection, self.replicas[who].id)
        self._start(who)

    @invariant()
    def the_books_agree(self) -> None:
        if not hasattr(self, "replicas"):
            return
        used, leased = self.ledger.meter()
        assert used == self.used
        assert leased == sum(self.ledger.leases()) == sum(self.free.values()) + sum(self.spooled.values())
        assert used + leased <= self.LIMIT

    def teardown(self) -> None:
        for replica in self.ledger.replicas:
            replica.close()
        self.ledger.replicas.clear()


def test_leases_add_up_whatever_happens_in_whatever_order(ledger: Ledger) -> None:
    Leases.ledger = ledger
    run_state_machine_as_test(
        Leases,
        settings=settings(
            max_examples=15,
            stateful_step_count=25,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
