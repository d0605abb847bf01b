"""Teams, limits, budgets and usage at the command line, against a scripted service."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import subprocess
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from raymill.client import usage_types as usage
from raymill.client.cli.chart import bars, with_bars
from raymill.client.cli.usage import lines, moment, money
from raymill.client.sdk import Raymill
from raymill.client.usage_csv import cell, summary_csv
from raymill.client.usage_endpoints import Which
from raymill.policies.errors import Invalid

if TYPE_CHECKING:
    from tests.client.conftest import Reply, Service

    Replies = type[Reply]
    Command = Callable[..., subprocess.CompletedProcess[str]]

API = "/api/v1"
ID = "22222222-2222-2222-2222-222222222222"
MOMENT = "2026-01-02T03:04:05Z"


def account(**more: Any) -> dict[str, Any]:
    base = {"id": ID, "name": "ann", "role": "viewer", "disabled_at": None, "created_at": MOMENT}
    return {**base, **more}


def team(**more: Any) -> dict[str, Any]:
    base = {"id": ID, "name": "ops", "accounts": ["ann", "bob"], "disabled_at": None, "created_at": MOMENT}
    return {**base, **more}


def budget(**more: Any) -> dict[str, Any]:
    base = {
        "subject": "account:ann",
        "name": "ann",
        "period": "month",
        "limit_micro_usd": 25_000_000,
        "spent_micro_usd": 10_500_000,
        "held_micro_usd": 250,
        "resets_at": None,
        "created_at": MOMENT,
    }
    return {**base, **more}


def limits(**more: Any) -> dict[str, Any]:
    base = {
        "account": "ann",
        "team": "ops",
        "tier": "free",
        "overrides": {"streams": None},
        "limits": [
            {"name": "requests_per_day", "limit": 500, "source": "tier", "used": 12, "held": 3},
            {"name": "streams", "limit": None, "source": "account", "used": 0, "held": 0},
        ],
        "budgets": [],
    }
    return {**base, **more}


def group(by: dict[str, str], requests: int, spend: int, **more: Any) -> dict[str, Any]:
    base = {
        "by": by,
        "requests": requests,
        "errors": 0,
        "error_rate": 0.0,
        "cache_hits": 0,
        "prompt_tokens": 10 * requests,
        "cached_tokens": 0,
        "completion_tokens": 2 * requests,
        "cost_micro_usd": spend,
        "unpriced": 0,
        "latency_p50_ms": 100.4,
        "latency_p90_ms": 200.0,
        "latency_p99_ms": 1500.0,
        "first_token_p50_ms": None,
        "first_token_p99_ms": None,
    }
    return {**base, **more}


SUMMARY = {
    "since": MOMENT,
    "until": MOMENT,
    "group_by": ["day", "route"],
    "data": [
        group({"day": "2026-01-01", "route": "support"}, 100, 4200),
        group(
            {"day": "2026-01-02", "route": "=code"}, 1000, 1_500_000, errors=25, error_rate=0.025, unpriced=1
        ),
    ],
    "total": group({}, 1100, 1_504_200, errors=25, error_rate=0.0227),
}
RECORD = {
    "id": ID,
    "request_id": "r1",
    "at": MOMENT,
    "account": "ann",
    "team": None,
    "key_id": ID,
    "key": "laptop",
    "operation": "chat",
    "route": "support",
    "provider": "openai",
    "model": "gpt",
    "status": 200,
    "outcome": "ok",
    "stream": True,
    "attempts": 1,
    "prompt_tokens": 10,
    "cached_tokens": 0,
    "completion_tokens": 2,
    "estimated": False,
    "cost_micro_usd": 4200,
    "priced": True,
    "latency_ms": 1234.5,
    "first_token_ms": None,
    "overhead_ms": 0.4,
}


# --- teams, accounts, limits ------------------------------------------------------------------------------


def test_teams_are_listed_made_and_filled(raymill: Command, service: Service, reply: Replies) -> None:
    service.on("GET", f"{API}/teams", reply(data={"data": [team()]}))
    service.on("POST", f"{API}/teams", reply(status=201, data=team()))
    service.on("PATCH", f"{API}/accounts/ann", reply(data=account(team="ops")), reply(data=account()))
    service.on("GET", f"{API}/accounts/ann/limits", reply(data=limits()))
    service.on("PATCH", f"{API}/teams/ops", reply(data=team(disabled_at=MOMENT)))
    shown = raymill("team", "list").stdout.splitlines()
    assert shown[0].split() == ["NAME", "ACCOUNTS", "CREATED", "DISABLED"]
    assert shown[1].startswith("ops   ann, bob")
    assert raymill("team", "create", "ops").stdout == "ops is a team\n"
    assert raymill("team", "add", "ops", "ann").stdout == "ann is in ops\n"
    assert raymill("team", "remove", "ops", "ann").stdout == "ann is in no team\n"
    assert raymill("team", "disable", "ops").stdout == "ops is disabled\n"
    sent = [seen.body for seen in service.seen if seen.method != "GET"]
    assert sent == [{"name": "ops"}, {"team": "ops"}, {"team": None}, {"disabled": True}]


def test_nobody_is_taken_out_of_a_team_that_they_are_not_in(
    raymill: Command, service: Service, reply: Replies
) -> None:
    service.on("GET", f"{API}/accounts/ann/limits", reply(data=limits(team=None)))
    done = raymill("team", "remove", "ops", "ann")
    assert (done.returncode, done.stderr) == (
        2,
        "error: ann is in no team, not in ops: see `raymill team list`\n",
    )


def test_a_user_is_made_in_a_team_with_a_tier_and_switched_off(
    raymill: Command, service: Service, reply: Replies
) -> None:
    service.on("POST", f"{API}/accounts", reply(status=201, data=account(team="ops", tier="pro")))
    service.on("PATCH", f"{API}/accounts/ann", reply(data=account(disabled_at=MOMENT)))
    assert raymill("user", "create", "ann", "--team", "ops", "--tier", "pro").returncode == 0
    assert raymill("user", "disable", "ann").stdout == "ann is disabled\n"
    assert [seen.body for seen in service.seen] == [
        {"name": "ann", "role": "viewer", "team": "ops", "tier": "pro"},
        {"disabled": True},
    ]


def test_limits_are_shown_with_their_source_and_budgets(
    raymill: Command, service: Service, reply: Replies
) -> None:
    service.on("GET", f"{API}/accounts/ann/limits", reply(data=limits(budgets=[budget()])))
    shown = raymill("limit", "show", "ann").stdout.splitlines()
    assert shown[1].split() == ["requests_per_day", "500", "tier", "free", "12", "3"]
    assert shown[2].split() == ["streams", "none", "account", "ann", "-", "-"]
    assert shown[5].split()[:6] == ["account:ann", "ann", "month", "$25.00", "$10.50", "$0.00025"]
    assert "42 %" in shown[5]


def test_only_the_limits_that_are_given_are_sent(raymill: Command, service: Service, reply: Replies) -> None:
    service.on("PATCH", f"{API}/accounts/ann", reply(data=account()))
    service.on("GET", f"{API}/accounts/ann/limits", reply(data=limits()))
    options = [
        "--tier",
        "pro",
        "--requests-per-minute",
        "1,000",
        "--streams",
        "none",
        "--tokens-per-day",
        "tier",
    ]
    assert raymill("limit", "set", "ann", *options).returncode == 0
    assert service.seen[0].body == {
        "tier": "pro",
        "limits": {"requests_per_minute": 1000, "streams": None, "tokens_per_day": "tier"},
    }


def test_a_tiers_other_limits_stay(raymill: Command, service: Service, reply: Replies) -> None:
    service.on("GET", f"{API}/tiers", reply(data={"data": [{"name": "pro", "limits": {"streams": 50}}]}))
    service.on("PUT", f"{API}/tiers/pro", reply(data={"name": "pro", "limits": {"streams": 50}}))
    assert raymill("limit", "tiers").stdout.splitlines()[1].split() == [
        "pro",
        *["none"] * 4,
        "50",
        "none",
        "none",
    ]
    assert raymill("limit", "set-tier", "pro", "--requests-per-day", "7").returncode == 0
    assert service.seen[-1].body == {"limits": {"streams": 50, "requests_per_day": 7}}


# --- budgets ----------------------------------------------------------------------------------------------


def test_dollars_become_micro_dollars_exactly(raymill: Command, service: Service, reply: Replies) -> None:
    for period in ("day", "month"):
        service.on("PUT", f"{API}/budgets/account%3Aann/{period}", reply(data=budget(period=period)))
    done = raymill("budget", "set", "account:ann", "--month", "25.00", "--day", "0.000001")
    assert done.returncode == 0, done.stderr
    assert [(seen.path.rpartition("/")[2], seen.body) for seen in service.seen] == [
        ("day", {"limit_micro_usd": 1}),
        ("month", {"limit_micro_usd": 25_000_000}),
    ]


def test_a_budget_is_listed_and_removed(raymill: Command, service: Service, reply: Replies) -> None:
    service.on("GET", f"{API}/budgets", reply(data={"data": [budget(limit_micro_usd=0)]}))
    service.on("DELETE", f"{API}/budgets/account%3Aann/month", reply(data=budget()))
    assert raymill("budget", "list", "--subject", "account:ann").stdout.splitlines()[1].split()[3] == "$0.00"
    assert service.seen[0].query["subject"] == "account:ann"
    done = raymill("budget", "remove", "account:ann", "--month")
    assert done.stdout == "account:ann has no budget for month any more\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["budget", "set", "account:ann"], "give --day, --month or --total"),
        (["budget", "set", "account:ann", "--month", "-1"], "cannot be paid"),
        (["budget", "set", "account:ann", "--month", "0.0000001"], "cannot be paid"),
        (["budget", "set", "account:ann", "--month", "lots"], "is no amount of dollars"),
        (["budget", "remove", "account:ann"], "no period"),
        (["limit", "set", "ann"], "nothing to change"),
        (["limit", "set", "ann", "--streams", "many"], "--streams is 'many': give a whole number"),
        (["limit", "set", "ann", "--streams", "0"], "limits"),
        (["limit", "set-tier", "pro"], "nothing to change"),
        (["usage", "--by", "colour"], "--by colour: the dimensions are day, hour, account"),
        (["usage", "--since", "yesterday"], "'yesterday' is no time: write 90m, 24h"),
        (["team", "create", "Bad Name"], "name: must be text that matches"),
    ],
)
def test_bad_usage_is_exit_2_and_nothing_is_sent(
    raymill: Command, service: Service, arguments: list[str], message: str
) -> None:
    done = raymill(*arguments)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert service.seen == []


# --- usage ------------------------------------------------------------------------------------------------


def test_usage_is_a_table_without_bars_where_there_is_no_terminal(
    raymill: Command, service: Service, reply: Replies
) -> None:
    service.on("GET", f"{API}/usage", reply(data=SUMMARY))
    done = raymill("usage", "--by", "day,route", "--since", "24h", "--team", "ops")
    assert done.stdout.splitlines() == [
        "DAY         ROUTE    REQUESTS  ERRORS  TOKENS  SPEND    P50 MS  P99 MS  FIRST TOKEN MS",
        "2026-01-01  support  100       0       1,200   $0.0042  100     1,500   -",
        "2026-01-02  =code    1,000     2.5%    12,000  $1.50+   100     1,500   -",
        "all         -        1,100     2.3%    13,200  $1.50    100     1,500   -",
    ]
    query = service.seen[0].query
    assert (query["group_by"], query["team"]) == ("day,route", "ops")
    since = dt.datetime.fromisoformat(query["since"])
    assert dt.timedelta(hours=23.9) < dt.datetime.now(dt.UTC) - since < dt.timedelta(hours=24.1)
    assert "until" not in query


def test_usage_as_json_and_csv(raymill: Command, service: Service, reply: Replies) -> None:
    service.on("GET", f"{API}/usage", reply(data=SUMMARY))
    assert json.loads(raymill("usage", "--json").stdout)["total"]["requests"] == 1100
    rows = list(csv.DictReader(io.StringIO(raymill("usage", "--csv").stdout)))
    assert [(row["day"], row["route"], row["cost_micro_usd"]) for row in rows] == [
        ("2026-01-01", "support", "4200"),
        ("2026-01-02", "'=code", "1500000"),
    ]


def test_records_are_a_table_or_csv(raymill: Command, service: Service, reply: Replies) -> None:
    service.on("GET", f"{API}/usage/records", reply(data={"data": [RECORD], "next_cursor": None}))
    shown = raymill("usage", "records", "--outcome", "ok").stdout.splitlines()
    assert shown[1].split()[2:] == [
        "ann",
        "support",
        "openai/gpt",
        "200",
        "ok",
        "12",
        "$0.0042",
        "1,234",
        "r1",
    ]
    assert service.seen[0].query["outcome"] == "ok"
    (row,) = csv.DictReader(io.StringIO(raymill("usage", "records", "--csv").stdout))
    assert (row["at"], row["stream"], row["first_token_ms"]) == ("2026-01-02T03:04:05Z", "true", "")


def test_anomalies_are_sentences(raymill: Command, service: Service, reply: Replies) -> None:
    one = {
        "by": "key",
        "subject": ID,
        "name": "ann/laptop",
        "metric": "requests",
        "value": 300,
        "usual": 60,
        "z": 31.0,
        "sentence": "key ann/laptop: requests 300 in the last 6 h, usually 60",
    }
    report = {"until": MOMENT, "window_hours": 6, "data": [one]}
    service.on("GET", f"{API}/usage/anomalies", reply(data=report), reply(data={**report, "data": []}))
    assert raymill("usage", "anomalies", "--by", "key", "--hours", "6").stdout == f"{one['sentence']}\n"
    assert service.seen[0].query["by"] == "key"
    assert service.seen[0].query["window_hours"] == "6"
    assert raymill("usage", "anomalies").stdout == "nothing unusual in the last 6 h\n"


def test_a_terminal_shows_bars_as_far_as_it_is_wide() -> None:
    summary = usage.UsageSummary.model_validate(SUMMARY)
    wide = lines(summary, "requests", 110)
    assert [line.rpartition("  ")[2] for line in wide[1:3]] == ["██▏", "█" * 21]
    assert "█" not in wide[0] + wide[3]
    assert max(map(len, wide)) <= 110
    assert lines(summary, None, 60) == lines(summary, None, 0)  # no room


def test_bars_are_in_proportion_and_what_is_not_nothing_is_seen() -> None:
    assert bars([8, 4, 1, 0], 4) == ["████", "██", "▌", ""]
    assert bars([1_000_000, 1], 4) == ["████", "▏"]
    assert bars([0, 0], 4) == ["", ""]
    assert bars([], 4) == []
    assert with_bars(["HEAD", "a"], [5], 20) == ["HEAD", "a     █████████████"]


def test_money_and_times_are_as_people_write_them() -> None:
    assert [money(0), money(4200), money(1_234_500_000)] == ["$0.00", "$0.0042", "$1,234.50"]
    now = dt.datetime(2026, 1, 8, tzinfo=dt.UTC)
    assert moment("7d", now) == moment("1w", now) == dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    assert moment("90m", now) == now - dt.timedelta(minutes=90)
    assert moment("2026-01-01T00:00:00Z") == dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    assert moment("2026-01-01").tzinfo is not None
    for wrong in ("7", "d7", "-7d", "7y", "2026-13-01", ""):
        with pytest.raises(Invalid, match="is no time"):
            moment(wrong)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\tx", "\rx"])
def test_no_cell_is_a_formula(text: str) -> None:
    assert cell(text) == f"'{text}"


def test_a_key_has_two_columns_in_a_csv() -> None:
    by_key = {**SUMMARY, "group_by": ["key"], "data": [group({"key": ID, "key_name": "ann/laptop"}, 1, 2)]}
    head, row = summary_csv(usage.UsageSummary.model_validate(by_key))
    assert head.startswith("key,key_name,requests,errors,error_rate,")
    assert row.startswith(f"{ID},ann/laptop,1,0,0,")


# --- the client -------------------------------------------------------------------------------------------


def test_the_client_sends_what_is_set_and_nothing_else(
    service: Service, client: Raymill, reply: Replies
) -> None:
    service.on("PATCH", f"{API}/accounts/ann", reply(data=account()))
    feedback = {
        "id": ID,
        "request_id": "r1",
        "account": "ann",
        "score": 1.0,
        "correction": None,
        "comment": "",
        "at": MOMENT,
    }
    service.on("POST", f"{API}/feedback", reply(status=201, data=feedback))
    trace = {"request_id": "a/b", "account": "ann", "route": "r", "at": MOMENT, "prompt": {}, "answer": {}}
    service.on("GET", f"{API}/traces/a%2Fb", reply(data={**trace, "feedback": [feedback]}))
    service.on("GET", f"{API}/traces", reply(data={"data": [trace]}))
    service.on("GET", f"{API}/usage/records", reply(data={"data": [RECORD], "next_cursor": None}))
    client.accounts.update("ann", team=None)
    client.accounts.update("ann", limits={"streams": "tier"}, disabled=False)
    assert client.feedback.create("r1", score=1).score == 1
    assert client.traces.get("a/b").feedback[0].account == "ann"
    assert [one.route for one in client.traces.list(route="r")] == ["r"]
    since = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    assert [one.request_id for one in client.usage.records(Which(since=since, key="laptop"))] == ["r1"]
    assert [seen.body for seen in service.seen[:2]] == [
        {"team": None},
        {"limits": {"streams": "tier"}, "disabled": False},
    ]
    assert service.seen[-1].query == {"since": "2026-01-01T00:00:00+00:00", "key": "laptop", "limit": "100"}


def test_a_wrong_change_is_refused_before_it_is_sent(service: Service, client: Raymill) -> None:
    with pytest.raises(Invalid, match="score"):
        client.feedback.create("r1", score=2)
    with pytest.raises(Invalid, match="limit_micro_usd"):
        client.budgets.set("account:ann", "day", -1)
    with pytest.raises(Invalid, match="streams"):
        client.tiers.set("pro", {"streams": 0})
    assert service.seen == []
