"""`raymill run`: post a recipe, show its progress, end as it ended. `raymill train` does so too."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raymill.client.cli.app import Json, connect, new_app
from raymill.client.cli.output import out, out_json, say, table
from raymill.client.types import Pipeline, Plan
from raymill.policies.errors import RaymillError

if TYPE_CHECKING:
    from raymill.client.recipe import Recipe

run_app = new_app()

RecipeFile = Annotated[Path, typer.Argument(help="Recipe, such as recipe.yaml.", show_default=False)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check it and show what would run; write nothing.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Do not wait for its end; print its id.")]


@run_app.command()
def run(recipe: RecipeFile, dry_run: DryRun = False, no_wait: NoWait = False, as_json: Json = False) -> None:
    """Run a recipe from data to a served model. Steps that were made before are reused.

    Exit 0 when every step succeeded, 1 when one did not, 2 when the recipe is wrong.
    """
    from raymill.client.recipe import load_recipe

    start(load_recipe(recipe), dry_run=dry_run, no_wait=no_wait, as_json=as_json)


def start(recipe: Recipe, *, dry_run: bool, no_wait: bool, as_json: bool) -> None:
    with connect() as client:
        if dry_run:
            print_plan(client.pipelines.plan(recipe.resolved()), as_json=as_json)
            return
        pipeline = client.pipelines.create(recipe.resolved())
    follow_unless(no_wait, pipeline, as_json=as_json)


def follow_unless(no_wait: bool, pipeline: Pipeline, *, as_json: bool) -> None:
    """Watch a pipeline, or only say which it is."""
    if not no_wait:
        watch(pipeline, as_json=as_json)
    elif as_json:
        out_json(pipeline)
    else:
        out(str(pipeline.id))


def watch(pipeline: Pipeline, *, as_json: bool) -> None:
    """Follow a pipeline to its end and print what came of it. Exit 1 unless it succeeded."""
    from raymill.client.cli.follow import final_table, follow

    say(f"pipeline {pipeline.id} ({pipeline.name})")
    try:
        with connect() as client:
            ended = follow(client, client.pipelines.get(pipeline.id))
    except KeyboardInterrupt:
        say(
            f"it goes on without you: `raymill pipeline watch {pipeline.id}`, or `pipeline cancel` to stop it"
        )
        raise
    if as_json:
        out_json(ended)
    else:
        out(final_table(ended))
    if ended.state != "succeeded":
        raise RaymillError(f"pipeline {ended.id} {ended.state}: {reason(ended)}")


def reason(pipeline: Pipeline) -> str:
    """Why it did not succeed, in one line."""
    failed = [job for job in pipeline.jobs if job.state in {"failed", "dead"}]
    text = pipeline.error or "; ".join(f"{job.step}: {job.error}" for job in failed)
    cure = f"; `raymill jobs logs {failed[0].id}` tells more" if failed else ""
    return " ".join(text.split()) + cure if text else f"see `raymill pipeline show {pipeline.id}`"


def print_plan(plan: Plan, *, as_json: bool) -> None:
    if as_json:
        out_json(plan)
        return
    import yaml

    out(yaml.safe_dump(plan.recipe, sort_keys=False, allow_unicode=True).rstrip())
    out()
    out(table(["STEP", "KIND", "AFTER"], [(s.step, s.kind, s.depends_on) for s in plan.steps]))
