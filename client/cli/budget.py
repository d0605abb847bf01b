"""`raymill budget`: what accounts, teams and keys may spend, in dollars."""

from __future__ import annotations

from typing import Annotated

import typer

from raymill.client.cli.app import Json, connect, new_app
from raymill.client.cli.given import dollars, micro_usd
from raymill.client.cli.output import out, out_json, table
from raymill.client.usage_types import Budget, Period
from raymill.policies.errors import Invalid

app = new_app("What accounts, teams and keys may spend.")
Subject = Annotated[
    str,
    typer.Argument(
        metavar="SUBJECT", help="account:NAME, team:NAME, or key:ID of a key.", show_default=False
    ),
]
DOLLARS = "Dollars, such as 25.00."


@app.command("list")
def list_budgets(
    subject: Annotated[
        str | None, typer.Option(help="Only those of account:NAME, team:NAME or key:ID.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Budgets, and what is spent now."""
    with connect() as client:
        found = list(client.budgets.list(subject=subject))
    out_json(found) if as_json else out(budget_table(found))


def budget_table(budgets: list[Budget]) -> str:
    rows = [
        (
            b.subject,
            b.name,
            b.period,
            f"${dollars(b.limit_micro_usd)}",
            f"${dollars(b.spent_micro_usd)}",
            f"${dollars(b.held_micro_usd)}",
            share(b),
            b.resets_at,
        )
        for b in budgets
    ]
    return table(["SUBJECT", "NAME", "PERIOD", "LIMIT", "SPENT", "HELD", "USED", "RESETS"], rows)


def share(budget: Budget) -> str:
    """`42 %`; of a budget of nothing there is no share."""
    if not budget.limit_micro_usd:
        return ""
    return f"{100 * budget.spent_micro_usd // budget.limit_micro_usd} %"


@app.command("set")
def set_budget(
    subject: Subject,
    day: Annotated[str | None, typer.Option(metavar="USD", help=f"For each UTC day. {DOLLARS}")] = None,
    month: Annotated[str | None, typer.Option(metavar="USD", help=f"For each UTC month. {DOLLARS}")] = None,
    total: Annotated[str | None, typer.Option(metavar="USD", help=f"For ever. {DOLLARS}")] = None,
    as_json: Json = False,
) -> None:
    """Let it spend so much; what was spent in the period already counts. 0 lets it spend nothing."""
    given: dict[Period, str | None] = {"day": day, "month": month, "total": total}
    amounts = {period: micro_usd(text) for period, text in given.items() if text is not None}
    if not amounts:
        raise Invalid("no amount: give --day, --month or --total, such as --month 25.00")
    with connect() as client:
        made = [client.budgets.set(subject, period, amount) for period, amount in amounts.items()]
    out_json(made) if as_json else out(budget_table(made))


@app.command()
def remove(
    subject: Subject,
    day: Annotated[bool, typer.Option("--day", help="The budget for each day.")] = False,
    month: Annotated[bool, typer.Option("--month", help="The budget for each month.")] = False,
    total: Annotated[bool, typer.Option("--total", help="The budget for ever.")] = False,
    as_json: Json = False,
) -> None:
    """Take a budget away: no limit from now on."""
    given: dict[Period, bool] = {"day": day, "month": month, "total": total}
    periods = [period for period, wanted in given.items() if wanted]
    if not periods:
        raise Invalid("no period: give --day, --month or --total")
    with connect() as client:
        gone = [client.budgets.remove(subject, period) for period in periods]
    if as_json:
        out_json(gone)
        return
    for budget in gone:
        out(f"{budget.subject} has no budget for {budget.period} any more")
