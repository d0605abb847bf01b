"""Tiers, limits and budgets: what holds for an account, and what it has used."""

from __future__ import annotations

import datetime as dt
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import func, select
from tests.registry.making import ADA
from tests.registry.using import NOON, add, make_account, usage

from raymill.cluster.wake import Wake
from raymill.policies.errors import Conflict, Invalid, NotFound
from raymill.registry import budgets, gateway_config, identity, limits, teams
from raymill.registry.database import Database
from raymill.registry.tables import AuditEvent, Budget, BudgetPeriod, Meter

DAY, MONTH, TOTAL = BudgetPeriod.DAY, BudgetPeriod.MONTH, BudgetPeriod.TOTAL


def newest_audit(database: Database) -> tuple[str, str, Any, Any]:
    """Action, object, and what that was before and after."""
    with database.transaction() as session:
        row = session.scalars(select(AuditEvent).order_by(AuditEvent.seq.desc()).limit(1)).one()
        return row.action, row.object, row.before, row.after


def limits_of(database: Database, name: str) -> dict[str, int]:
    with database.transaction() as session:
        return limits.limits_of(session, identity.find_account(session, name))


def change(database: Database, name: str, clear: tuple[str, ...] = (), **changes: int | None) -> None:
    with database.transaction() as session:
        account = identity.find_account(session, name, lock=True)
        limits.set_limits(session, account, changes, ADA, clear=frozenset(clear))


# --- tiers and limits -------------------------------------------------------------------------------------


def test_an_account_has_its_tiers_limits_but_for_its_own(database: Database) -> None:
    make_account(database, "ann", tier="free")
    assert limits_of(database, "ann")["requests_per_minute"] == 20
    change(database, "ann", requests_per_minute=100, streams=None)
    found = limits_of(database, "ann")
    assert found["requests_per_minute"] == 100
    assert "streams" not in found  # null: no limit, whatever the tier says
    assert found["tokens_per_day"] == 200_000
    change(database, "ann", clear=("requests_per_minute", "streams"))
    assert limits_of(database, "ann")["streams"] == 2
    assert newest_audit(database) == (
        "account.limits",
        "account/ann",
        {"requests_per_minute": 100, "streams": None},
        {},
    )


def test_an_account_of_no_tier_named_has_no_limits(database: Database) -> None:
    make_account(database, "ann")
    assert limits_of(database, "ann") == {}


def test_a_change_of_tier_is_told_once(database: Database) -> None:
    make_account(database, "ann")
    wake = Wake(database.url, gateway_config.CONFIG_CHANNEL)
    wake.wait(0.1)
    for _ in range(2):
        with database.transaction() as session:
            limits.set_tier(session, identity.find_account(session, "ann", lock=True), "pro", ADA)
    assert wake.wait(5)
    wake.close()
    assert newest_audit(database) == (
        "account.tier",
        "account/ann",
        {"tier": "enterprise"},
        {"tier": "pro"},
    )
    with database.transaction() as session:
        tiers = session.scalars(select(AuditEvent).where(AuditEvent.action == "account.tier")).all()
    assert len(tiers) == 1


def test_a_tiers_limits_are_replaced(database: Database) -> None:
    make_account(database, "ann", tier="pro")
    with database.transaction() as session:
        limits.set_tier_limits(session, "pro", {"streams": 3, "tokens_per_day": None}, ADA)
    assert limits_of(database, "ann") == {"streams": 3}
    action, of, before, after = newest_audit(database)
    assert (action, of, after) == ("tier.set", "tier/pro", {"streams": 3})
    assert before["tokens_per_day"] > 0
    with database.transaction() as session, pytest.raises(NotFound, match="enterprise, free, pro"):
        limits.set_tier_limits(session, "gold", {}, ADA)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"request_per_minute": 1}, "did you mean requests_per_minute?"),
        ({"x": 1}, "the limits are requests_per_minute, requests_per_day"),
        ({"streams": 0}, "limits.streams: 0 is none: give a whole number from 1"),
        ({"streams": -5}, "or null for no limit"),
        ({"streams": True}, "limits.streams: True"),
        ({"streams": 2.5}, "limits.streams: 2.5"),
        ({"streams": 10**13}, "limits.streams"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(
    database: Database, wrong: dict[str, Any], message: str
) -> None:
    make_account(database, "ann")
    with database.transaction() as session:
        account = identity.find_account(session, "ann")
        for attempt in (
            lambda: limits.set_limits(session, account, wrong, ADA),
            lambda: limits.set_tier_limits(session, "pro", wrong, ADA),
        ):
            with pytest.raises(Invalid, match=message.replace("?", r"\?").replace(".", r"\.")):
                attempt()


def test_a_limit_that_is_not_there_cannot_be_cleared(database: Database) -> None:
    make_account(database, "ann")
    with pytest.raises(Invalid, match="no limit 'speed'"):
        change(database, "ann", clear=("speed",))


def test_what_is_used_now_is_read_from_the_meters(database: Database) -> None:
    account, _ = make_account(database, "ann", tier="free")
    minute = int(NOON.timestamp())
    with database.transaction() as session:
        session.add_all(
            [
                Meter(name=f"account:{account.id}/requests/minute", bucket=minute, used=7, leased=3),
                Meter(name=f"account:{account.id}/requests/minute", bucket=minute - 60, used=99, leased=0),
                Meter(name=f"account:{account.id}/streams/now", bucket=0, used=0, leased=2),
            ]
        )
    with database.transaction() as session:
        used = limits.uses_of(session, account, NOON + dt.timedelta(seconds=59))
    assert used == {"requests_per_minute": (7, 3), "streams": (0, 2)}


def test_windows_begin_by_utc() -> None:
    moment = dt.datetime(2026, 3, 31, 23, 59, 59, tzinfo=dt.timezone(dt.timedelta(hours=-2)))
    starts = {
        "minute": dt.datetime(2026, 4, 1, 1, 59, tzinfo=dt.UTC),
        "day": dt.datetime(2026, 4, 1, tzinfo=dt.UTC),
        "month": dt.datetime(2026, 4, 1, tzinfo=dt.UTC),
    }
    windows: tuple[limits.Window, ...] = ("minute", "day", "month")
    for window in windows:
        assert limits.window_start(window, moment) == starts[window].timestamp()
    assert limits.window_start("total", moment) == limits.window_start("now", moment) == 0
    assert budgets.next_start(DAY, moment) == dt.datetime(2026, 4, 2, tzinfo=dt.UTC)
    assert budgets.next_start(MONTH, moment) == dt.datetime(2026, 5, 1, tzinfo=dt.UTC)
    assert budgets.next_start(MONTH, dt.datetime(2026, 12, 9, tzinfo=dt.UTC)) == dt.datetime(
        2027, 1, 1, tzinfo=dt.UTC
    )
    assert budgets.next_start(TOTAL, moment) is None


# --- budgets ----------------------------------------------------------------------------------------------


def set_budget(database: Database, subject: str, period: BudgetPeriod, micro_usd: int) -> Budget:
    with database.transaction() as session:
        found = budgets.find_subject(session, subject)
        return budgets.set_budget(session, found, period, micro_usd, ADA)


def shown(database: Database, now: dt.datetime | None = None) -> list[tuple[str, str, int, int, int]]:
    with database.transaction() as session:
        found = budgets.list_budgets(session, now or dt.datetime.now(dt.UTC))
        return sorted(
            (one.subject.text, one.budget.period.value, one.budget.limit_micro_usd, *one.use) for one in found
        )


def test_a_budget_is_set_changed_and_removed(database: Database) -> None:
    account, key = make_account(database, "ann")
    with database.transaction() as session:
        teams.create_team(session, "ops", ADA)
    set_budget(database, "account:ann", MONTH, 25_000_000)
    set_budget(database, f"account:{account.id}", MONTH, 30_000_000)  # the same one
    set_budget(database, "team:ops", DAY, 0)
    set_budget(database, "key:laptop", TOTAL, 5)
    assert shown(database) == [
        ("account:ann", "month", 30_000_000, 0, 0),
        (f"key:{key.id}", "total", 5, 0, 0),
        ("team:ops", "day", 0, 0, 0),
    ]
    assert newest_audit(database)[:2] == ("budget.set", f"budget/key:{key.id}/total")
    with database.transaction() as session:
        subject = budgets.find_subject(session, "account:ann")
        budgets.remove_budget(session, subject, MONTH, ADA)
        with pytest.raises(NotFound, match="account:ann has no budget for month"):
            budgets.remove_budget(session, subject, MONTH, ADA)
    assert [row[0] for row in shown(database)] == [f"key:{key.id}", "team:ops"]
    assert newest_audit(database) == (
        "budget.remove",
        "budget/account:ann/month",
        {"limit_micro_usd": 30_000_000},
        None,
    )


def test_setting_the_same_budget_again_is_not_told(database: Database) -> None:
    make_account(database, "ann")
    for _ in range(2):
        set_budget(database, "account:ann", DAY, 7)
    with database.transaction() as session:
        told = session.scalar(select(func.count()).where(AuditEvent.action == "budget.set"))
    assert told == 1


def test_what_is_spent_and_held_is_of_the_period_that_is_now(database: Database) -> None:
    account, _ = make_account(database, "ann")
    set_budget(database, "account:ann", DAY, 100)
    today = dt.datetime(2026, 3, 18, tzinfo=dt.UTC)
    name = f"account:{account.id}/micro_usd/day"
    with database.transaction() as session:
        session.add(Meter(name=name, bucket=int(today.timestamp()), used=60, leased=15))
    assert shown(database, NOON) == [("account:ann", "day", 100, 60, 15)]
    assert shown(database, NOON + dt.timedelta(days=1)) == [("account:ann", "day", 100, 0, 0)]


def test_a_new_budget_counts_what_was_spent_before_it(database: Database) -> None:
    with database.transaction() as session:
        teams.create_team(session, "ops", ADA)
    _, key = make_account(database, "ann", team="ops")
    now = dt.datetime.now(dt.UTC)
    add(
        database,
        usage(key, at=now, cost_micro_usd=40),
        usage(key, at=now.replace(hour=0, minute=0, second=0, microsecond=0), cost_micro_usd=2),
        usage(key, at=now - dt.timedelta(days=400), cost_micro_usd=1000),
    )
    for subject in ("account:ann", "team:ops", f"key:{key.id}"):
        set_budget(database, subject, DAY, 100)
        set_budget(database, subject, TOTAL, 2000)
    assert [row[3] for row in shown(database)] == [42, 1042] * 3


def test_a_meter_that_knows_more_than_the_records_is_kept(database: Database) -> None:
    account, key = make_account(database, "ann")
    with database.transaction() as session:
        session.add(Meter(name=f"account:{account.id}/micro_usd/total", bucket=0, used=50, leased=9))
    add(database, usage(key, cost_micro_usd=20))
    set_budget(database, "account:ann", TOTAL, 100)
    assert shown(database) == [("account:ann", "total", 100, 50, 9)]
    add(database, usage(key, cost_micro_usd=1000))
    set_budget(database, "account:ann", TOTAL, 200)  # not new: its meter counts by itself
    assert shown(database) == [("account:ann", "total", 200, 50, 9)]


def test_eight_at_once_set_one_budget(database: Database) -> None:
    make_account(database, "ann")
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: set_budget(database, "account:ann", DAY, number), range(1, 9)))
    with database.transaction() as session:
        assert session.scalar(select(func.count()).select_from(Budget)) == 1


def test_a_subject_is_named_or_has_an_id(database: Database) -> None:
    account, key = make_account(database, "ann")
    with database.transaction() as session:
        assert budgets.find_subject(session, "account:ann").id == account.id
        assert budgets.find_subject(session, f"account:{account.id}").text == "account:ann"
        assert budgets.find_subject(session, "key:laptop") == budgets.find_subject(session, f"key:{key.id}")
        assert budgets.find_subject(session, "key:laptop").name == "ann/laptop"
        for wrong in ("ann", "user:ann", "account:", ""):
            with pytest.raises(Invalid, match="write account:NAME, team:NAME or key:ID"):
                budgets.find_subject(session, wrong)
        for missing in ("account:eve", "team:ops", "key:x", f"key:{uuid.UUID(int=1)}"):
            with pytest.raises(NotFound, match="shows the ones there are"):
                budgets.find_subject(session, missing)


def test_a_key_name_that_two_keys_have_is_asked_for_by_id(database: Database) -> None:
    make_account(database, "ann")
    make_account(database, "bob")
    with database.transaction() as session, pytest.raises(Conflict, match="give the id"):
        budgets.find_subject(session, "key:laptop")


@pytest.mark.parametrize("wrong", [-1, 10**16])
def test_a_budget_that_makes_no_sense_is_refused(database: Database, wrong: int) -> None:
    make_account(database, "ann")
    with pytest.raises(Invalid, match="makes no sense"):
        set_budget(database, "account:ann", DAY, wrong)
