"""`raymill queue`: where jobs wait, and how many of them run at once."""

from __future__ import annotations

from typing import Annotated

import typer

from raymill.client.cli.app import DEFAULT_LIMIT, Json, Limit, connect, new_app
from raymill.client.cli.output import out, out_json, table
from raymill.client.control_types import Queue, Runner

app = new_app("Where jobs wait, and how many of them run at once.")
Name = Annotated[str, typer.Argument(help="Queue, such as short.", show_default=False)]


@app.command("list")
def list_queues(limit: Limit = DEFAULT_LIMIT, as_json: Json = False) -> None:
    """Queues and their limits; `raymill jobs stats` tells how they are doing."""
    with connect() as client:
        found = list(client.queues.list(limit=limit))
    if as_json:
        out_json(found)
        return
    rows = [(q.name, q.runner, most(q), q.paused_at) for q in found]
    out(table(["QUEUE", "RUNNER", "AT ONCE", "PAUSED SINCE"], rows))


@app.command("set")
def set_queue(
    name: Name,
    max_running: Annotated[
        int | None, typer.Option(min=1, help="How many of its jobs run at once, over all workers.")
    ] = None,
    no_limit: Annotated[bool, typer.Option("--no-limit", help="As many as there are workers for.")] = False,
    runner: Annotated[
        Runner | None, typer.Option(help="Of a new queue: a Ray job for each job, or the warm pool.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a queue, or change how many of its jobs run at once."""
    if (max_running is None) != no_limit:
        raise typer.BadParameter("how many run at once? Give one of --max-running and --no-limit")
    with connect() as client:
        made = client.queues.set(name, max_running=max_running, runner=runner)
    out_json(made) if as_json else out(f"{made.name} runs {most(made)} at once ({made.runner})")


@app.command()
def pause(name: Name, as_json: Json = False) -> None:
    """Start nothing of it any more; what runs goes on."""
    with connect() as client:
        found = client.queues.pause(name)
    out_json(found) if as_json else out(f"{found.name} is paused")


@app.command()
def resume(name: Name, as_json: Json = False) -> None:
    """Start its jobs again."""
    with connect() as client:
        found = client.queues.resume(name)
    out_json(found) if as_json else out(f"{found.name} is open")


def most(queue: Queue) -> str:
    return "any number" if queue.max_running is None else str(queue.max_running)
