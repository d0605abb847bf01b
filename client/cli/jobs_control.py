"""`raymill jobs`: what asks something of jobs: submit, pause, resume, retry, redrive; and how queues are doing."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from raymill.client.cli.app import Json, connect
from raymill.client.cli.given import pairs, yaml_section
from raymill.client.cli.output import duration, out, out_json, table
from raymill.client.control_types import REDRIVE_LIMIT, BadEnd, QueueStats

JobId = Annotated[str, typer.Argument(metavar="ID", help="Id of a job.", show_default=False)]
Priority = Literal["low", "normal", "high", "urgent"]
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def submit(
    kind: Annotated[
        str, typer.Argument(help="Kind of job, of a module in RAYMILL_KINDS.", show_default=False)
    ],
    name: Annotated[str, typer.Option(help="What it is about; the kind by default.")] = "",
    config: Annotated[
        Path | None,
        typer.Option("--config", "-f", metavar="FILE", help="YAML or JSON with its configuration."),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One key of its configuration; may be repeated."),
    ] = None,
    queue: Annotated[
        str | None, typer.Option(help="Where it waits; the kind's own queue by default.")
    ] = None,
    priority: Annotated[Priority, typer.Option(help="Before others of its queue.")] = "normal",
    at: Annotated[
        str | None,
        typer.Option(metavar="WHEN", help="Not before: 2030-01-31T08:00+01:00, or 90s, 15m, 2h, 1d."),
    ] = None,
    max_attempts: Annotated[int, typer.Option(min=1, max=100, help="Tries in all.")] = 3,
    concurrency_key: Annotated[
        str | None, typer.Option(help="Of its jobs only so many run at once as --concurrency-limit says.")
    ] = None,
    concurrency_limit: Annotated[int, typer.Option(min=1, help="See --concurrency-key.")] = 1,
    unique_key: Annotated[
        str | None, typer.Option(help="While a job of it has not ended, that one is answered.")
    ] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="The same key and request give the same job, also after it ended.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Submit a job that stands alone. It is safely written when its id is printed."""
    given = {**(yaml_section(config) if config else {}), **pairs(setting or [])}
    with connect() as client:
        job = client.jobs.submit(
            kind,
            given,
            name=name,
            queue=queue,
            priority=priority,
            run_at=moment(at) if at is not None else None,
            max_attempts=max_attempts,
            concurrency_key=concurrency_key,
            concurrency_limit=concurrency_limit,
            unique_key=unique_key,
            idempotency_key=idempotency_key,
        )
    out_json(job) if as_json else out(str(job.id))


def pause(job_id: JobId, as_json: Json = False) -> None:
    """Let it rest: at once when it waits, else once its worker has stopped."""
    with connect() as client:
        job = client.jobs.pause(job_id)
    if as_json:
        out_json(job)
        return
    asked = " and is asked to pause" if job.pause_requested_at is not None else ""
    out(f"{job.id} is {job.state}{asked}")


def resume(job_id: JobId, as_json: Json = False) -> None:
    """Let it go on, from its last checkpoint where it left one."""
    with connect() as client:
        job = client.jobs.resume(job_id)
    out_json(job) if as_json else out(f"{job.id} is {job.state}")


def retry(job_id: JobId, as_json: Json = False) -> None:
    """Run one again that failed, died or was cancelled, and the steps that its end had ended."""
    with connect() as client:
        job = client.jobs.retry(job_id)
    out_json(job) if as_json else out(f"{job.id} is {job.state}")


def redrive(
    state: Annotated[
        list[str] | None,
        typer.Option(help="Those that ended so: dead (the default), failed, cancelled; may be repeated."),
    ] = None,
    queue: Annotated[str | None, typer.Option(help="Only those of this queue.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only those of this kind.")] = None,
    error: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Only those whose error holds this.")
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=REDRIVE_LIMIT, help="At most so many.")
    ] = 1000,
    as_json: Json = False,
) -> None:
    """Run the dead letters again that match, the oldest first."""
    states = cast(list[BadEnd], state or ["dead"])  # checked with all the rest
    with connect() as client:
        again = client.jobs.redrive(states=states, queue=queue, kind=kind, error=error, limit=limit)
    out_json(again) if as_json else out(f"{len(again.ids)} jobs run again")


def stats(as_json: Json = False) -> None:
    """How every queue is doing. Latencies are from when a job could start until it did, in the last hour."""
    with connect() as client:
        found = client.jobs.stats()
    if as_json:
        out_json(found)
        return
    headers = ["QUEUE", "RUNNING", "READY", "OLDEST", "SCHEDULED", "WAITING", "PAUSED", "DEAD", "FAILED/DAY"]
    headers += ["DONE/HOUR", "START P50", "START P99"]
    out(table(headers, [_row(each) for each in found.queues]))


def _row(each: QueueStats) -> tuple[object, ...]:
    running = f"{each.running}" if each.max_running is None else f"{each.running}/{each.max_running}"
    return (
        each.queue if each.paused_at is None else f"{each.queue} (paused)",
        running,
        each.ready,
        duration(each.oldest_ready_s),
        each.scheduled,
        each.waiting,
        each.paused,
        each.dead,
        each.failed_last_day,
        each.finished_last_hour,
        latency(each.start_p50_s),
        latency(each.start_p99_s),
    )


def latency(seconds: float | None) -> str | None:
    """`12 ms`, `3.4 s`, `12:34`."""
    if seconds is None:
        return None
    if seconds < 1:
        return f"{max(0.0, seconds) * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 60 else duration(seconds)


def moment(text: str) -> dt.datetime:
    """`15m` from now, or a time as ISO 8601 has it; without a zone it is local."""
    if found := re.fullmatch(r"(\d{1,6})([smhd])", text):
        return dt.datetime.now(dt.UTC) + dt.timedelta(seconds=int(found[1]) * UNITS[found[2]])
    try:
        return dt.datetime.fromisoformat(text).astimezone(dt.UTC)
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text!r} is no time: write it as 2030-01-31T08:00+01:00, or 15m from now"
        ) from None
