"""Bars of text, as wide as the terminal has room for."""

from __future__ import annotations

from collections.abc import Sequence

EIGHTHS = " ▏▎▍▌▋▊▉"
FULL = "█"
LONGEST = 40


def bars(values: Sequence[float], width: int) -> list[str]:
    """One bar for each value, the greatest `width` characters long; what is not nothing is seen."""
    most = max(values, default=0)
    return [_bar(value / most * width if most > 0 else 0.0, value > 0) for value in values]


def _bar(length: float, seen: bool) -> str:
    eighths = max(round(length * 8), int(seen))
    return (FULL * (eighths // 8) + EIGHTHS[eighths % 8]).rstrip()


def with_bars(lines: Sequence[str], values: Sequence[float], columns: int) -> list[str]:
    """`lines` (the first one is a head) with a bar after each but the head, as far as `columns` allow."""
    widest = max(map(len, lines))
    width = min(LONGEST, columns - widest - 3)
    if width < 4:
        return list(lines)
    drawn = bars(values, width)
    return [
        lines[0],
        *(f"{line:<{widest}}  {bar}".rstrip() for line, bar in zip(lines[1:], drawn, strict=True)),
    ]


DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of a braille character: four rows of two dots."""


def curve(points: Sequence[tuple[float, float]], title: str, columns: int = 60, rows: int = 10) -> list[str]:
    """A line chart of dots: `columns` x `rows` characters, with the least and the greatest value at its side."""
    if not points:
        return [f"{title}: nothing yet"]
    values = [value for _, value in points]
    least, most, first, last = min(values), max(values), points[0][0], points[-1][0]
    cells = [[0] * columns for _ in range(rows)]
    for step, value in points:
        across = (step - first) / (last - first) if last > first else 0.0
        up = (value - least) / (most - least) if most > least else 0.0
        x, y = round(across * (2 * columns - 1)), round((1 - up) * (4 * rows - 1))
        cells[y // 4][x // 2] |= DOTS[y % 4][x % 2]
    labels = [f"{most:.4g}", *[""] * (rows - 2), f"{least:.4g}"]
    wide = max(map(len, labels))
    lines = [
        f"{label:>{wide}} ┤{''.join(chr(0x2800 + bits) for bits in line)}".rstrip("⠀")
        for label, line in zip(labels, cells, strict=True)
    ]
    foot = f"{first:.6g}".ljust(columns - len(f"{last:.6g}")) + f"{last:.6g}"
    return [title, *lines, " " * (wide + 2) + foot]
