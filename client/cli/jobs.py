"""`raymill jobs`: the steps of pipelines."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from raymill.client.cli.app import DEFAULT_LIMIT, Json, Limit, connect, new_app
from raymill.client.cli.output import out, out_json, table
from raymill.client.cli.results import summary
from raymill.client.types import Job, State
from raymill.policies.errors import RaymillError

app = new_app("Steps of pipelines.")
JobId = Annotated[str, typer.Argument(metavar="ID", help="Id of a job.", show_default=False)]


@app.command("list")
def list_jobs(
    state: Annotated[State | None, typer.Option(help="Only those in this state.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only those of this kind, such as train.")] = None,
    pipeline: Annotated[str | None, typer.Option(help="Only those of the pipeline with this id.")] = None,
    limit: Limit = DEFAULT_LIMIT,
    as_json: Json = False,
) -> None:
    """Jobs, the newest first."""
    with connect() as client:
        found = list(client.jobs.list(state=state, kind=kind, pipeline_id=pipeline, limit=limit))
    if as_json:
        out_json(found)
        return
    rows = [(j.id, j.name, j.step, j.state, f"{j.attempt}/{j.max_attempts}", j.created_at) for j in found]
    out(table(["ID", "NAME", "STEP", "STATE", "ATTEMPT", "CREATED"], rows))


@app.command()
def show(job_id: JobId, as_json: Json = False) -> None:
    """One job: state, times, address and result."""
    with connect() as client:
        job = client.jobs.get(job_id)
    out_json(job) if as_json else out(details(job))


def details(job: Job) -> str:
    rows = [
        ("name", job.name),
        ("step", f"{job.step} ({job.kind}, {job.queue})"),
        ("state", job.state),
        ("attempt", f"{job.attempt} of {job.max_attempts}"),
        ("address", job.address),
        ("reused from", job.reused_job_id),
        ("started", job.started_at),
        ("finished", job.finished_at),
        ("result", summary(job)),
    ]
    return table(["JOB", str(job.id)], rows)


@app.command()
def logs(
    job_id: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job is over.")] = False,
    attempt: Annotated[
        int | None, typer.Option(min=1, help="Of this attempt; the newest by default.")
    ] = None,
    as_json: Json = False,
) -> None:
    """What the job wrote."""
    with connect() as client:
        pieces = client.jobs.logs(job_id, attempt=attempt, follow=follow)
        if as_json:
            out_json({"job_id": job_id, "text": "".join(pieces)})
            return
        for piece in pieces:
            sys.stdout.write(piece)
            sys.stdout.flush()


@app.command()
def wait(
    job_id: JobId,
    timeout: Annotated[float | None, typer.Option(min=0, help="Give up after so many seconds.")] = None,
    as_json: Json = False,
) -> None:
    """Wait until it is over. Exit 1 unless it succeeded."""
    with connect() as client:
        job = client.jobs.wait(job_id, timeout_s=timeout)
    out_json(job) if as_json else out(details(job))
    if job.state != "succeeded":
        raise RaymillError(f"job {job.id} {job.state}: {job.error or 'see `raymill jobs logs`'}")


@app.command()
def cancel(job_id: JobId, as_json: Json = False) -> None:
    """Stop it, and with it what depends on it."""
    with connect() as client:
        job = client.jobs.cancel(job_id)
    out_json(job) if as_json else out(f"{job.id} {job.state}")
