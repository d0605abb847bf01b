"""Places where a test may end the process, as a lost machine would: before and after each write of the engine.

`RAYMILL_FAILPOINTS="claim:after=exit"` ends the process the first time that it gets there; `complete:before=3*exit`
the third time. Unset, as it is outside tests, a failpoint costs one look at an empty dictionary.
"""

from __future__ import annotations

import os
import re
import threading

from raymill.policies.errors import Invalid

EXIT_CODE = 86
"""Of a process that a failpoint ended."""

_lock = threading.Lock()


def parse(text: str) -> dict[str, int]:
    """Failpoint -> how often it is reached until the process ends. Raises Invalid."""
    active: dict[str, int] = {}
    for part in filter(None, text.split(",")):
        found = re.fullmatch(r"([a-z_]+:(?:before|written|after))=(?:(\d+)\*)?exit", part.strip())
        if found is None:
            raise Invalid(f"RAYMILL_FAILPOINTS holds {part!r}: write NAME:before=exit or NAME:after=3*exit")
        active[found[1]] = int(found[2] or 1)
    return active


_active = parse(os.environ.get("RAYMILL_FAILPOINTS", ""))


def failpoint(name: str) -> None:
    """End the process here, when a test has asked for that."""
    if not _active:
        return
    with _lock:
        left = _active.get(name)
        if left is None:
            return
        _active[name] = left - 1
        if left == 1:
            os._exit(EXIT_CODE)
