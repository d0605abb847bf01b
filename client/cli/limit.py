"""`raymill limit`: how much accounts may use in a minute or a day, by tier and by account."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from raymill.client.cli.app import Json, connect, new_app
from raymill.client.cli.budget import budget_table
from raymill.client.cli.output import out, out_json, table
from raymill.client.usage_types import AccountChanges, AccountLimits, Tier
from raymill.policies.errors import Invalid

app = new_app("How much accounts may use in a minute or a day.")
Override = int | Literal["tier"] | None

AccountName = Annotated[
    str, typer.Argument(metavar="ACCOUNT", help="Name of an account.", show_default=False)
]
Number = Annotated[
    str | None, typer.Option(metavar="N", help="A number, none for no limit, or tier for the tier's.")
]
TierNumber = Annotated[str | None, typer.Option(metavar="N", help="A number, or none for no limit.")]


@app.command()
def show(account: AccountName, as_json: Json = False) -> None:
    """What an account may use, what it has used, and its budgets."""
    with connect() as client:
        found = client.accounts.limits(account)
    out_json(found) if as_json else out(details(found))


def details(limits: AccountLimits) -> str:
    """The limits and, where there are any, the budgets."""
    rows = [
        (
            one.name,
            "none" if one.limit is None else f"{one.limit:,}",
            f"account {limits.account}" if one.source == "account" else f"tier {limits.tier}",
            "" if one.limit is None else f"{one.used:,}",
            "" if one.limit is None else f"{one.held:,}",
        )
        for one in limits.limits
    ]
    text = table(["LIMIT", "AT MOST", "OF", "USED NOW", "HELD"], rows)
    return f"{text}\n\n{budget_table(limits.budgets)}" if limits.budgets else text


@app.command("set")
def set_limits(
    account: AccountName,
    tier: Annotated[str | None, typer.Option(help="Put it into this tier: free, pro or enterprise.")] = None,
    requests_per_minute: Number = None,
    requests_per_day: Number = None,
    tokens_per_minute: Number = None,
    tokens_per_day: Number = None,
    streams: Number = None,
    code_submissions_per_day: Number = None,
    code_bytes: Number = None,
    as_json: Json = False,
) -> None:
    """Change an account's tier, or override limits of it. What is not given stays as it is."""
    given = {
        "requests_per_minute": requests_per_minute,
        "requests_per_day": requests_per_day,
        "tokens_per_minute": tokens_per_minute,
        "tokens_per_day": tokens_per_day,
        "streams": streams,
        "code_submissions_per_day": code_submissions_per_day,
        "code_bytes": code_bytes,
    }
    changes: AccountChanges = {}
    limits: dict[str, Override] = {
        name: "tier" if text == "tier" else number(name, text)
        for name, text in given.items()
        if text is not None
    }
    if limits:
        changes["limits"] = limits
    if tier is not None:
        changes["tier"] = tier
    if not changes:
        raise Invalid("nothing to change: give --tier or a limit, such as --requests-per-minute 100")
    with connect() as client:
        client.accounts.update(account, **changes)
        found = client.accounts.limits(account)
    out_json(found) if as_json else out(details(found))


@app.command()
def tiers(as_json: Json = False) -> None:
    """The tiers and their limits."""
    with connect() as client:
        found = list(client.tiers.list())
    out_json(found) if as_json else out(tier_table(found))


@app.command("set-tier")
def set_tier(
    tier: Annotated[str, typer.Argument(metavar="TIER", help="free, pro or enterprise.", show_default=False)],
    requests_per_minute: TierNumber = None,
    requests_per_day: TierNumber = None,
    tokens_per_minute: TierNumber = None,
    tokens_per_day: TierNumber = None,
    streams: TierNumber = None,
    code_submissions_per_day: TierNumber = None,
    code_bytes: TierNumber = None,
    as_json: Json = False,
) -> None:
    """Change limits of a tier, for all its accounts. What is not given stays as it is."""
    given = {
        "requests_per_minute": requests_per_minute,
        "requests_per_day": requests_per_day,
        "tokens_per_minute": tokens_per_minute,
        "tokens_per_day": tokens_per_day,
        "streams": streams,
        "code_submissions_per_day": code_submissions_per_day,
        "code_bytes": code_bytes,
    }
    changes = {name: number(name, text) for name, text in given.items() if text is not None}
    if not changes:
        raise Invalid("nothing to change: give a limit, such as --requests-per-minute 100")
    with connect() as client:
        now = next((one.limits for one in client.tiers.list() if one.name == tier), {})
        made = client.tiers.set(tier, {**now, **changes})
    out_json(made) if as_json else out(tier_table([made]))


def tier_table(found: list[Tier]) -> str:
    names = (
        "requests_per_minute",
        "requests_per_day",
        "tokens_per_minute",
        "tokens_per_day",
        "streams",
        "code_submissions_per_day",
        "code_bytes",
    )
    rows = [
        (one.name, *(f"{one.limits[name]:,}" if name in one.limits else "none" for name in names))
        for one in found
    ]
    return table(
        [
            "TIER",
            "REQUESTS/MIN",
            "REQUESTS/DAY",
            "TOKENS/MIN",
            "TOKENS/DAY",
            "STREAMS",
            "CODE/DAY",
            "CODE BYTES",
        ],
        rows,
    )


def number(name: str, text: str) -> int | None:
    """`100` or `1,000`; `none` is no limit."""
    if text == "none":
        return None
    try:
        return int(text.replace(",", "").replace("_", ""))
    except ValueError:
        option = f"--{name.replace('_', '-')}"
        raise typer.BadParameter(f"{option} is {text!r}: give a whole number, or none for no limit") from None
