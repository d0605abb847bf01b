"""What a job says, in the plain form in which Postgres and people take it."""

from __future__ import annotations

import math
from typing import Any


def first_line(error: BaseException) -> str:
    """What a person needs of an exception; the rest is in the log."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:500] if lines else type(error).__name__


def last_line(said: object) -> str:
    """Where a traceback, or an error of native code, says what happened; empty when nothing was said."""
    return next((line.strip() for line in reversed(str(said).splitlines()) if line.strip()), "")


def as_json(value: Any) -> Any:
    """`value` as Postgres takes it: a loss may be NaN and a log line may hold a NUL, which JSONB refuses."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, str):
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
    if isinstance(value, dict):
        return {as_json(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    return value
