"""`raymill alias`: names that move from version to version. Only a promotion moves one."""

from __future__ import annotations

from typing import Annotated

import typer

from raymill.client.cli.app import DEFAULT_LIMIT, Json, Limit, connect, new_app
from raymill.client.cli.output import out, out_json, table
from raymill.client.cli.usage import moment
from raymill.policies.errors import RaymillError

app = new_app("Names that move from version to version, such as production.")
Model = Annotated[str, typer.Argument(help="Model, such as support-triage.", show_default=False)]
Alias = Annotated[str, typer.Argument(help="Alias, such as production.", show_default=False)]
Reason = Annotated[str | None, typer.Option("--reason", help="Why; kept with it.", show_default=False)]
AsOf = Annotated[
    str | None,
    typer.Option(
        "--as-of",
        metavar="TIME",
        help="As it was then: 2026-03-01, 2026-03-01T12:00, 7d.",
        show_default=False,
    ),
]


@app.command("list")
def list_aliases(as_of: AsOf = None, as_json: Json = False) -> None:
    """Every alias of every model, now or at a time."""
    with connect() as client:
        rows = [
            (llm.name, alias, number, alias in llm.frozen)
            for llm in client.llms.list(as_of=moment(as_of) if as_of else None)
            for alias, number in llm.aliases.items()
        ]
    if as_json:
        keys = ("llm", "alias", "version", "frozen")
        out_json({"data": [dict(zip(keys, row, strict=True)) for row in rows]})
        return
    out(
        table(
            ["MODEL", "ALIAS", "VERSION", "FROZEN NOW"], [(*row[:3], "yes" if row[3] else "") for row in rows]
        )
    )


@app.command()
def history(
    model: Model,
    limit: Limit = DEFAULT_LIMIT,
    as_json: Json = False,
) -> None:
    """Where a model's aliases pointed, and who moved them."""
    with connect() as client:
        found = list(client.aliases.history(model, limit=limit))
    if as_json:
        out_json(found)
        return
    rows = [(m.moved_at, m.alias, m.previous_version, m.version, m.actor, m.promotion_id) for m in found]
    out(table(["MOVED", "ALIAS", "FROM", "TO", "BY", "PROMOTION"], rows))


@app.command()
def freeze(model: Model, alias: Alias, reason: Reason = None, as_json: Json = False) -> None:
    """Hold an alias where it is: promotions and roll backs are refused."""
    with connect() as client:
        found = client.aliases.freeze(model, alias, reason=reason)
    out_json(found) if as_json else out(f"{model}@{alias} stays at version {found.version}")


@app.command()
def unfreeze(model: Model, alias: Alias, as_json: Json = False) -> None:
    """Let an alias move again."""
    with connect() as client:
        found = client.aliases.unfreeze(model, alias)
    out_json(found) if as_json else out(f"{model}@{alias} is at version {found.version} and may move")


@app.command()
def rollback(model: Model, alias: Alias, reason: Reason = None, as_json: Json = False) -> None:
    """Move an alias back to the version before; while a canary runs, end that instead. Takes no approvals.

    Exit 1 when the policy refuses that version now.
    """
    with connect() as client:
        found = client.aliases.roll_back(model, alias, reason=reason)
    if as_json:
        out_json(found)
    elif found.state == "aborted":
        out(f"the canary of version {found.version} is over; {model}@{alias} stays where it is")
    elif found.allowed:
        out(f"{model}@{alias} is version {found.version} again")
    if not found.allowed:
        raise RaymillError(f"{model} version {found.version} may not come back: {'; '.join(found.reasons)}")
