"""Curves as a picture, PNG or SVG: one panel for each metric, one colour for each run. Pillow draws the PNG.

Both are made of the same lines and words. Knows no database.

Units: pixels, from the upper left corner.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from typing import Any, Protocol
from xml.sax.saxutils import escape

from raymill.client.types import ImageFormat

Points = Sequence[Mapping[str, Any]]
At = tuple[float, float]

MEDIA: Mapping[ImageFormat, str] = {"png": "image/png", "svg": "image/svg+xml"}

WIDTH, PANEL, HEAD = 960, 300, 36
LEFT, RIGHT, TOP, BOTTOM = 84, 24, 30, 40
COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f")
INK, GRID = "#374151", "#e5e7eb"
FINER = 2
"""A PNG is drawn so many times larger, so that its lines look smooth."""

TICKS = 5


class Canvas(Protocol):
    def line(self, points: Sequence[At], colour: str, width: float) -> None: ...
    def words(self, at: At, text: str, anchor: str, size: float, colour: str = INK) -> None:
        """`anchor`: start, middle or end."""

    def file(self) -> bytes:
        """The finished picture."""


class Svg:
    def __init__(self, height: float) -> None:
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:g}" '
            f'viewBox="0 0 {WIDTH} {height:g}" font-family="sans-serif">',
            f'<rect width="{WIDTH}" height="{height:g}" fill="white"/>',
        ]

    def line(self, points: Sequence[At], colour: str, width: float) -> None:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width:g}"/>'
        )

    def words(self, at: At, text: str, anchor: str, size: float, colour: str = INK) -> None:
        self._parts.append(
            f'<text x="{at[0]:.1f}" y="{at[1]:.1f}" text-anchor="{anchor}" font-size="{size:g}" '
            f'fill="{colour}">{escape(text)}</text>'
        )

    def file(self) -> bytes:
        return "\n".join([*self._parts, "</svg>\n"]).encode()


class Png:
    def __init__(self, height: float) -> None:
        from PIL import Image, ImageDraw

        self._image = Image.new("RGB", (WIDTH * FINER, round(height) * FINER), "white")
        self._draw = ImageDraw.Draw(self._image)

    def line(self, points: Sequence[At], colour: str, width: float) -> None:
        scaled = [(x * FINER, y * FINER) for x, y in points]
        self._draw.line(scaled, fill=colour, width=max(1, round(width * FINER)), joint="curve")

    def words(self, at: At, text: str, anchor: str, size: float, colour: str = INK) -> None:
        from PIL import ImageFont

        font = ImageFont.load_default(size * FINER)
        side = {"start": "l", "middle": "m", "end": "r"}[anchor]
        self._draw.text((at[0] * FINER, at[1] * FINER), text, fill=colour, font=font, anchor=f"{side}s")

    def file(self) -> bytes:
        from PIL import Image

        small = self._image.resize((WIDTH, self._image.height // FINER), Image.Resampling.LANCZOS)
        found = io.BytesIO()
        small.save(found, format="PNG")
        return found.getvalue()


def canvas_of(image: ImageFormat, height: float) -> Canvas:
    return Svg(height) if image == "svg" else Png(height)


def draw_runs(curves: Mapping[str, Points], metrics: Sequence[str], image: ImageFormat) -> bytes:
    """Curves by the names of their runs, as the bytes of a file."""
    canvas = canvas_of(image, height_of(metrics))
    draw(canvas, curves, metrics)
    return canvas.file()


def height_of(metrics: Sequence[str]) -> float:
    return HEAD + PANEL * len(metrics)


def draw(
    canvas: Canvas,
    curves: Mapping[str, Points],
    metrics: Sequence[str],
    colours: Mapping[str, str] | None = None,
) -> None:
    """`colours` by the names of the curves, where they mean something."""
    colours = colours or dict(zip(curves, cycle(COLOURS), strict=False))
    x = float(LEFT)
    for name in islice(curves, len(COLOURS)):
        canvas.line([(x, 20), (x + 18, 20)], colours[name], 3)
        canvas.words((x + 24, 24), name, "start", 13)
        x += 40 + 7.5 * len(name)
    for number, metric in enumerate(metrics):
        panel(canvas, curves, metric, HEAD + number * PANEL, colours)


def panel(
    canvas: Canvas, curves: Mapping[str, Points], metric: str, top: float, colours: Mapping[str, str]
) -> None:
    """One metric; with the loss also the loss on held-out rows, drawn thin."""
    drawn = [(name, metric, 1.8) for name in curves]
    if metric == "loss":
        drawn += [(name, "validation_loss", 1.0) for name in curves]
    series = {
        (name, key): [(float(p["step"]), float(p[key])) for p in curves[name] if is_number(p.get(key))]
        for name, key, _ in drawn
    }
    everything = [at for line in series.values() for at in line]
    upper, lower, right = top + TOP, top + PANEL - BOTTOM, WIDTH - RIGHT
    canvas.words((LEFT, top + TOP - 10), metric.replace("_", " "), "start", 14)
    canvas.line([(LEFT, upper), (LEFT, lower), (right, lower)], INK, 1)
    if not everything:
        canvas.words(((LEFT + right) / 2, (upper + lower) / 2), "nothing yet", "middle", 14)
        return
    steps, values = ticks([step for step, _ in everything]), ticks([value for _, value in everything])

    def place(step: float, value: float) -> At:
        across = (step - steps[0]) / (steps[-1] - steps[0])
        up = (value - values[0]) / (values[-1] - values[0])
        return LEFT + across * (right - LEFT), lower - up * (lower - upper)

    for value in values:
        y = place(steps[0], value)[1]
        canvas.line([(LEFT, y), (right, y)], GRID, 1)
        canvas.words((LEFT - 8, y + 4), f"{value:.6g}", "end", 12)
    for step in steps:
        canvas.words((place(step, values[0])[0], lower + 18), f"{step:.6g}", "middle", 12)
    for name, key, width in drawn:
        line = [place(*at) for at in series[name, key]]
        if len(line) == 1:
            x, y = line[0]
            line = [(x - 2, y), (x + 2, y)]
        if line:
            canvas.line(line, colours[name], width)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def ticks(values: Sequence[float]) -> list[float]:
    """Round numbers from below the least to above the greatest, about `TICKS` of them."""
    least, most = min(values), max(values)
    if least == most:
        least, most = least - (abs(least) or 1) / 2, most + (abs(most) or 1) / 2
    rough = (most - least) / TICKS
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(scale * each for each in (1, 2, 2.5, 5, 10) if scale * each >= rough)
    first, last = math.floor(least / step), math.ceil(most / step)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]
