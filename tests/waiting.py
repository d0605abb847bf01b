"""Until something has happened."""

from __future__ import annotations

import time
from collections.abc import Callable


def eventually(condition: Callable[[], object], within_s: float = 60.0, *, every_s: float = 0.01) -> None:
    """Wait until `condition` holds, and fail if it does not."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"the condition did not come true in {within_s:g} s"
        time.sleep(every_s)
