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
