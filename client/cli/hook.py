"""`raymill hook`: what follows from the end of pipelines and their steps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from raymill.client.cli.app import DEFAULT_LIMIT, Json, Limit, connect, new_app
from raymill.client.cli.given import yaml_section
from raymill.client.cli.output import out, out_json, out_switched, say, table
from raymill.client.trigger_types import Hook, HookAction, HookEvent
from raymill.client.types import JsonObject

app = new_app("What follows from the end of pipelines and their steps.")
Name = Annotated[str, typer.Argument(help="Hook, such as tell-team.", show_default=False)]


@app.command("list")
def list_hooks(limit: Limit = DEFAULT_LIMIT, as_json: Json = False) -> None:
    """Hooks, and what each does."""
    with connect() as client:
        found = list(client.hooks.list(limit=limit))
    if as_json:
        out_json(found)
        return
    rows = [(h.name, h.on, h.subject or "any", does(h), "yes" if h.enabled else "no") for h in found]
    out(table(["HOOK", "ON", "MODEL", "DOES", "ENABLED"], rows))


@app.command()
def show(name: Name, as_json: Json = False) -> None:
    """One hook."""
    with connect() as client:
        found = client.hooks.get(name)
    if as_json:
        out_json(found)
        return
    rows = [
        ("on", found.on),
        ("model", found.subject or "any"),
        ("does", does(found)),
        ("enabled", "yes" if found.enabled else "no"),
        ("made by", found.created_by),
        ("made", found.created_at),
    ]
    out(table(["HOOK", found.name], rows))


@app.command()
def add(
    name: Name,
    on: Annotated[
        list[str],
        typer.Option(metavar="EVENT", help="Such as pipeline.failed; may be repeated.", show_default=False),
    ],
    webhook: Annotated[str | None, typer.Option(metavar="URL", help="Post to this address, signed.")] = None,
    promote: Annotated[
        str | None, typer.Option(metavar="ALIAS", help="Promote the version that the pipeline made.")
    ] = None,
    require: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML, task -> bounds; the recipe's by default.")
    ] = None,
    rollback: Annotated[
        str | None,
        typer.Option(metavar="ALIAS", help="Move it back from the version that the pipeline made."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Only of this model; of all by default.")] = None,
    disabled: Annotated[bool, typer.Option("--disabled", help="Do not let it act yet.")] = False,
    as_json: Json = False,
) -> None:
    """Let something follow from an end: give exactly one of --webhook, --promote and --rollback."""
    actions: dict[HookAction, JsonObject] = {}
    if webhook is not None:
        actions["webhook"] = {"url": webhook}
    if promote is not None:
        actions["promote"] = {"alias": promote, "require": yaml_section(require) if require else {}}
    if rollback is not None:
        actions["rollback"] = {"alias": rollback}
    if len(actions) != 1:
        raise typer.BadParameter("give exactly one of --webhook, --promote and --rollback")
    if require is not None and promote is None:
        raise typer.BadParameter("--require belongs to --promote")
    ((action, config),) = actions.items()
    with connect() as client:
        made = client.hooks.add(
            name,
            on=cast(list[HookEvent], on),
            action=action,
            config=config,
            subject=model,
            enabled=not disabled,
        )
    if as_json:
        out_json(made)
        return
    out(f"{made.name} will {does(made)} on {', '.join(made.on)}")
    if made.secret is not None:
        out(f"secret  {made.secret}")
        say("keep the secret now: it is not shown again")


@app.command()
def enable(name: Name, as_json: Json = False) -> None:
    """Let it act. What ended while it was disabled is not made up for."""
    with connect() as client:
        out_switched(client.hooks.enable(name, enabled=True), as_json)


@app.command()
def disable(name: Name, as_json: Json = False) -> None:
    """Let it do nothing."""
    with connect() as client:
        out_switched(client.hooks.enable(name, enabled=False), as_json)


@app.command()
def delete(name: Name, as_json: Json = False) -> None:
    """Forget it. What it has not done yet ends as failed."""
    with connect() as client:
        gone = client.hooks.remove(name)
    out_json(gone) if as_json else out(f"{gone.name} is deleted")


@app.command()
def deliveries(name: Name, limit: Limit = DEFAULT_LIMIT, as_json: Json = False) -> None:
    """What it did, the newest first; `raymill jobs retry` does one of them again."""
    with connect() as client:
        found = list(client.hooks.deliveries(name, limit=limit))
    if as_json:
        out_json(found)
        return
    rows = [(j.id, j.config.get("event"), j.state, j.attempt, j.created_at, j.error) for j in found]
    out(table(["JOB", "EVENT", "STATE", "TRIES", "WRITTEN", "ERROR"], rows))


def does(hook: Hook) -> str:
    """Its action in a few words."""
    target = hook.config["url"] if hook.action == "webhook" else hook.config["alias"]
    return f"{hook.action} {target}"
