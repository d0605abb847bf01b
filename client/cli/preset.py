"""`raymill preset`: personas, usable as model names."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raymill.client.cli.app import DEFAULT_LIMIT, Json, Limit, connect, new_app
from raymill.client.cli.given import pairs, text_of
from raymill.client.cli.output import out, out_json, table

app = new_app("Personas: a system prompt with a model and parameters, usable as a model name.")
Name = Annotated[str, typer.Argument(help="Model name that requests use, such as tutor.", show_default=False)]
SHOWN_CHARS = 60


@app.command("list")
def list_presets(limit: Limit = DEFAULT_LIMIT, as_json: Json = False) -> None:
    """Presets with their models."""
    with connect() as client:
        found = list(client.presets.list(limit=limit))
    if as_json:
        out_json(found)
        return
    rows = [
        (p.name, p.model, [f"{key}={value}" for key, value in p.params.items()], p.system[:SHOWN_CHARS])
        for p in found
    ]
    out(table(["PRESET", "MODEL", "PARAMETERS", "SYSTEM PROMPT"], rows))


@app.command()
def show(name: Name, as_json: Json = False) -> None:
    """One preset."""
    with connect() as client:
        found = client.presets.get(name)
    if as_json:
        out_json(found)
        return
    rows = [("model", found.model), *((f"parameter {key}", value) for key, value in found.params.items())]
    out(table(["PRESET", found.name], rows))
    out()
    out(found.system)


@app.command("set")
def set_preset(
    name: Name,
    model: Annotated[str, typer.Option(help="Route, served model or PROVIDER/MODEL.", show_default=False)],
    system: Annotated[str | None, typer.Option(help="System prompt.")] = None,
    system_file: Annotated[Path | None, typer.Option(metavar="FILE", help="File that holds it.")] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Default of a request; may be repeated."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a preset or put another in its place. What a request says itself wins over its parameters."""
    if (system is None) == (system_file is None):
        raise typer.BadParameter("give the system prompt once: --system or --system-file")
    prompt = text_of(system_file, "give a text file") if system_file is not None else system or ""
    with connect() as client:
        made = client.presets.set(name, model=model, system=prompt, params=pairs(param or []))
    out_json(made) if as_json else out(f"{made.name} speaks through {made.model}")


@app.command()
def remove(name: Name, as_json: Json = False) -> None:
    """Forget it."""
    with connect() as client:
        gone = client.presets.remove(name)
    out_json(gone) if as_json else out(f"{gone.name} is removed")
