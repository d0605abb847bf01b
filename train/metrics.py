"""A run's curves: one line for each step, kept beside its checkpoints, and thinned to what a chart can show.

The first worker writes `metrics.jsonl` in the work directory. What a checkpoint keeps is flushed before it; a run that
begins again cuts off what came after its checkpoint, so the file has each step once. Knows nothing of Ray or torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

METRICS = "metrics.jsonl"
CURVES = ("loss", "lr", "grad_norm", "tokens_per_s")
POINTS = 1000
"""Points of a curve that are kept with the run in the registry; the file in the artifact has `FILE_POINTS`."""

FILE_POINTS = 20_000
FLUSH_LINES = 200
DIGITS = 8
TIMES = ("tokens_per_s", "seconds", "eta_s")
"""What the same run does not give again, and so must not lie in an artifact, whose digest is to be the same again."""

Point = dict[str, Any]


class MetricsFile:
    """Appends to a run's curves. `after` says at which step the run goes on: later lines are cut off."""

    def __init__(self, path: Path, *, after: int) -> None:
        self._path = path
        self._lines: list[str] = []
        kept = [point for point in read_points(path) if point["step"] <= after]
        write_points(kept, path)

    def add(self, point: Mapping[str, Any]) -> None:
        self._lines.append(json.dumps(rounded(point)))
        if len(self._lines) >= FLUSH_LINES:
            self.flush()

    def flush(self) -> None:
        if self._lines:
            with self._path.open("a", encoding="utf-8") as file:
                file.write("\n".join(self._lines) + "\n")
            self._lines.clear()


def rounded(point: Mapping[str, Any]) -> Point:
    """Numbers with the digits that are printed; what is no finite number is left out."""
    return {
        key: float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
        for key, value in point.items()
        if not isinstance(value, float) or math.isfinite(value)
    }


def read_points(path: Path) -> list[Point]:
    """The points of a file, a step's last one where it is there twice; a line that a crash cut is left out."""
    if not path.is_file():
        return []
    points: dict[tuple[int, str], Point] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            point = json.loads(line)
            points[point["step"], "validation_loss" if "validation_loss" in point else ""] = point
        except (ValueError, KeyError, TypeError):
            continue
    return [points[key] for key in sorted(points)]


def write_points(points: Iterable[Point], path: Path) -> None:
    partial = path.with_name(f".{path.name}")
    partial.write_text("".join(json.dumps(point) + "\n" for point in points), encoding="utf-8")
    partial.rename(path)


def thinned(points: Sequence[Point], most: int) -> list[Point]:
    """At most `most` points, evenly spaced by number; the first and the last always, and every validation."""
    steps = [point for point in points if "validation_loss" not in point]
    if len(steps) <= most:
        return list(points)
    kept = {round(i * (len(steps) - 1) / (most - 1)) for i in range(most)}
    chosen = [point for number, point in enumerate(steps) if number in kept]
    checked = [point for point in points if "validation_loss" in point][-most:]
    return sorted([*chosen, *checked], key=lambda point: point["step"])


def repeatable(points: Iterable[Point]) -> list[Point]:
    """Without times."""
    return [{key: value for key, value in point.items() if key not in TIMES} for point in points]


def summary(points: Sequence[Point]) -> Point:
    """What a table of runs shows: where the curves began and ended, and the lowest they were."""
    steps = [point for point in points if "loss" in point]
    checked = [point for point in points if "validation_loss" in point]
    found: Point = {}
    if steps:
        lowest = min(steps, key=lambda point: float(point["loss"]))
        found |= {"first_loss": steps[0]["loss"], "final_loss": steps[-1]["loss"]}
        found |= {"lowest_loss": lowest["loss"], "lowest_loss_step": lowest["step"]}
    if checked:
        best = min(checked, key=lambda point: float(point["validation_loss"]))
        found |= {"validation_loss": checked[-1]["validation_loss"]}
        found |= {"best_validation_loss": best["validation_loss"], "best_step": best["step"]}
    return found


class Pace:
    """Which steps are worth an event: every one of a short run, a bounded number of a long one, none too seldom."""

    def __init__(self, steps: int, *, most: int = 2000, seconds: float = 5.0) -> None:
        self._every = max(1, math.ceil(steps / most))
        self._last = steps
        self._seconds = seconds
        self._told_at = -math.inf

    def due(self, step: int, now: float) -> bool:
        """Whether `step` (from 1) is told of, at the time `now` in seconds."""
        if step % self._every and step not in (1, self._last) and now - self._told_at < self._seconds:
            return False
        self._told_at = now
        return True
