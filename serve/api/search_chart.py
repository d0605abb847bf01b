"""Pictures of a search: the loss of each trial over its steps, and the values of all trials side by side.

Made of `chart.py`'s lines and words. The better a trial, the darker its colour. Knows no database.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, Protocol

from raymill.client.search_types import PlotKind
from raymill.client.types import ImageFormat
from raymill.serve.api.chart import (
    GRID,
    HEAD,
    INK,
    LEFT,
    PANEL,
    TOP,
    WIDTH,
    Canvas,
    canvas_of,
    draw,
    height_of,
)
from raymill.tune.config import ROOT, Range, TuneConfig

BEST, WORST = (30, 58, 138), (203, 213, 225)
"""Red, green, blue."""

MARGIN = 110
HEIGHT = HEAD + 2 * PANEL


class TrialLike(Protocol):
    """A trial, as a row or a record."""

    @property
    def number(self) -> Any: ...
    @property
    def config(self) -> Any: ...
    @property
    def metric(self) -> Any: ...
    @property
    def reports(self) -> Any: ...


def draw_search(kind: PlotKind, config: TuneConfig, trials: Sequence[TrialLike], image: ImageFormat) -> bytes:
    """The picture as bytes of a file. The same search gives the same bytes."""
    height = height_of([config.metric]) if kind == "curves" else HEIGHT
    canvas = canvas_of(image, height)
    if kind == "curves":
        curves(canvas, config, trials)
    else:
        parallel(canvas, config, trials)
    return canvas.file()


def curves(canvas: Canvas, config: TuneConfig, trials: Sequence[TrialLike]) -> None:
    """The metric of each trial at its reports; the first in the row of names is the best."""
    points, colours = {}, {}
    for trial, colour in coloured(trials):
        name = f"trial {trial.number}"
        points[name] = [{"step": r["steps"], config.metric: r.get(config.metric)} for r in trial.reports]
        colours[name] = colour
    draw(canvas, points, [config.metric], colours)


def parallel(canvas: Canvas, config: TuneConfig, trials: Sequence[TrialLike]) -> None:
    """Parallel coordinates: one axis for each field searched and one for the metric, a line for each trial."""
    told = [trial for trial in trials if trial.metric is not None]
    losses = [trial.metric for trial in told]
    names = [*config.over, config.metric]
    upper, lower = HEAD + TOP, HEIGHT - HEAD
    apart = (WIDTH - LEFT - MARGIN) / max(1, len(names) - 1)
    for trial, colour in reversed(coloured(told)):
        places = [place(config.over[path], trial.config[path]) for path in config.over]
        places.append(share(trial.metric, losses))
        line = [(LEFT + at * apart, lower - up * (lower - upper)) for at, up in enumerate(places)]
        canvas.line(line, colour, 1.8)
    for at, name in enumerate(names):
        x = LEFT + at * apart
        canvas.line([(x, upper), (x, lower)], INK if at == len(names) - 1 else GRID, 2)
        canvas.words((x, upper - 14), name.removeprefix(f"{ROOT}."), "middle", 13)
        for up, text in labels(config.over.get(name), losses):
            canvas.words((x + 5, lower - up * (lower - upper) + 4), text, "start", 11)


def coloured(trials: Sequence[TrialLike]) -> list[tuple[TrialLike, str]]:
    """Best first; those without a metric last."""
    ordered = sorted(trials, key=lambda trial: (trial.metric is None, trial.metric or 0.0, trial.number))
    most = max(1, len(ordered) - 1)
    return [(trial, shade(at / most)) for at, trial in enumerate(ordered)]


def shade(worse: float) -> str:
    """From 0, the best, to 1."""
    mixed = (round(dark + worse * (light - dark)) for dark, light in zip(BEST, WORST, strict=True))
    return "#" + "".join(f"{part:02x}" for part in mixed)


def labels(values: Range | None, losses: Sequence[float]) -> list[tuple[float, str]]:
    """What stands along an axis, from 0 at its foot to 1; without a range the axis of the metric."""
    if values is not None and values.choice is not None:
        return [(place(values, value), short(value)) for value in values.choice]
    if values is not None and values.bounds is not None:
        return [(0.0, f"{values.bounds[0]:.3g}"), (1.0, f"{values.bounds[1]:.3g}")]
    return [(0.0, f"{min(losses):.4g}"), (1.0, f"{max(losses):.4g}")] if losses else []


def place(values: Range, value: Any) -> float:
    """Where a value stands on its axis, 0 to 1."""
    if values.choice is not None:
        return list(values.choice).index(value) / max(1, len(values.choice) - 1)
    assert values.bounds is not None
    low, high = values.bounds
    if values.is_log:
        return (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))
    return float((value - low) / (high - low))


def share(value: float, values: Sequence[float]) -> float:
    low, high = min(values), max(values)
    return (value - low) / (high - low) if high > low else 0.5


def short(value: Any) -> str:
    text = json.dumps(value) if isinstance(value, dict | list) else str(value)
    return text if len(text) <= 24 else f"{text[:21]}..."
