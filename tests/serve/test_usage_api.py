"""Teams, limits, budgets, usage, traces and feedback over HTTP: what is answered, and to whom."""

from __future__ import annotations

import csv
import datetime as dt
import io
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from httpx2 import Response
from sqlalchemy import select
from tests.registry.making import World
from tests.registry.using import add, usage
from tests.serve.control_app import app_of

from raymill.client import types
from raymill.client import usage_types as wire
from raymill.cluster.settings import Settings
from raymill.registry.database import Database
from raymill.registry.tables import ApiKey, AuditEvent, Role, Trace, new_id
from raymill.serve.api.context import Parts
from raymill.serve.gateway import feedback
from raymill.serve.gateway.wire import Refused

API = "/api/v1"
NOW = dt.datetime.now(dt.UTC)
HOUR = dt.timedelta(hours=1)


@pytest.fixture
def keys(world: World) -> dict[Role, str]:
    """A key of an account called like its role, for each."""
    return {role: world.add_key(role) for role in Role}


@pytest.fixture
def admin(world: World, keys: dict[Role, str]) -> Iterator[TestClient]:
    app = app_of(Parts(settings=Settings(home=world.home), database=world.database))
    with TestClient(app, raise_server_exceptions=False) as client:
        client.headers["authorization"] = f"Bearer {keys[Role.ADMIN]}"
        yield client


def of(keys: dict[Role, str], role: Role) -> dict[str, str]:
    return {"authorization": f"Bearer {keys[role]}"}


def key_of(world: World, role: Role) -> ApiKey:
    with world.database.transaction() as session:
        rows = session.scalars(select(ApiKey)).unique()
        return next(row for row in rows if row.account.name == role.value)


def refused(response: Response, status: int) -> str:
    assert response.status_code == status, response.text
    message: str = response.json()["error"]["message"]
    return message


def ok(response: Response) -> Any:
    assert response.is_success, response.text
    return response.json()


# --- teams, tiers, limits ---------------------------------------------------------------------------------


def test_a_team_is_made_filled_and_disabled(admin: TestClient, world: World, keys: dict[Role, str]) -> None:
    assert admin.post(f"{API}/teams", json={"name": "ops"}).status_code == 201
    assert "another name" in refused(admin.post(f"{API}/teams", json={"name": "ops"}), 409)
    moved = types.Account.model_validate(ok(admin.patch(f"{API}/accounts/viewer", json={"team": "ops"})))
    assert moved.team == "ops"
    (team,) = ok(admin.get(f"{API}/teams"))["data"]
    assert (team["name"], team["accounts"], team["disabled_at"]) == ("ops", ["viewer"], None)
    assert ok(admin.patch(f"{API}/teams/ops", json={"disabled": True}))["disabled_at"] is not None
    assert admin.get(f"{API}/jobs", headers=of(keys, Role.VIEWER)).status_code == 401
    ok(admin.patch(f"{API}/accounts/viewer", json={"team": None}))
    assert admin.get(f"{API}/jobs", headers=of(keys, Role.VIEWER)).status_code == 200
    with world.database.transaction() as session:
        told = session.scalars(select(AuditEvent.action).order_by(AuditEvent.seq.desc()).limit(4)).all()
    assert told[::-1] == ["team.create", "account.team", "team.disable", "account.team"]


def test_administrators_set_quotas_and_all_see_them(admin: TestClient, keys: dict[Role, str]) -> None:
    path = f"{API}/teams/ops/quota"
    ok(admin.post(f"{API}/teams", json={"name": "ops"}))
    ok(admin.patch(path, json={"max_running": 2, "max_gpus": 8}))
    quota = wire.TeamQuota.model_validate(ok(admin.patch(path, json={"max_gpus": None})))
    assert (quota.max_running, quota.max_gpus, quota.max_cpus, quota.running) == (2, None, None, 0)
    assert ok(admin.get(path, headers=of(keys, Role.VIEWER)))["max_running"] == 2
    assert "this takes" in refused(admin.patch(path, json={}, headers=of(keys, Role.OPERATOR)), 403)


def test_an_account_is_made_in_a_team_with_a_tier(admin: TestClient) -> None:
    ok(admin.post(f"{API}/teams", json={"name": "ops"}))
    body = {"name": "bob", "team": "ops", "tier": "free"}
    made = types.Account.model_validate(ok(admin.post(f"{API}/accounts", json=body)))
    assert (made.team, made.tier, made.limits) == ("ops", "free", {})
    for wrong in ({"name": "eve", "team": "art"}, {"name": "eve", "tier": "gold"}):
        assert "no t" in refused(admin.post(f"{API}/accounts", json=wrong), 404)


def test_only_what_is_named_of_an_account_changes(admin: TestClient) -> None:
    path = f"{API}/accounts/viewer"
    ok(admin.patch(path, json={"tier": "free", "limits": {"streams": 9, "requests_per_day": None}}))
    changed = types.Account.model_validate(ok(admin.patch(path, json={"limits": {"streams": "tier"}})))
    assert (changed.tier, changed.limits, changed.disabled_at) == ("free", {"requests_per_day": None}, None)
    assert ok(admin.patch(path, json={})) == ok(admin.patch(path, json={"tier": "free"}))
    assert ok(admin.patch(path, json={"disabled": True}))["disabled_at"] is not None


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"limits": {"stream": 1}}, 422, "did you mean streams?"),
        ({"limits": {"streams": 0}}, 422, "limits.streams"),
        ({"limits": {"streams": True}}, 422, "limits.streams"),
        ({"limits": {"streams": "many"}}, 422, "limits.streams"),
        ({"tier": "gold"}, 404, "enterprise, free, pro"),
        ({"team": "art"}, 404, "raymill team create art"),
        ({"teem": "art"}, 422, "teem"),
    ],
)
def test_a_change_that_makes_no_sense_is_refused_as_a_whole(
    admin: TestClient, body: dict[str, Any], status: int, words: str
) -> None:
    before = ok(admin.get(f"{API}/accounts"))
    assert words in refused(admin.patch(f"{API}/accounts/viewer", json={"tier": "pro", **body}), status)
    assert ok(admin.get(f"{API}/accounts")) == before


def test_limits_are_shown_with_where_they_come_from(admin: TestClient, keys: dict[Role, str]) -> None:
    ok(admin.patch(f"{API}/accounts/viewer", json={"tier": "free", "limits": {"streams": None}}))
    ok(admin.put(f"{API}/budgets/account:viewer/day", json={"limit_micro_usd": 5}))
    own = admin.get(f"{API}/accounts/viewer/limits", headers=of(keys, Role.VIEWER))
    found = wire.AccountLimits.model_validate(ok(own))
    shown = {limit.name: (limit.limit, limit.source) for limit in found.limits}
    assert shown["streams"] == (None, "account")
    assert shown["requests_per_minute"] == (20, "tier")
    assert [budget.limit_micro_usd for budget in found.budgets] == [5]
    others = admin.get(f"{API}/accounts/admin/limits", headers=of(keys, Role.OPERATOR))
    assert "sees the own account only" in refused(others, 403)
    ok(admin.get(f"{API}/accounts/viewer/limits", headers=of(keys, Role.APPROVER)))


def test_a_tier_is_replaced(admin: TestClient) -> None:
    ok(admin.put(f"{API}/tiers/pro", json={"limits": {"streams": 3, "tokens_per_day": None}}))
    assert [tier for tier in ok(admin.get(f"{API}/tiers"))["data"] if tier["name"] == "pro"] == [
        {"name": "pro", "limits": {"streams": 3}}
    ]
    assert "limits.streams" in refused(admin.put(f"{API}/tiers/pro", json={"limits": {"streams": 0}}), 422)
    assert "the tiers are" in refused(admin.put(f"{API}/tiers/gold", json={"limits": {}}), 404)


# --- budgets ----------------------------------------------------------------------------------------------


def test_a_budget_is_set_shown_and_removed(admin: TestClient, world: World, keys: dict[Role, str]) -> None:
    add(world.database, usage(key_of(world, Role.VIEWER), at=NOW, cost_micro_usd=7))
    made = wire.Budget.model_validate(
        ok(admin.put(f"{API}/budgets/account:viewer/total", json={"limit_micro_usd": 100}))
    )
    assert (made.subject, made.spent_micro_usd, made.held_micro_usd, made.resets_at) == (
        "account:viewer",
        7,
        0,
        None,
    )
    ok(admin.put(f"{API}/budgets/account:operator/month", json={"limit_micro_usd": 1}))
    seen = {role: ok(admin.get(f"{API}/budgets", headers=of(keys, role)))["data"] for role in Role}
    assert [budget["subject"] for budget in seen[Role.VIEWER]] == ["account:viewer"]
    assert len(seen[Role.APPROVER]) == len(seen[Role.ADMIN]) == 2
    for reader in (Role.VIEWER, Role.ADMIN):
        only = ok(admin.get(f"{API}/budgets?subject=account:operator", headers=of(keys, reader)))["data"]
        assert len(only) == (reader is Role.ADMIN)
    gone = ok(admin.delete(f"{API}/budgets/account:viewer/total"))
    assert gone["limit_micro_usd"] == 100
    assert "has no budget" in refused(admin.delete(f"{API}/budgets/account:viewer/total"), 404)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("viewer/day", {"limit_micro_usd": 1}, 422),
        ("account:nobody/day", {"limit_micro_usd": 1}, 404),
        ("account:viewer/week", {"limit_micro_usd": 1}, 422),
        ("account:viewer/day", {"limit_micro_usd": -1}, 422),
        ("account:viewer/day", {"limit_micro_usd": 1.5}, 422),
        ("account:viewer/day", {"limit_micro_usd": 10**18}, 422),
        ("account:viewer/day", {"limit": 1}, 422),
        ("account:v%00/day", {"limit_micro_usd": 1}, 422),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(
    admin: TestClient, path: str, body: dict[str, Any], status: int
) -> None:
    refused(admin.put(f"{API}/budgets/{path}", json=body), status)


# --- usage ------------------------------------------------------------------------------------------------


@pytest.fixture
def used(world: World, keys: dict[Role, str]) -> World:  # noqa: ARG001 (makes the accounts)
    """Three requests of the viewer, two of the operator."""
    mine, others = key_of(world, Role.VIEWER), key_of(world, Role.OPERATOR)
    add(
        world.database,
        usage(mine, at=NOW - HOUR, request_id="v1", cost_micro_usd=10),
        usage(mine, at=NOW - 2 * HOUR, request_id="v2", route="=cmd()", outcome="error", status=502),
        usage(mine, at=NOW - 24 * 8 * HOUR, request_id="v3"),
        usage(others, at=NOW - HOUR, request_id="o1", cost_micro_usd=20),
        usage(others, at=NOW - 3 * HOUR, request_id="o2", cost_micro_usd=30),
    )
    return world


@pytest.mark.usefixtures("used")
def test_usage_is_everyones_for_approvers_and_ones_own_for_others(
    admin: TestClient, keys: dict[Role, str]
) -> None:
    seen = {}
    for role in Role:
        answer = ok(admin.get(f"{API}/usage?group_by=account", headers=of(keys, role)))
        found = wire.UsageSummary.model_validate(answer)
        seen[role] = {group.by["account"]: group.requests for group in found.data}
        assert found.total.requests == sum(seen[role].values())
    both = {"viewer": 2, "operator": 2}
    assert seen == {
        Role.VIEWER: {"viewer": 2},
        Role.OPERATOR: {"operator": 2},
        Role.APPROVER: both,
        Role.ADMIN: both,
    }
    other = admin.get(f"{API}/usage?account=operator", headers=of(keys, Role.VIEWER))
    assert "sees the own account only" in refused(other, 403)
    own = admin.get(f"{API}/usage?account=viewer", headers=of(keys, Role.VIEWER))
    assert ok(own)["total"]["requests"] == 2


@pytest.mark.usefixtures("used")
def test_usage_is_grouped_filtered_and_of_the_time_asked_for(admin: TestClient) -> None:
    found = wire.UsageSummary.model_validate(
        ok(admin.get(f"{API}/usage?group_by=route,account&account=viewer"))
    )
    assert {(group.by["route"], group.by["account"]) for group in found.data} == {
        ("support", "viewer"),
        ("=cmd()", "viewer"),
    }
    assert found.total.error_rate == 0.5
    assert found.until - found.since == dt.timedelta(days=7)
    since = (NOW - 24 * 30 * HOUR).isoformat()
    viewer = ok(admin.get(f"{API}/accounts"))["data"][-1]
    by_id = admin.get(f"{API}/usage", params={"account": viewer["id"]})
    assert (viewer["name"], ok(by_id)["total"]["requests"]) == ("viewer", 2)
    longer = admin.get(f"{API}/usage", params={"since": since, "group_by": "", "account": "viewer"})
    assert (ok(longer)["data"], ok(longer)["total"]["requests"]) == ([], 3)


@pytest.mark.parametrize(
    "query",
    [
        "group_by=colour",
        "since=yesterday",
        "since=1999-01-01T00:00:00Z",
        "since=0001-01-01T00:00:00%2B14:00",
        "until=9999-12-31T23:59:59-14:00",
        "since=2026-01-02&until=2026-01-01",
        "team=nobody",
        "key=nobody",
        "route=%00",
        "account=%00",
        f"model={'x' * 201}",
    ],
)
def test_a_question_that_makes_no_sense_is_the_callers_fault(admin: TestClient, query: str) -> None:
    for path in ("usage", "usage/records", "usage/anomalies", "usage.csv"):
        response = admin.get(f"{API}/{path}?{query}")
        if (path, query) not in {
            ("usage/records", "group_by=colour"),
            ("usage/anomalies", "group_by=colour"),
            ("usage/anomalies", "since=2026-01-02&until=2026-01-01"),
        }:
            assert response.status_code in {404, 422}, (path, response.text)
            assert refused(response, response.status_code)


@pytest.mark.usefixtures("used")
def test_records_are_paged_newest_first(admin: TestClient) -> None:
    seen: list[str] = []
    cursor = None
    while True:
        params = {"limit": "2", **({"cursor": cursor} if cursor else {})}
        answer = ok(admin.get(f"{API}/usage/records", params=params))
        found = types.Page[wire.UsageRecord].model_validate(answer)
        seen += [record.request_id for record in found.data]
        if (cursor := found.next_cursor) is None:
            break
    assert sorted(seen[:2]) == ["o1", "v1"]
    assert seen[2:] == ["v2", "o2"]
    for wrong in ("x", "NQ", "é", "MjAyNi0wMS0wMVQwMDowMDowMCAx"):
        refused(admin.get(f"{API}/usage/records", params={"cursor": wrong}), 422)


@pytest.mark.usefixtures("used")
def test_everything_comes_as_csv_and_no_cell_is_a_formula(admin: TestClient, keys: dict[Role, str]) -> None:
    response = admin.get(f"{API}/usage.csv", headers=of(keys, Role.VIEWER))
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(response.text)))
    assert [row["request_id"] for row in rows] == ["v1", "v2"]
    assert (rows[1]["route"], rows[0]["cost_micro_usd"], rows[0]["first_token_ms"]) == ("'=cmd()", "10", "")
    grouped = admin.get(f"{API}/usage.csv?group_by=key,day&account=operator")
    days = list(csv.DictReader(io.StringIO(grouped.text)))  # two, soon after midnight
    assert {day["key_name"] for day in days} == {"operator/test"}
    assert sum(int(day["cost_micro_usd"]) for day in days) == 50


def test_a_long_csv_is_read_in_pieces(
    admin: TestClient, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raymill.serve.api.routes import usage as module

    monkeypatch.setattr(module, "CSV_BATCH", 2)
    key = key_of(world, Role.VIEWER)
    add(world.database, *(usage(key, at=NOW - HOUR, request_id=f"r{number}") for number in range(6)))
    rows = list(csv.DictReader(io.StringIO(admin.get(f"{API}/usage.csv").text)))
    assert [row["request_id"] for row in rows] == ["r5", "r4", "r3", "r2", "r1", "r0"]


def test_what_is_unusual_is_answered_in_sentences(
    admin: TestClient, world: World, keys: dict[Role, str]
) -> None:
    key = key_of(world, Role.VIEWER)
    minute = dt.timedelta(minutes=1)
    rows = [
        usage(key, at=NOW - minute - ago * 24 * HOUR - number * minute)
        for ago in range(29)
        for number in range(60 if ago else 300)
    ]
    add(world.database, *rows)
    found = wire.AnomalyReport.model_validate(ok(admin.get(f"{API}/usage/anomalies")))
    assert [one.metric for one in found.data] == ["requests"]
    assert found.data[0].sentence.startswith("route support: requests 300 in the last 24 h, usually 60")
    theirs = admin.get(f"{API}/usage/anomalies?by=key", headers=of(keys, Role.OPERATOR))
    assert ok(theirs)["data"] == []
    assert "take one of" in refused(admin.get(f"{API}/usage/anomalies?by=day"), 422)


# --- traces and feedback ----------------------------------------------------------------------------------


def test_feedback_is_on_ones_own_answers_and_seen_by_administrators(
    admin: TestClient, used: World, keys: dict[Role, str]
) -> None:
    viewer, operator = of(keys, Role.VIEWER), of(keys, Role.OPERATOR)
    body = {"request_id": "v1", "score": -1, "correction": "Berlin"}
    made = wire.Feedback.model_validate(ok(admin.post(f"{API}/feedback", json=body, headers=viewer)))
    assert (made.account, made.score, made.correction) == ("viewer", -1, "Berlin")
    missing = admin.post(f"{API}/feedback", json=body, headers=operator)
    assert "try again" in refused(missing, 404)
    assert ok(admin.post(f"{API}/feedback", json={"request_id": "v1", "score": 1}))["account"] == "admin"
    assert len(ok(admin.get(f"{API}/feedback"))["data"]) == 2
    assert len(ok(admin.get(f"{API}/feedback?request_id=v1", headers=viewer))["data"]) == 1
    assert ok(admin.get(f"{API}/feedback", headers=operator))["data"] == []
    for wrong in ({"score": 2}, {"score": None}, {"comment": "a\0b"}, {"scoer": 1}):
        refused(admin.post(f"{API}/feedback", json={"request_id": "v1", **wrong}), 422)
    assert used.database is not None


def test_traces_are_ones_own_or_everyones_for_administrators(
    admin: TestClient, used: World, keys: dict[Role, str]
) -> None:
    viewer = key_of(used, Role.VIEWER).account_id
    with used.database.transaction() as session:
        for number, request_id in enumerate(("v1", "a/b")):
            session.add(
                Trace(
                    usage_id=new_id(),
                    request_id=request_id,
                    account_id=viewer,
                    route="support",
                    at=NOW - number * HOUR,
                    prompt={"messages": []},
                    answer={"text": "<email>"},
                )
            )
    ok(admin.post(f"{API}/feedback", json={"request_id": "v1", "score": 1}))
    found = wire.TraceDetail.model_validate(ok(admin.get(f"{API}/traces/v1")))
    assert (found.account, found.answer, len(found.feedback)) == ("viewer", {"text": "<email>"}, 1)
    assert ok(admin.get(f"{API}/traces/a%2Fb"))["request_id"] == "a/b"
    first = types.Page[wire.Trace].model_validate(ok(admin.get(f"{API}/traces?limit=1")))
    second = ok(admin.get(f"{API}/traces?limit=1&cursor={first.next_cursor}"))
    assert [first.data[0].request_id, second["data"][0]["request_id"]] == ["v1", "a/b"]
    assert len(ok(admin.get(f"{API}/traces?route=support", headers=of(keys, Role.VIEWER)))["data"]) == 2
    for role in (Role.OPERATOR, Role.APPROVER):
        assert ok(admin.get(f"{API}/traces", headers=of(keys, role)))["data"] == []
        assert "no trace" in refused(admin.get(f"{API}/traces/v1", headers=of(keys, role)), 404)


def test_the_gateway_reads_and_keeps_feedback(used: World) -> None:
    account = key_of(used, Role.VIEWER).account_id
    asked = feedback.parse('{"request_id": "v1", "score": 0.5, "comment": "né"}'.encode())
    assert (asked.request_id, asked.score, asked.correction, asked.comment) == ("v1", 0.5, None, "né")
    answer = feedback.keep(used.database, account, asked)
    assert b'"request_id":"v1"' in answer
    with pytest.raises(Refused, match="try again") as missing:
        feedback.keep(used.database, uuid.UUID(int=1), asked)
    assert (missing.value.status, missing.value.param) == (404, "request_id")
    with pytest.raises(Refused, match="says nothing") as empty:
        feedback.keep(used.database, account, feedback.parse(b'{"request_id": "v1"}'))
    assert empty.value.status == 400


def test_feedback_waits_for_a_database_that_is_away() -> None:
    nowhere = Database("postgresql://raymill@127.0.0.1:9/none")
    with pytest.raises(Refused, match="the database is away: try again") as away:
        feedback.keep(nowhere, uuid.UUID(int=1), feedback.parse(b'{"request_id": "v1", "score": 1}'))
    assert (away.value.status, away.value.headers["retry-after"]) == (503, "2")
    nowhere.close()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"{", "not JSON"),
        (b"[]", "send an object"),
        (b"{}", "request_id is missing"),
        (b'{"request_id": 5}', "request_id is missing or no text"),
        (b'{"request_id": ""}', "request_id is missing"),
        (b'{"request_id": "a\\u0000"}', "NUL"),
        (b'{"request_id": "r", "score": "good"}', "score is no number"),
        (b'{"request_id": "r", "score": true}', "score is no number"),
        (b'{"request_id": "r", "score": 1e400}', "out of range"),
        (b'{"request_id": "r", "score": 1' + b"0" * 400 + b"}", "score is no number"),
        (b'{"request_id": "r", "scoer": 1}', r"did you mean score\?"),
        (b'{"request_id": "r", "stars": 1}', "the fields are request_id"),
        (b'{"request_id": "r", "comment": []}', "comment is no text"),
        (b'{"request_id": "r", "comment": "\\ud800"}', "not JSON"),
        (b" " * (1 << 20) + b"{}", "at most 1048576"),
    ],
)
def test_feedback_that_makes_no_sense_is_refused(raw: bytes, message: str) -> None:
    with pytest.raises(Refused, match=message) as error:
        feedback.parse(raw)
    assert error.value.status in {400, 413}
