"""Usage: sums, percentiles, pages, and what counts as unusual. Small enough to check by eye."""

from __future__ import annotations

import datetime as dt
import uuid

import pytest
from tests.registry.making import ADA
from tests.registry.using import NOON, add, make_account, usage

from raymill.policies.errors import Invalid, NotFound
from raymill.registry import teams
from raymill.registry.database import Database
from raymill.registry.tables import ApiKey, Usage
from raymill.registry.usage import Summary, spend, summarize
from raymill.registry.usage_anomalies import DAYS, Anomaly, anomalies
from raymill.registry.usage_filters import EVERYTHING, Filters
from raymill.registry.usage_records import Position, Record, records

HOUR, DAY = dt.timedelta(hours=1), dt.timedelta(days=1)
SINCE, UNTIL = NOON - 40 * DAY, NOON + DAY


def by(database: Database, *group_by: str, filters: Filters = EVERYTHING) -> Summary:
    with database.transaction() as session:
        return summarize(session, since=SINCE, until=UNTIL, group_by=group_by, filters=filters)


def listed(database: Database, filters: Filters = EVERYTHING, after: Position | None = None) -> list[Record]:
    with database.transaction() as session:
        return records(session, since=SINCE, until=UNTIL, filters=filters, after=after, limit=2)


def unusual(database: Database, dimension: str = "route", window_hours: int = 24) -> list[Anomaly]:
    with database.transaction() as session:
        return anomalies(session, until=NOON, by=dimension, window_hours=window_hours)


# --- summaries --------------------------------------------------------------------------------------------


def test_requests_are_summed_by_day_and_route_and_as_a_whole(database: Database) -> None:
    _, key = make_account(database, "ann")
    add(
        database,
        usage(key, at=NOON, cost_micro_usd=1),
        usage(key, at=NOON, cost_micro_usd=2),
        usage(key, at=NOON, route="code", cost_micro_usd=50),
        usage(key, at=NOON - DAY, cost_micro_usd=4, outcome="error", status=502, priced=False),
        usage(key, at=UNTIL, cost_micro_usd=9999),  # until is not included
    )
    found = by(database, "day", "route")
    assert [(group.by, group.requests, group.cost_micro_usd) for group in found.groups] == [
        ({"day": "2026-03-17", "route": "support"}, 1, 4),
        ({"day": "2026-03-18", "route": "code"}, 1, 50),
        ({"day": "2026-03-18", "route": "support"}, 2, 3),
    ]
    total = found.total
    assert (total.by, total.requests, total.errors, total.error_rate) == ({}, 4, 1, 0.25)
    assert (total.prompt_tokens, total.cached_tokens, total.completion_tokens) == (40, 16, 8)
    assert (total.cost_micro_usd, total.unpriced, total.cache_hits) == (57, 1, 0)
    with database.transaction() as session:
        assert spend(session, since=SINCE, until=UNTIL) == 57


def test_percentiles_are_exact_and_of_answers_alone(database: Database) -> None:
    _, key = make_account(database, "ann")
    rows = [usage(key, latency_ms=float(number), first_token_ms=number / 2) for number in range(101)]
    failed = [
        usage(key, latency_ms=90_000.0, outcome=outcome) for outcome in ("error", "broken", "cancelled")
    ]
    add(database, *rows, *failed)
    total = by(database).total
    assert (total.latency_p50_ms, total.latency_p90_ms, total.latency_p99_ms) == (50.0, 90.0, 99.0)
    assert (total.first_token_p50_ms, total.first_token_p99_ms) == (25.0, 49.5)
    assert (total.requests, total.errors) == (104, 2)  # who gives up is no error


def test_of_nothing_there_is_a_total_of_nothing(database: Database) -> None:
    for dimensions in ((), ("day",)):
        found = by(database, *dimensions)
        assert found.groups == []
        assert (found.total.requests, found.total.error_rate, found.total.latency_p50_ms) == (0, 0.0, None)


def test_ids_are_shown_as_names(database: Database) -> None:
    with database.transaction() as session:
        teams.create_team(session, "ops", ADA)
    _, in_team = make_account(database, "ann", team="ops")
    _, alone = make_account(database, "bob")
    add(database, usage(in_team), usage(alone), usage(in_team, outcome="cached"))
    assert [group.by for group in by(database, "team").groups] == [{"team": "ops"}, {"team": ""}]
    assert [group.by for group in by(database, "account").groups] == [{"account": "ann"}, {"account": "bob"}]
    first = by(database, "key").groups[0]
    assert first.by == {"key": str(in_team.id), "key_name": "ann/laptop"}
    assert first.cache_hits == 1


def test_hours_are_utc(database: Database) -> None:
    _, key = make_account(database, "ann")
    zone = dt.timezone(dt.timedelta(hours=5, minutes=30))
    add(database, usage(key, at=dt.datetime(2026, 3, 18, 1, 45, tzinfo=zone)))
    assert by(database, "hour").groups[0].by == {"hour": "2026-03-17T20:00Z"}
    assert by(database, "day").groups[0].by == {"day": "2026-03-17"}


def test_filters_narrow_it_down(database: Database) -> None:
    _, ann = make_account(database, "ann")
    _, bob = make_account(database, "bob")
    add(database, usage(ann), usage(bob, route="code"), usage(bob, outcome="error", model="o'neill"))
    with database.transaction() as session:
        of_bob = Filters().of(session, account="bob")
        assert of_bob == Filters(account_id=bob.account_id)
        assert Filters().of(session, key=str(ann.id)).key_id == ann.id
        with pytest.raises(NotFound, match="no team 'ops'"):
            Filters().of(session, team="ops")
    assert by(database, filters=of_bob).total.requests == 2
    assert by(database, filters=Filters(route="code")).total.requests == 1
    assert by(database, filters=Filters(model="o'neill", outcome="error")).total.requests == 1
    assert by(database, filters=Filters(route="' OR true --")).total.requests == 0


def test_what_cannot_be_grouped_by_is_refused(database: Database) -> None:
    with pytest.raises(Invalid, match="cannot group by 'colour': the dimensions are day, hour, account"):
        by(database, "colour")
    with database.transaction() as session, pytest.raises(Invalid, match="swap them"):
        summarize(session, since=UNTIL, until=SINCE)


# --- single requests --------------------------------------------------------------------------------------


def test_records_come_newest_first_page_by_page_each_once(database: Database) -> None:
    _, key = make_account(database, "ann")
    same_moment = [usage(key, request_id=f"r{number}") for number in range(3)]
    add(database, *same_moment, usage(key, at=NOON - HOUR, request_id="old"), usage(key, at=SINCE - DAY))
    seen: list[Record] = []
    while page := listed(database, after=Position(seen[-1].at, seen[-1].id) if seen else None):
        seen += page
    assert [record.request_id for record in seen] == ["r2", "r1", "r0", "old"]
    assert (seen[0].account, seen[0].key, seen[0].team, seen[0].outcome) == ("ann", "laptop", None, "ok")


def test_a_record_of_somebody_unknown_is_shown_all_the_same(database: Database) -> None:
    _, key = make_account(database, "ann")
    add(database, usage(key, key_id=uuid.UUID(int=5), account_id=uuid.UUID(int=6), request_id="r"))
    (record,) = listed(database, Filters(request_id="r"))
    assert (record.account, record.key) == (None, None)


# --- what is unusual --------------------------------------------------------------------------------------


def days(key: ApiKey, counts: list[int], **changes: object) -> list[Usage]:
    """`counts[0]` requests in the last day before NOON, `counts[1]` in the one before, and so on."""
    return [
        usage(key, at=NOON - ago * DAY - dt.timedelta(minutes=5 * number + 1), **changes)
        for ago, count in enumerate(counts)
        for number in range(count)
    ]


def test_a_day_unlike_the_others_is_told_in_a_sentence(database: Database) -> None:
    _, key = make_account(database, "ann")
    add(database, *days(key, [240] + [60, 64, 56, 60] * 7), *days(key, [60, 61, 59] * 9, route="calm"))
    (found, *others) = unusual(database)
    assert others == []
    assert (found.by, found.name, found.metric, found.value, found.usual) == (
        "route",
        "support",
        "requests",
        240,
        60,
    )
    assert (
        found.sentence
        == "route support: requests 240 in the last 24 h, usually 60, 4 times as much (z +23.2)"
    )
    (of_key,) = unusual(database, "key")
    assert (of_key.name, of_key.subject) == ("ann/laptop", str(key.id))


def test_a_route_that_falls_silent_is_told_too(database: Database) -> None:
    _, key = make_account(database, "ann")
    add(database, *days(key, [0] + [60, 64] * 14))
    (found,) = unusual(database)
    assert (found.metric, found.value, found.z < -3.5) == ("requests", 0, True)


def test_errors_spend_and_latency_are_held_against_their_own_past(database: Database) -> None:
    _, key = make_account(database, "ann")
    add(database, *days(key, [0] + [60] * DAYS, cost_micro_usd=1000))
    add(
        database,
        *days(key, [45], cost_micro_usd=20_000, latency_ms=900.0),
        *days(key, [15], outcome="error", status=502, cost_micro_usd=0),
    )
    found = {one.metric: one for one in unusual(database)}
    assert set(found) == {"error_rate", "cost_micro_usd", "latency_p50_ms"}
    assert found["error_rate"].sentence.startswith(
        "route support: error rate 25.0% in the last 24 h, usually 0.0%"
    )
    assert "spend $0.90 in the last 24 h, usually $0.06" in found["cost_micro_usd"].sentence
    assert "median latency 900 ms in the last 24 h, usually 100 ms" in found["latency_p50_ms"].sentence


def test_what_the_same_weekday_always_has_is_no_anomaly(database: Database) -> None:
    _, key = make_account(database, "ann")
    weekly = [200 if ago % 7 == 0 else 60 for ago in range(DAYS + 1)]
    add(database, *days(key, weekly))
    assert unusual(database) == []


def test_little_traffic_and_little_history_say_nothing(database: Database) -> None:
    _, key = make_account(database, "ann")
    add(database, *days(key, [40] + [1] * DAYS), *days(key, [200] + [60] * 5, route="new"))
    assert unusual(database) == []


def test_only_the_same_hours_are_compared(database: Database) -> None:
    _, key = make_account(database, "ann")
    night = [usage(key, at=NOON - ago * DAY - 10 * HOUR) for ago in range(DAYS) for _ in range(300)]
    add(database, *days(key, [60] * (DAYS + 1)), *night)
    add(database, *(usage(key, at=NOON - dt.timedelta(minutes=1)) for _ in range(200)))
    (found,) = unusual(database, window_hours=6)
    assert (found.value, found.usual) == (260, 60)


def test_what_cannot_be_compared_is_refused(database: Database) -> None:
    for dimension in ("day", "colour"):
        with pytest.raises(Invalid, match="take one of account, team, key, route"):
            unusual(database, dimension)
    with pytest.raises(Invalid, match="window_hours is 25: give 1 to 24"):
        unusual(database, window_hours=25)
