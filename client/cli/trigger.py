"""`raymill trigger`: pipelines that start when something happens."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raymill.client.cli.app import DEFAULT_LIMIT, Json, Limit, connect, new_app
from raymill.client.cli.given import pairs
from raymill.client.cli.output import out, out_json, out_switched, say, table
from raymill.client.trigger_types import NewTrigger, Trigger, TriggerKind
from raymill.client.types import JsonObject

app = new_app("Pipelines that start when something happens.")
Name = Annotated[str, typer.Argument(help="Trigger, such as nightly.", show_default=False)]


@app.command("list")
def list_triggers(
    on: Annotated[TriggerKind | None, typer.Option(help="Only those that wait for this.")] = None,
    limit: Limit = DEFAULT_LIMIT,
    as_json: Json = False,
) -> None:
    """Triggers, and what came of each last."""
    with connect() as client:
        found = list(client.triggers.list(on=on, limit=limit))
    if as_json:
        out_json(found)
        return
    rows = [
        (t.name, t.on, watched(t), "yes" if t.enabled else "no", t.next_at, t.last_fired_at, t.last_error)
        for t in found
    ]
    out(table(["TRIGGER", "ON", "WATCHES", "ENABLED", "NEXT", "FIRED", "ERROR"], rows))


@app.command()
def show(name: Name, as_json: Json = False) -> None:
    """One trigger."""
    with connect() as client:
        found = client.triggers.get(name)
    if as_json:
        out_json(found)
        return
    rows = [
        ("on", found.on),
        ("watches", watched(found)),
        ("model", found.recipe.get("model")),
        ("enabled", "yes" if found.enabled else "no"),
        ("next", found.next_at),
        ("fired", found.last_fired_at),
        ("pipeline", found.last_pipeline_id),
        ("error", found.last_error),
        ("made by", found.created_by),
        ("made", found.created_at),
    ]
    out(table(["TRIGGER", found.name], rows))


@app.command()
def add(
    name: Name,
    recipe: Annotated[Path, typer.Argument(help="Recipe that it runs.", show_default=False)],
    cron: Annotated[str | None, typer.Option(metavar="SCHEDULE", help="Such as '0 3 * * 1'.")] = None,
    timezone: Annotated[str, typer.Option(help="Of the schedule.")] = "UTC",
    webhook: Annotated[bool, typer.Option("--webhook", help="When somebody posts to it, signed.")] = False,
    dataset: Annotated[str | None, typer.Option(help="When this data set has a new version.")] = None,
    promotion: Annotated[
        str | None, typer.Option(metavar="MODEL[@ALIAS]", help="When the alias moves; production by default.")
    ] = None,
    drift: Annotated[
        str | None, typer.Option(metavar="SUBJECT", help="When this has drifted; 'any' for everything.")
    ] = None,
    disabled: Annotated[bool, typer.Option("--disabled", help="Do not let it start anything yet.")] = False,
    as_json: Json = False,
) -> None:
    """Run a recipe whenever something happens: give exactly one thing to wait for."""
    from raymill.client.recipe import load_recipe

    waits: dict[TriggerKind, JsonObject] = {}
    if cron is not None:
        waits["cron"] = {"schedule": cron, "timezone": timezone}
    if webhook:
        waits["webhook"] = {}
    if dataset is not None:
        waits["dataset"] = {"name": dataset}
    if promotion is not None:
        model, _, alias = promotion.partition("@")
        waits["promotion"] = {"model": model, "alias": alias or "production"}
    if drift is not None:
        waits["drift"] = {"subject": "" if drift == "any" else drift}
    if len(waits) != 1:
        raise typer.BadParameter("give exactly one of --cron, --webhook, --dataset, --promotion and --drift")
    ((on, config),) = waits.items()
    resolved = load_recipe(recipe).resolved()
    with connect() as client:
        made = client.triggers.add(name, on=on, config=config, recipe=resolved, enabled=not disabled)
        url = f"{client.url}/api/v1/triggers/{made.name}/webhook"
    out_json(made) if as_json else _tell_new(made, url)


@app.command()
def enable(name: Name, as_json: Json = False) -> None:
    """Let it start pipelines. Times that came while it was disabled are not made up for."""
    with connect() as client:
        out_switched(client.triggers.enable(name, enabled=True), as_json)


@app.command()
def disable(name: Name, as_json: Json = False) -> None:
    """Let it start nothing."""
    with connect() as client:
        out_switched(client.triggers.enable(name, enabled=False), as_json)


@app.command()
def delete(name: Name, as_json: Json = False) -> None:
    """Forget it. The pipelines that it started stay."""
    with connect() as client:
        gone = client.triggers.remove(name)
    out_json(gone) if as_json else out(f"{gone.name} is deleted")


@app.command()
def fire(name: Name, as_json: Json = False) -> None:
    """Start it now, whatever it waits for."""
    with connect() as client:
        found = client.triggers.fire(name)
    out_json(found) if as_json else out(f"{found.name} fires; `raymill pipeline list` shows what it started")


@app.command()
def drift(
    subject: Annotated[str, typer.Argument(help="What has drifted.", show_default=False)],
    key: Annotated[str, typer.Argument(help="Told of once, such as its day.", show_default=False)],
    data: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="More; may be repeated.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Tell that something has drifted: starts the triggers that watch for it."""
    with connect() as client:
        told = client.triggers.drift(subject, key, pairs(data or []))
    out_json(told) if as_json else out("told" if told.new else "that was told of before")


def watched(trigger: Trigger) -> str:
    """What it waits for, in a few words."""
    config = trigger.config
    match trigger.on:
        case "cron":
            return f"{config['schedule']} {config['timezone']}"
        case "promotion":
            return f"{config['model']}@{config['alias']}"
        case "dataset":
            return str(config["name"])
        case "drift":
            return config["subject"] or "any"
        case "webhook":
            return ""


def _tell_new(made: NewTrigger, url: str) -> None:
    out(f"{made.name} runs {made.recipe['model']} on {made.on} {watched(made)}".rstrip())
    if made.secret is not None:
        out(f"address  {url}")
        out(f"secret   {made.secret}")
        say("keep the secret now: it is not shown again")
