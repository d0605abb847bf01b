"""`raymill usage`: what was asked of the gateway, what it cost, how long it took, and what was unusual."""

from __future__ import annotations

import datetime as dt
import re
import shutil
import sys
from typing import Annotated, Literal, cast, get_args

import typer

from raymill.client.cli.app import DEFAULT_LIMIT, Json, Limit, connect, new_app
from raymill.client.cli.chart import with_bars
from raymill.client.cli.output import out, out_json, table
from raymill.client.usage_endpoints import Which
from raymill.client.usage_types import Dimension, UsageGroup, UsageSummary
from raymill.policies.errors import Invalid

Measure = Literal["spend", "requests", "tokens"]
DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)
UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

app = new_app("What was asked, what it cost, how long it took.")

Since = Annotated[
    str, typer.Option(metavar="WHEN", help="From when on: 90m, 24h, 7d, 4w, or a date such as 2026-03-01.")
]
Until = Annotated[str | None, typer.Option(metavar="WHEN", help="Up to then; now by default.")]
Account = Annotated[str | None, typer.Option(help="Only of this account.")]
Team = Annotated[str | None, typer.Option(help="Only of this team.")]
Key = Annotated[str | None, typer.Option(help="Only of the key with this id or name.")]
Route = Annotated[str | None, typer.Option(help="Only those that asked for this model name.")]
Provider = Annotated[str | None, typer.Option(help="Only those that this provider answered.")]
Model = Annotated[str | None, typer.Option(help="Only those that this model answered.")]
Csv = Annotated[bool, typer.Option("--csv", help="Print CSV, for spreadsheets; money in micro-dollars.")]


@app.callback(invoke_without_command=True, no_args_is_help=False)
def usage(
    context: typer.Context,
    by: Annotated[str, typer.Option(help=f"With commas between: {', '.join(DIMENSIONS)}.")] = "day",
    since: Since = "7d",
    until: Until = None,
    account: Account = None,
    team: Team = None,
    key: Key = None,
    route: Route = None,
    provider: Provider = None,
    model: Model = None,
    chart: Annotated[Measure | None, typer.Option(help="What the bars on a terminal show.")] = None,
    as_csv: Csv = False,
    as_json: Json = False,
) -> None:
    """What was asked, what it cost, how long it took; of the last 7 days and by day if not told otherwise."""
    if context.invoked_subcommand is not None:
        return
    which = Which(
        since=moment(since),
        until=moment(until) if until else None,
        account=account,
        team=team,
        key=key,
        route=route,
        provider=provider,
        model=model,
    )
    with connect() as client:
        found = client.usage.summary(dimensions(by), which)
    if as_json:
        out_json(found)
    elif as_csv:
        from raymill.client.usage_csv import summary_csv

        sys.stdout.writelines(summary_csv(found))
    else:
        out("\n".join(lines(found, chart, shutil.get_terminal_size().columns if sys.stdout.isatty() else 0)))


@app.command()
def records(
    since: Since = "24h",
    until: Until = None,
    account: Account = None,
    team: Team = None,
    key: Key = None,
    route: Route = None,
    provider: Provider = None,
    model: Model = None,
    outcome: Annotated[
        str | None, typer.Option(help="Only ok, error, cancelled, broken, cached or lost ones.")
    ] = None,
    limit: Limit = DEFAULT_LIMIT,
    as_csv: Csv = False,
    as_json: Json = False,
) -> None:
    """Single requests, the newest first."""
    which = Which(
        since=moment(since),
        until=moment(until) if until else None,
        account=account,
        team=team,
        key=key,
        route=route,
        provider=provider,
        model=model,
        outcome=outcome,
    )
    with connect() as client:
        found = list(client.usage.records(which, limit=limit))
    if as_json:
        out_json(found)
        return
    if as_csv:
        from raymill.client.usage_csv import records_csv, records_head

        sys.stdout.writelines([records_head(), *records_csv(found)])
        return
    rows = [
        (
            r.at,
            r.account,
            r.route,
            f"{r.provider}/{r.model}" if r.provider else "",
            f"{r.status} {r.outcome}",
            r.prompt_tokens + r.completion_tokens,
            money(r.cost_micro_usd) if r.priced else "unknown",
            f"{r.latency_ms:,.0f}",
            r.request_id,
        )
        for r in found
    ]
    head = ["AT", "ACCOUNT", "ROUTE", "ANSWERED BY", "OUTCOME", "TOKENS", "SPEND", "MS", "REQUEST"]
    out(table(head, rows))


@app.command()
def anomalies(
    by: Annotated[str, typer.Option(help="route, key, team, account, provider or model.")] = "route",
    hours: Annotated[int, typer.Option(min=1, max=24, help="How far back to look.")] = 24,
    as_json: Json = False,
) -> None:
    """What was unlike the same hours of the last four weeks."""
    found_by = dimensions(by)
    if len(found_by) != 1:
        raise Invalid(f"--by {by}: name one dimension, such as route")
    with connect() as client:
        found = client.usage.anomalies(found_by[0], window_hours=hours)
    if as_json:
        out_json(found)
        return
    out(
        "\n".join(one.sentence for one in found.data) or f"nothing unusual in the last {found.window_hours} h"
    )


def lines(summary: UsageSummary, chart: Measure | None, columns: int) -> list[str]:
    """The table, one line for each group and one for all; with bars when there are `columns` for them."""
    heads = list(summary.group_by)
    if not heads:
        return table(NUMBERS, [numbers(summary.total)]).splitlines()
    rows = [[*(label(group, name) for name in heads), *numbers(group)] for group in summary.data]
    total = ["all", *("" for _ in heads[1:]), *numbers(summary.total)]
    text = table([*(head.upper() for head in heads), *NUMBERS], [*rows, total]).splitlines()
    if not columns or not rows:
        return text
    measure = chart or ("spend" if summary.total.cost_micro_usd else "requests")
    drawn = with_bars(text[:-1], [measured(group, measure) for group in summary.data], columns)
    return [*drawn, text[-1]]


NUMBERS = ["REQUESTS", "ERRORS", "TOKENS", "SPEND", "P50 MS", "P99 MS", "FIRST TOKEN MS"]


def label(group: UsageGroup, dimension: Dimension) -> str:
    """A key's name says more than its id."""
    return (group.by.get("key_name") if dimension == "key" else None) or group.by.get(dimension, "")


def numbers(group: UsageGroup) -> list[str]:
    """The cells of a group, as people read them. A `+` marks a spend in which some price was unknown."""
    return [
        f"{group.requests:,}",
        f"{group.error_rate:.1%}" if group.errors else "0",
        f"{group.prompt_tokens + group.completion_tokens:,}",
        money(group.cost_micro_usd) + ("+" if group.unpriced else ""),
        *(
            "" if value is None else f"{value:,.0f}"
            for value in (group.latency_p50_ms, group.latency_p99_ms, group.first_token_p50_ms)
        ),
    ]


def measured(group: UsageGroup, measure: Measure) -> int:
    match measure:
        case "spend":
            return group.cost_micro_usd
        case "requests":
            return group.requests
        case "tokens":
            return group.prompt_tokens + group.completion_tokens


def money(micro_usd: int) -> str:
    """`$1,234.50`; of less than a dollar more decimals: `$0.0042`."""
    return f"${micro_usd / 1_000_000:,.{2 if micro_usd >= 1_000_000 or not micro_usd else 4}f}"


def dimensions(text: str) -> list[Dimension]:
    """
    Raises:
        Invalid: one of them is none.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in DIMENSIONS:
            raise Invalid(f"--by {name}: the dimensions are {', '.join(DIMENSIONS)}")
    return [cast(Dimension, name) for name in names]


def moment(text: str, now: dt.datetime | None = None) -> dt.datetime:
    """`7d` is that long ago; a date or time is meant in this machine's zone if it names none.

    Raises:
        Invalid: it is neither.
    """
    ago = re.fullmatch(r"([0-9]{1,5})([mhdw])", text)
    if ago:
        return (now or dt.datetime.now(dt.UTC)) - dt.timedelta(**{UNITS[ago[2]]: int(ago[1])})
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError:
        raise Invalid(f"{text!r} is no time: write 90m, 24h, 7d, 4w, or a date such as 2026-03-01") from None
    return found if found.tzinfo is not None else found.astimezone()
