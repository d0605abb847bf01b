"""`raymill jobs`: the steps of pipelines, and jobs that stand alone."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from raymill.client import control_types
from raymill.client.cli import jobs_control
from raymill.client.cli.app import DEFAULT_LIMIT, Json, Limit, connect, new_app
from raymill.client.cli.jobs_control import JobId
from raymill.client.cli.output import out, out_json, table
from raymill.client.cli.results import summary
from raymill.client.types import TERMINAL, Job, State
from raymill.policies.errors import RaymillError

app = new_app("Steps of pipelines, and jobs that stand alone.")
for verb in (
    jobs_control.submit,
    jobs_control.pause,
    jobs_control.resume,
    jobs_control.retry,
    jobs_control.redrive,
    jobs_control.stats,
):
    app.command()(verb)

PRIORITIES = {number: name for name, number in control_types.PRIORITIES.items()}


@app.command("list")
def list_jobs(
    state: Annotated[State | None, typer.Option(help="Only those in this state.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only those of this kind, such as train.")] = None,
    pipeline: Annotated[str | None, typer.Option(help="Only those of the pipeline with this id.")] = None,
    queue: Annotated[str | None, typer.Option(help="Only those of this queue.")] = None,
    name: Annotated[str | None, typer.Option(help="Only those about this, such as a model.")] = None,
    limit: Limit = DEFAULT_LIMIT,
    as_json: Json = False,
) -> None:
    """Jobs, the newest first."""
    with connect() as client:
        listed = client.jobs.list(
            state=state, kind=kind, pipeline_id=pipeline, queue=queue, name=name, limit=limit
        )
        found = list(listed)
    if as_json:
        out_json(found)
        return
    rows = [
        (j.id, j.name, j.step, j.state, f"{j.attempt}/{j.max_attempts}", j.created_at, j.waiting)
        for j in found
    ]
    out(table(["ID", "NAME", "STEP", "STATE", "ATTEMPT", "CREATED", "WAITING"], rows))


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
        ("pipeline", job.pipeline_id or "none, it stands alone"),
        ("state", job.state + asked(job)),
        ("waiting", job.waiting),
        ("priority", PRIORITIES.get(job.priority, job.priority)),
        ("attempt", f"{job.attempt} of {job.max_attempts}"),
        ("failures", [f"{count} {kind}" for kind, count in job.failures.items()]),
        ("losses", f"{job.losses} workers in a row" if job.losses else None),
        ("worker", job.worker),
        *([("dashboard", job.dashboard_url)] if job.dashboard_url else []),
        ("unique key", job.unique_key),
        ("concurrency", f"{job.concurrency_limit} of {job.concurrency_key}" if job.concurrency_key else None),
        ("holds", held(job)),
        ("address", job.address),
        ("reused from", job.reused_job_id),
        ("not before", job.run_at),
        ("started", job.started_at),
        ("finished", job.finished_at),
        ("result", summary(job)),
    ]
    shown = table(["JOB", str(job.id)], rows)
    if job.last_log is None:
        return shown
    return f"{shown}\n\nThe last it wrote, before it was taken for what kills its workers:\n{job.last_log.rstrip()}"


def held(job: Job) -> str:
    """What it holds of the cluster while it runs, such as `8 GPUs (H100), 8 CPUs`."""
    kind = f" ({job.accelerator})" if job.accelerator not in (None, "any") else ""
    counts = [(job.gpus, "GPU", kind), (job.cpus, "CPU", "")]
    return ", ".join(f"{n} {unit}{'' if n == 1 else 's'}{more}" for n, unit, more in counts if n)


def asked(job: Job) -> str:
    """What it has been asked and has not done yet."""
    if job.state in TERMINAL:
        return ""
    if job.cancel_requested_at is not None:
        return ", asked to stop"
    return ", asked to pause" if job.pause_requested_at is not None else ""


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
