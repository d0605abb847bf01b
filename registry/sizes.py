"""Bytes for people, in the command and in what the service says. Standard library only: the command starts fast."""

from __future__ import annotations


def size(count: float) -> str:
    """Bytes for people: `8.4 MB`."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
