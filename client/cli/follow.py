"""Follow a pipeline to its end: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import datetime as dt
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from raymill.client.cli.board import Board, Row
from raymill.client.cli.output import NOTHING, duration, say, table
from raymill.client.types import JobEvent, Pipeline

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from raymill.client.sdk import Raymill

LINE_EVERY_S = 10.0
"""Progress of one step is written at most this often where there is no terminal."""

STYLES = {"succeeded": "green", "reused": "cyan", "failed": "red", "dead": "red", "running": "yellow"}
MARKS = {"succeeded": "✓", "reused": "✓", "failed": "✗", "dead": "✗", "cancelled": "✗", "running": "▸"}


class View(Protocol):
    """Where progress is shown."""

    def changed(self, row: Row) -> None:
        """A step's state changed."""
        ...

    def moved(self, row: Row) -> None:
        """A step made progress."""
        ...

    def log(self, row: Row, text: str) -> None: ...


def follow(client: Raymill, pipeline: Pipeline) -> Pipeline:
    """Show a pipeline's progress on stderr until it is over, also across restarts of the service."""
    board = Board(pipeline)
    with open_view(board) as view:
        for row in board.rows.values():
            if row.job.state != "queued":
                view.changed(row)
        for event in client.pipelines.events(pipeline.id):
            show(event, board, view, client)
        for row in board.refresh(client.pipelines.wait(pipeline.id)):
            view.changed(row)
    return board.pipeline


def show(event: JobEvent, board: Board, view: View, client: Raymill) -> None:
    """Let one event change the board, and the view tell of it."""
    if event.kind == "state":
        # The event tells that something changed; the snapshot tells what, for all steps at once.
        for row in board.refresh(client.pipelines.get(board.pipeline.id)):
            view.changed(row)
    elif event.kind == "log":
        if event.job_id in board.rows:
            view.log(board.rows[event.job_id], str(event.data.get("text", "")))
    elif (moved := board.take(event)) is not None:
        view.moved(moved)


@contextmanager
def open_view(board: Board) -> Iterator[View]:
    if not sys.stderr.isatty():
        yield Lines()
        return
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    with Live(get_renderable=lambda: draw(board), console=console, refresh_per_second=4) as live:
        yield Screen(live.console)


class Lines:
    """One line for every change of state, and for progress now and then."""

    def __init__(self) -> None:
        self._said_s: dict[str, float] = {}

    def changed(self, row: Row) -> None:
        seconds = row.seconds(_now())
        took = (
            f" after {duration(seconds)}"
            if row.is_over and row.label != "reused" and seconds is not None
            else ""
        )
        attempt = f" (attempt {row.job.attempt})" if row.job.attempt > 1 and not row.is_over else ""
        say(f"{row.name:<18} {row.label}{took}{attempt}{': ' if row.detail else ''}{row.detail}")

    def moved(self, row: Row) -> None:
        now_s = time.monotonic()
        finished = 0 < row.total <= row.done
        if finished or now_s - self._said_s.get(row.name, float("-inf")) >= LINE_EVERY_S:
            self._said_s[row.name] = now_s
            say(f"{row.name:<18} {row.detail}")

    def log(self, row: Row, text: str) -> None:
        say(f"{row.name:<18} {text.rstrip()}")


class Screen:
    """The live table draws itself from the board; only what a step says is printed, above the table."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def changed(self, row: Row) -> None:
        """The table shows it."""

    def moved(self, row: Row) -> None:
        """The table shows it."""

    def log(self, row: Row, text: str) -> None:
        self._console.print(f"{row.name}: {text.rstrip()}", markup=False, highlight=False, style="dim")


def draw(board: Board) -> RenderableType:
    """One line for each step: mark, name, time, bar, what it does or made."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    now = _now()
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True, justify="right")
    grid.add_column(ratio=1)
    for row in board.rows.values():
        style = STYLES.get(row.label, "dim")
        detail: RenderableType = Text(row.detail or row.label, style="" if row.detail else style)
        if row.total and not row.is_over:
            line = Table.grid(padding=(0, 1))
            line.add_row(ProgressBar(total=row.total, completed=row.done, width=20), detail)
            detail = line
        elif row.label == "reused":
            detail = Text(f"reused: {row.detail}", style=style)
        mark = Text(MARKS.get(row.label, "·"), style=style)
        grid.add_row(mark, row.name, duration(row.seconds(now)), detail)
    return grid


def final_table(pipeline: Pipeline) -> str:
    """Every step with its time and result."""
    now = _now()
    rows = [
        (row.name, row.label, NOTHING if row.label == "reused" else duration(row.seconds(now)), row.detail)
        for row in Board(pipeline).rows.values()
    ]
    return table(["STEP", "STATE", "TIME", "RESULT"], rows)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
