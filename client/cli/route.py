"""`raymill route`: model names of ours, and who answers for them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from raymill.client.cli.app import DEFAULT_LIMIT, Json, Limit, connect, new_app
from raymill.client.cli.given import yaml_section
from raymill.client.cli.output import out, out_json, out_switched, table
from raymill.client.types import JsonObject
from raymill.client.validation import checked
from raymill.serve.gateway.config import OURS, RouteConfig, Strategy

app = new_app("Model names of ours, and who answers for them.")
Name = Annotated[str, typer.Argument(help="Model name that requests use, such as smart.", show_default=False)]
Sticky = Literal["user", "conversation"]
TARGET = re.compile(r"(?P<provider>[^/]+)/(?P<model>.+?)(?::(?P<weight>\d+))?(?:@(?P<order>\d+))?")


@app.command("list")
def list_routes(limit: Limit = DEFAULT_LIMIT, as_json: Json = False) -> None:
    """Routes with their targets."""
    with connect() as client:
        found = list(client.routes.list(limit=limit))
    if as_json:
        out_json(found)
        return
    rows = [
        (
            r.name,
            "yes" if r.enabled else "no",
            r.config["strategy"],
            [written(target) for target in r.config["targets"]],
        )
        for r in found
    ]
    out(table(["ROUTE", "ENABLED", "STRATEGY", "TARGETS"], rows))


@app.command()
def show(name: Name, as_json: Json = False) -> None:
    """One route, as --file reads it."""
    with connect() as client:
        found = client.routes.get(name)
    if as_json:
        out_json(found)
        return
    import yaml  # not every command needs it

    out(yaml.safe_dump(found.config, sort_keys=False).rstrip())


@app.command("set")
def set_route(
    name: Name,
    target: Annotated[
        list[str] | None,
        typer.Option(metavar="PROVIDER/MODEL[:WEIGHT][@ORDER]", help="Who answers; may be repeated."),
    ] = None,
    strategy: Annotated[
        Strategy | None, typer.Option(help="How one of the same order is chosen; weighted by default.")
    ] = None,
    sticky: Annotated[Sticky | None, typer.Option(help="What always meets the same target.")] = None,
    cache_ttl_s: Annotated[
        float | None, typer.Option(help="Keep answers for so long, for requests that are exactly the same.")
    ] = None,
    keep_traces: Annotated[bool, typer.Option("--keep-traces", help="Keep prompts and answers.")] = False,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="YAML with the whole route, instead of the options.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a route or put another in its place.

    Targets of the same order share the requests by weight (1 by default); those of a higher order are asked
    when all of the lower ones have failed. The last :N and @N of a target are its weight and its order.
    """
    options: JsonObject = {"strategy": strategy, "sticky": sticky, "cache_ttl_s": cache_ttl_s}
    given = {key: value for key, value in options.items() if value is not None}
    given |= {"keep_traces": True} if keep_traces else {}
    if file is not None and (target or given):
        raise typer.BadParameter("--file holds the whole route: leave the other options out")
    if file is None and not target:
        raise typer.BadParameter("nobody to answer: give --target or --file")
    config = yaml_section(file) if file else {**given, "targets": [read(text) for text in target or []]}
    resolved = checked(RouteConfig, config).model_dump(mode="json")
    with connect() as client:
        made = client.routes.set(name, resolved)
    out_json(made) if as_json else out(f"{made.name} goes to {len(made.config['targets'])} targets")


@app.command()
def enable(name: Name, as_json: Json = False) -> None:
    """Answer for it again."""
    with connect() as client:
        out_switched(client.routes.enable(name, enabled=True), as_json)


@app.command()
def disable(name: Name, as_json: Json = False) -> None:
    """Know the name no more, until it is enabled."""
    with connect() as client:
        out_switched(client.routes.enable(name, enabled=False), as_json)


@app.command()
def remove(name: Name, as_json: Json = False) -> None:
    """Forget it. Refused while a preset speaks through it."""
    with connect() as client:
        gone = client.routes.remove(name)
    out_json(gone) if as_json else out(f"{gone.name} is removed")


def read(text: str) -> dict[str, Any]:
    """`openai/gpt-4o:3@1` -> a target."""
    match = TARGET.fullmatch(text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is no target: write it as openai/gpt-4o:3@1")
    target: dict[str, Any] = {"provider": match["provider"], "model": match["model"]}
    if match["provider"] == OURS and match["order"] and not match["weight"] and "@" not in match["model"]:
        raise typer.BadParameter(
            f"{text!r} can mean version {match['order']} or order {match['order']}: "
            f"write {text}@0 for the version, {OURS}/{match['model']}@production@{match['order']} for the order"
        )
    target |= {field: int(match[field]) for field in ("weight", "order") if match[field]}
    return target


def written(target: JsonObject) -> str:
    """A target as `read` reads it."""
    model, weight, order = target["model"], "", ""
    # Spelled out too where the model's own end would be read as one.
    if target["weight"] != 1 or re.search(r":\d+$", model):
        weight = f":{target['weight']}"
    if target["order"] or (not weight and re.search(r"@\d+$", model)):
        order = f"@{target['order']}"
    return f"{target['provider']}/{model}{weight}{order}"
