"""`raymill promotion`: decisions about which version an alias names."""

from __future__ import annotations

from typing import Annotated

import typer

from raymill.client.cli.app import DEFAULT_LIMIT, Json, Limit, connect, new_app
from raymill.client.cli.output import out, out_json, table
from raymill.client.types import JsonObject
from raymill.policies.errors import RaymillError

app = new_app("Decisions about which version an alias names.")


@app.command("list")
def list_promotions(
    model: Annotated[str | None, typer.Option(help="Only those of this model.")] = None,
    limit: Limit = DEFAULT_LIMIT,
    as_json: Json = False,
) -> None:
    """Decisions, the newest first."""
    with connect() as client:
        found = list(client.promotions.list(llm=model, limit=limit))
    if as_json:
        out_json(found)
        return
    rows = [
        (p.created_at, p.llm, p.version, p.alias, "allowed" if p.allowed else "refused", "; ".join(p.reasons))
        for p in found
    ]
    out(table(["DECIDED", "MODEL", "VERSION", "ALIAS", "DECISION", "REASONS"], rows))


@app.command()
def create(
    model: Annotated[str, typer.Argument(help="Model, such as support-triage.", show_default=False)],
    version: Annotated[int, typer.Argument(min=1, help="Version that the alias should name.")],
    to: Annotated[str, typer.Option(help="Alias to move.")] = "production",
    at_least: Annotated[
        list[str] | None, typer.Option(metavar="TASK=SCORE", help="Ask for a score; may be repeated.")
    ] = None,
    not_below_base: Annotated[
        list[str] | None,
        typer.Option(metavar="TASK", help="Ask for no loss against the base; may be repeated."),
    ] = None,
    not_worse: Annotated[
        list[str] | None,
        typer.Option(
            "--not-significantly-worse-than",
            metavar="TASK=ALIAS",
            help="Compare by example with the version there, such as production; may be repeated.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask the policy to move an alias. Exit 1 when it refuses."""
    require = gates(at_least or [], not_below_base or [], not_worse or [])
    with connect() as client:
        decision = client.promotions.create(model, version, to=to, require=require)
    if as_json:
        out_json(decision)
    elif decision.allowed:
        out(f"{model} {decision.alias} is version {decision.version}")
    if not decision.allowed:
        raise RaymillError(f"{model} version {version} may not become {to}: {'; '.join(decision.reasons)}")


def gates(at_least: list[str], not_below_base: list[str], not_worse: list[str]) -> dict[str, JsonObject]:
    """Task -> gate, from the command's options."""
    found: dict[str, JsonObject] = {}
    for text in at_least:
        task, _, score = text.rpartition("=")
        try:
            found.setdefault(task, {})["at_least"] = float(score)
        except ValueError:
            task = ""
        if not task:
            raise typer.BadParameter(f"{text!r} is no gate: write it as heldout_exact_match=0.9")
    for task in not_below_base:
        found.setdefault(task, {})["not_below_base"] = True
    for text in not_worse:
        task, _, alias = text.rpartition("=")
        if not task or not alias:
            raise typer.BadParameter(f"{text!r} is no gate: write it as heldout_exact_match=production")
        found.setdefault(task, {})["not_significantly_worse_than"] = alias
    return found
