"""`raymill pipeline`: recipes being run."""

from __future__ import annotations

from typing import Annotated

import typer

from raymill.client.cli.app import DEFAULT_LIMIT, Json, Limit, connect, new_app
from raymill.client.cli.output import out, out_json, table
from raymill.client.cli.run import watch
from raymill.client.types import State

app = new_app("Recipes being run.")
PipelineId = Annotated[str, typer.Argument(metavar="ID", help="Id of a pipeline.", show_default=False)]


@app.command("list")
def list_pipelines(
    state: Annotated[State | None, typer.Option(help="Only those in this state.")] = None,
    name: Annotated[str | None, typer.Option(help="Only those of this model.")] = None,
    limit: Limit = DEFAULT_LIMIT,
    as_json: Json = False,
) -> None:
    """Pipelines, the newest first."""
    with connect() as client:
        found = list(client.pipelines.list(state=state, name=name, limit=limit))
    if as_json:
        out_json(found)
        return
    rows = [(p.id, p.name, p.state, p.created_by, p.created_at, p.finished_at) for p in found]
    out(table(["ID", "NAME", "STATE", "BY", "CREATED", "FINISHED"], rows))


@app.command()
def show(pipeline_id: PipelineId, as_json: Json = False) -> None:
    """One pipeline and its steps."""
    from raymill.client.cli.follow import final_table

    with connect() as client:
        pipeline = client.pipelines.get(pipeline_id)
    if as_json:
        out_json(pipeline)
        return
    out(f"{pipeline.name} {pipeline.state}, started by {pipeline.created_by}")
    out(final_table(pipeline))


@app.command("watch")
def watch_pipeline(pipeline_id: PipelineId, as_json: Json = False) -> None:
    """Show its progress until it is over. Exit 1 unless it succeeded."""
    with connect() as client:
        pipeline = client.pipelines.get(pipeline_id)
    watch(pipeline, as_json=as_json)


@app.command()
def cancel(pipeline_id: PipelineId, as_json: Json = False) -> None:
    """Stop it. What its steps finished stays, and is reused by the next run."""
    with connect() as client:
        pipeline = client.pipelines.cancel(pipeline_id)
    out_json(pipeline) if as_json else out(f"{pipeline.id} {pipeline.state}")


@app.command()
def pause(pipeline_id: PipelineId, as_json: Json = False) -> None:
    """Let its steps rest: those that wait at once, one that runs once its worker has stopped."""
    with connect() as client:
        pipeline = client.pipelines.pause(pipeline_id)
    if as_json:
        out_json(pipeline)
        return
    asked = [job.step for job in pipeline.jobs if job.pause_requested_at is not None]
    out(f"{pipeline.id} rests" + (f" once {', '.join(asked)} has stopped" if asked else ""))


@app.command()
def resume(pipeline_id: PipelineId, as_json: Json = False) -> None:
    """Let its paused steps go on."""
    with connect() as client:
        pipeline = client.pipelines.resume(pipeline_id)
    out_json(pipeline) if as_json else out(f"{pipeline.id} is {pipeline.state}")


@app.command()
def retry(pipeline_id: PipelineId, as_json: Json = False) -> None:
    """Run the steps again that ended badly, and those that waited for them. What succeeded stays."""
    with connect() as client:
        pipeline = client.pipelines.retry(pipeline_id)
    out_json(pipeline) if as_json else out(f"{pipeline.id} is {pipeline.state}")
