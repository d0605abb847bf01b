"""`raymill alias`: names that move from version to version. Only a promotion moves one."""

from __future__ import annotations

from typing import Annotated

import typer

from raymill.client.cli.app import DEFAULT_LIMIT, Json, Limit, connect, new_app
from raymill.client.cli.output import out, out_json, table

app = new_app("Names that move from version to version, such as production.")


@app.command("list")
def list_aliases(as_json: Json = False) -> None:
    """Every alias of every model."""
    with connect() as client:
        rows = [
            (llm.name, alias, number) for llm in client.llms.list() for alias, number in llm.aliases.items()
        ]
    if as_json:
        out_json({"data": [{"llm": llm, "alias": alias, "version": number} for llm, alias, number in rows]})
        return
    out(table(["MODEL", "ALIAS", "VERSION"], rows))


@app.command()
def history(
    model: Annotated[str, typer.Argument(help="Model, such as support-triage.", show_default=False)],
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
