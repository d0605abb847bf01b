"""`raymill drift`: served models and routes that are watched, and what was found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from raymill.client.cli.app import DEFAULT_LIMIT, Json, Limit, connect, new_app
from raymill.client.cli.given import yaml_section
from raymill.client.cli.output import out, out_json, out_switched, table
from raymill.client.drift_types import DriftRun, DriftWatch
from raymill.client.types import JsonObject

app = new_app("Served models and routes that are watched for drift.")
Name = Annotated[str, typer.Argument(help="Watch, such as support-nightly.", show_default=False)]
Follows = Literal["tell", "freeze", "rollback"]


@app.command("list")
def list_watches(limit: Limit = DEFAULT_LIMIT, as_json: Json = False) -> None:
    """Watches, and what each found last."""
    with connect() as client:
        found = list(client.drift.list(limit=limit))
    if as_json:
        out_json(found)
        return
    rows = [
        (w.name, watched(w), "yes" if w.enabled else "no", w.next_at, w.severity, w.looked_at) for w in found
    ]
    out(table(["WATCH", "WATCHES", "ENABLED", "NEXT", "DRIFT", "LOOKED"], rows))


@app.command()
def show(name: Name, as_json: Json = False) -> None:
    """One watch."""
    with connect() as client:
        found = client.drift.get(name)
    if as_json:
        out_json(found)
        return
    config = found.config
    rows = [
        ("watches", watched(found)),
        ("schedule", f"{config.schedule} {config.timezone}" if config.schedule else None),
        ("minor drift", config.on_minor),
        ("major drift", config.on_major),
        ("enabled", "yes" if found.enabled else "no"),
        ("next", found.next_at),
        ("drift", found.severity),
        ("looked", found.looked_at),
        ("job", found.last_job_id),
        ("made by", found.created_by),
        ("made", found.created_at),
    ]
    out(table(["WATCH", found.name], rows))


@app.command()
def add(
    name: Name,
    target: Annotated[
        str | None, typer.Option(metavar="MODEL@ALIAS", help="Who is asked the canaries; MODEL@NUMBER too.")
    ] = None,
    canary: Annotated[
        str | None,
        typer.Option(metavar="DATASET", help="Registered data set whose held-out rows are asked."),
    ] = None,
    canary_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Or a jsonl file of the service's machine.")
    ] = None,
    route: Annotated[
        str | None, typer.Option(help="Route whose kept requests are compared, recent ones with earlier.")
    ] = None,
    recent_hours: Annotated[int | None, typer.Option(min=1, help="24 by default.")] = None,
    reference_hours: Annotated[int | None, typer.Option(min=1, help="168 by default.")] = None,
    cron: Annotated[str | None, typer.Option(metavar="SCHEDULE", help="Such as '0 * * * *'.")] = None,
    timezone: Annotated[str | None, typer.Option(help="Of the schedule; UTC by default.")] = None,
    on_minor: Annotated[Follows | None, typer.Option(help="What follows minor drift.")] = None,
    on_major: Annotated[Follows | None, typer.Option(help="What follows major drift.")] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML with all settings; options go before it.")
    ] = None,
    disabled: Annotated[bool, typer.Option("--disabled", help="Do not let it look yet.")] = False,
    as_json: Json = False,
) -> None:
    """Watch a served model by canaries, a route by its requests, or both."""
    whole: JsonObject = yaml_section(config) if config is not None else {}
    _set(whole, target=target, schedule=cron, timezone=timezone, on_minor=on_minor, on_major=on_major)
    path = str(canary_file.resolve()) if canary_file is not None else None
    _set_section(whole, "canary", dataset=canary, file=path)
    _set_section(whole, "traffic", route=route, recent_hours=recent_hours, reference_hours=reference_hours)
    with connect() as client:
        made = client.drift.add(name, whole, enabled=not disabled)
    out_json(made) if as_json else out(f"{made.name} watches {watched(made)}")


@app.command()
def run(
    name: Name,
    baseline: Annotated[
        bool, typer.Option("--baseline", help="Hold later canary scores against those of this look.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Have it look now."""
    with connect() as client:
        look = client.drift.run(name, baseline=baseline)
    if as_json:
        out_json(look)
        return
    out(f"{name} looks: job {look.job_id}; `raymill drift runs {name}` shows what it finds")


@app.command()
def runs(name: Name, limit: Limit = DEFAULT_LIMIT, as_json: Json = False) -> None:
    """What each look found."""
    with connect() as client:
        found = list(client.drift.runs(name, limit=limit))
    out_json(found) if as_json else _out_runs(found)


@app.command()
def events(
    name: Annotated[str | None, typer.Argument(help="Only of this watch.", show_default=False)] = None,
    limit: Limit = DEFAULT_LIMIT,
    as_json: Json = False,
) -> None:
    """Looks that found drift, and what followed."""
    with connect() as client:
        found = list(client.drift.events(name, limit=limit))
    out_json(found) if as_json else _out_runs(found)


@app.command()
def enable(name: Name, as_json: Json = False) -> None:
    """Let it look by its schedule."""
    with connect() as client:
        out_switched(client.drift.enable(name, enabled=True), as_json)


@app.command()
def disable(name: Name, as_json: Json = False) -> None:
    """Let it look by hand only."""
    with connect() as client:
        out_switched(client.drift.enable(name, enabled=False), as_json)


@app.command()
def delete(name: Name, as_json: Json = False) -> None:
    """Forget it, and what it found."""
    with connect() as client:
        gone = client.drift.remove(name)
    out_json(gone) if as_json else out(f"{gone.name} is deleted")


def watched(watch: DriftWatch) -> str:
    """What it watches, in a few words."""
    config = watch.config
    parts = [f"route {config.traffic.route}"] if config.traffic is not None else []
    if config.canary is not None:
        parts.insert(0, f"{config.target} by {config.canary.dataset or config.canary.file}")
    return ", ".join(parts)


def _out_runs(found: Sequence[DriftRun]) -> None:
    rows = [
        (run.at, run.watch, run.severity, run.version, _mean(run), run.action, "; ".join(run.reasons))
        for run in found
    ]
    out(table(["AT", "WATCH", "DRIFT", "VERSION", "CANARY", "DID", "WHY"], rows))


def _mean(run: DriftRun) -> str | None:
    return f"{run.canary['mean']:.3f}" if run.canary is not None else None


def _set(section: JsonObject, **given: Any) -> None:
    section.update({key: value for key, value in given.items() if value is not None})


def _set_section(whole: JsonObject, name: str, **given: Any) -> None:
    if any(value is not None for value in given.values()):
        section = dict(whole.get(name) or {})
        _set(section, **given)
        whole[name] = section
