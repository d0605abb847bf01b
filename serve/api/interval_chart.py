"""Scores and differences with their intervals as a picture, PNG or SVG, made of `chart.py`'s lines and words.

Knows no database. Units: pixels, from the upper left corner.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raymill.client.evaluation_types import Leaderboard, VersionComparison
from raymill.client.types import ImageFormat
from raymill.serve.api.chart import COLOURS, GRID, INK, RIGHT, WIDTH, Canvas, canvas_of, ticks

NAMES, NUMBERS, ROW, TITLE, AXIS = 300, 90, 26, 40, 44
"""Room for names at the left and numbers at the right; heights of a row, a panel's title and its axis."""

VERDICTS = {"better": COLOURS[2], "worse": COLOURS[1], "no evidence": COLOURS[0]}


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One line of a panel. Without an interval only its value is drawn."""

    name: str
    value: float
    low: float | None
    high: float | None
    colour: str = COLOURS[0]


def draw_comparison(found: VersionComparison, image: ImageFormat) -> bytes:
    """The difference on each task, coloured by verdict, and a line at 0."""
    bars = [
        Bar(name=f"{each.task}: {each.verdict}", value=each.difference, low=each.low, high=each.high,
            colour=VERDICTS[each.verdict])
        for each in found.tasks
    ]  # fmt: skip
    return draw_bars({f"{found.a} minus {found.b}": bars}, image, zero=True)


def draw_leaderboard(found: Leaderboard, image: ImageFormat) -> bytes:
    """The scores on each task, a panel for each."""
    panels: dict[str, list[Bar]] = {}
    for each in found.standings:
        name = " ".join([each.version, *(f"[{alias}]" for alias in each.aliases)])
        panels.setdefault(each.task, []).append(
            Bar(name=name, value=each.score, low=each.low, high=each.high)
        )
    return draw_bars(panels or {"nothing was measured yet": []}, image)


def draw_bars(panels: Mapping[str, Sequence[Bar]], image: ImageFormat, *, zero: bool = False) -> bytes:
    """Panels by their titles, as the bytes of a file. `zero`: 0 is on every axis, with a line."""
    canvas = canvas_of(image, sum(height(bars) for bars in panels.values()))
    top = 0.0
    for title, bars in panels.items():
        canvas.words((RIGHT, top + TITLE - 14), title, "start", 14)
        if bars:
            panel(canvas, bars, top + TITLE, zero)
        top += height(bars)
    return canvas.file()


def height(bars: Sequence[Bar]) -> float:
    return TITLE + len(bars) * ROW + AXIS


def panel(canvas: Canvas, bars: Sequence[Bar], top: float, zero: bool) -> None:
    """The bars of one panel over one axis."""
    values = [at for bar in bars for at in (bar.low, bar.value, bar.high) if at is not None]
    marks = ticks([*values, 0.0] if zero else values)
    lower = top + len(bars) * ROW

    def place(value: float) -> float:
        return NAMES + (value - marks[0]) / (marks[-1] - marks[0]) * (WIDTH - NAMES - NUMBERS)

    for mark in marks:
        x = place(mark)
        canvas.line([(x, top), (x, lower)], INK if zero and mark == 0 else GRID, 1)
        canvas.words((x, lower + 18), f"{mark:.6g}", "middle", 12)
    for number, bar in enumerate(bars):
        y = top + (number + 0.5) * ROW
        canvas.words((NAMES - 12, y + 4), short(bar.name), "end", 12)
        canvas.words((WIDTH - NUMBERS + 16, y + 4), f"{bar.value:.4g}", "start", 12)
        if bar.low is not None and bar.high is not None:
            canvas.line([(place(bar.low), y), (place(bar.high), y)], bar.colour, 2)
        canvas.line([(place(bar.value), y - 6), (place(bar.value), y + 6)], bar.colour, 4)


def short(name: str) -> str:
    return name if len(name) <= 42 else f"{name[:39]}..."
