"""`raymill tune`: search for the values with which training ends best, and look at searches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raymill.client.cli.app import DEFAULT_LIMIT, Json, Limit, connect, new_app
from raymill.client.cli.output import IMAGE_FORMATS, duration, out, out_json, say, table
from raymill.client.cli.run import DryRun, NoWait, RecipeFile, start
from raymill.client.search_types import PlotKind, Search
from raymill.policies.errors import Invalid

if TYPE_CHECKING:
    from raymill.client.recipe import Recipe

app = new_app("Search for the best values of a recipe: `raymill tune recipe.yaml`.", default="run")
SearchId = Annotated[
    str, typer.Argument(metavar="ID", help="Id of a search's pipeline or job.", show_default=False)
]

MOST_SHOWN = 100
"""Trials of a grid that `--dry-run` writes out."""


@app.command()
def run(recipe: RecipeFile, dry_run: DryRun = False, no_wait: NoWait = False, as_json: Json = False) -> None:
    """Run a recipe with a `tune` section: the search, then its other steps with the best trial's model.

    The word `run` may be left out. --dry-run shows what is searched, and every trial of a grid. Exit codes as for
    `raymill run`.
    """
    from raymill.client.recipe import load_recipe

    loaded = load_recipe(recipe)
    if loaded.tune is None:
        raise Invalid(f"{recipe} has no tune section: add one, or use `raymill train`", param="tune")
    if dry_run and not as_json:
        print_space(loaded)
    start(loaded, dry_run=dry_run, no_wait=no_wait, as_json=as_json)


@app.command("list")
def list_searches(
    name: Annotated[str | None, typer.Option(help="Only those of this model.")] = None,
    limit: Limit = DEFAULT_LIMIT,
    as_json: Json = False,
) -> None:
    """Searches, the newest first."""
    with connect() as client:
        found = list(client.searches.list(name=name, limit=limit))
    if as_json:
        out_json(found)
        return
    rows = [
        (s.id, s.name, s.state, s.search, s.scheduler, f"{s.over_trials} of {s.size}", s.steps, best_metric(s),
         s.created_at)
        for s in found
    ]  # fmt: skip
    out(table(["ID", "MODEL", "STATE", "SEARCH", "SCHEDULER", "TRIALS", "STEPS", "BEST", "CREATED"], rows))


@app.command()
def show(search_id: SearchId, as_json: Json = False) -> None:
    """A search with its trials, the best first."""
    with connect() as client:
        found = client.searches.get(search_id)
    if as_json:
        out_json(found)
        return
    out(f"search {found.id} of {found.name}: {found.state}, {found.search} with {found.scheduler}")
    out(f"{found.over_trials} of {found.size} trials have ended, {found.steps:,} steps together")
    if found.error and found.state != "succeeded":
        out(f"error: {found.error}")
    if found.best is not None:
        version = f", version {found.version}" if found.version is not None else ""
        out(f"best: trial {found.best['trial']}, {found.metric} {found.best['metric']:.6g}{version}")
    out()
    paths = list(found.over)
    told = sorted(found.trials, key=lambda t: (t.metric is None, t.metric, t.number))
    rows = [
        (t.number, t.state, t.metric, f"{t.steps} of {t.total_steps}", duration(t.seconds),
         *(shown(t.config.get(path)) for path in paths), t.error)
        for t in told
    ]  # fmt: skip
    short = [path.removeprefix("train.") for path in paths]
    out(table(["TRIAL", "STATE", found.metric.upper(), "STEPS", "TIME", *short, "ERROR"], rows))


@app.command()
def plot(
    search_id: SearchId,
    kind: Annotated[
        PlotKind, typer.Option(help="curves: losses over steps. parallel: values side by side.")
    ] = "curves",
    to: Annotated[Path | None, typer.Option("--out", help="File, .svg or .png; by default KIND.svg.")] = None,
    as_json: Json = False,
) -> None:
    """Draw a search's trials into a file."""
    path = to or Path(f"{kind}.svg")
    if path.suffix not in IMAGE_FORMATS:
        raise Invalid(f"{path} is neither .svg nor .png: name the file so", param="out")
    with connect() as client:
        image = client.searches.plot(search_id, kind=kind, format=IMAGE_FORMATS[path.suffix])
    path.write_bytes(image)
    if as_json:
        out_json({"file": str(path), "size_bytes": len(image)})
        return
    say(f"wrote {path}")


def best_metric(search: Search) -> float | None:
    return search.best["metric"] if search.best is not None else None


def shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)


def print_space(recipe: Recipe) -> None:
    """What is searched and what it may cost, and every trial of a grid."""
    from raymill.tune.config import grid

    config, train = recipe.tune, recipe.train
    assert config is not None
    rows = []
    for path, values in config.over.items():
        ((how, given),) = values.model_dump().items()
        rows.append((path, how, ", ".join(shown(value) for value in given)))
    out(table(["FIELD", "HOW", "VALUES"], rows))
    out()
    searched = config.over.get("train.epochs")
    epochs = max(searched.samples) if searched is not None else train.epochs
    out(
        f"{config.size} trials of {epochs} epochs: at most {config.size * epochs} times over the training rows; "
        f"{config.scheduler} "
        + ("stops none early" if config.scheduler in {"none", "pbt"} else "stops weak ones")
    )
    out()
    if config.search == "grid":
        trials = list(grid(config))
        numbered = [
            (number, *(shown(value) for value in values.values()))
            for number, values in enumerate(trials[:MOST_SHOWN], start=1)
        ]
        out(table(["TRIAL", *config.over], numbered))
        if len(trials) > MOST_SHOWN:
            out(f"and {len(trials) - MOST_SHOWN} more")
        out()
