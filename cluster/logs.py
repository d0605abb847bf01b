"""How every process of the service logs: lines for people, or JSON lines for programs (`RAYMILL_LOG_FORMAT=json`).

A JSON line is one object: `at` (UTC), `level`, `part`, `logger`, `message`, where it is known `request_id`, `job_id` and
`trace_id`, and `error` with a traceback. Which request or job a line is about is kept in a context variable, so whatever is
called for it tells the same. Standard library only: the gateway's ingester starts fast.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from logging.handlers import WatchedFileHandler
from pathlib import Path

from raymill.registry import trace_context

VARIABLE = "RAYMILL_LOG_FORMAT"
TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
MAX_FILE_BYTES = 64 << 20

_about: ContextVar[dict[str, str]] = ContextVar("raymill_log_about", default={})  # noqa: B039 (never changed in place)


def about(**fields: str | None) -> None:
    """What this task or thread logs from now on is about these, beside what it was about already."""
    _about.set({**_about.get(), **{name: value for name, value in fields.items() if value}})


@contextlib.contextmanager
def only_about(**fields: str | None) -> Iterator[None]:
    """What is logged in the block is about these alone."""
    token = _about.set({name: value for name, value in fields.items() if value})
    try:
        yield
    finally:
        _about.reset(token)


class JsonLines(logging.Formatter):
    """One JSON object on each line."""

    def __init__(self, part: str) -> None:
        super().__init__()
        self._part = part

    def format(self, record: logging.LogRecord) -> str:
        at = dt.datetime.fromtimestamp(record.created, dt.UTC)
        line = {
            "at": at.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "part": self._part,
            "logger": record.name,
            "message": record.getMessage(),
            **_about.get(),
        }
        if (trace := trace_context.trace_id(trace_context.current())) is not None:
            line["trace_id"] = trace
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def as_json() -> bool:
    """Raises ValueError: the setting is neither text nor json."""
    found = os.environ.get(VARIABLE, "text")
    if found not in {"text", "json"}:
        raise ValueError(f"{VARIABLE} is {found!r}: set it to text or json")
    return found == "json"


def set_up(part: str) -> None:
    """Log to stderr, which whoever started this process appends to a file."""
    _install(logging.StreamHandler(sys.stderr), part)


def set_up_replica(part: str, folder: Path) -> None:
    """Log to `<folder>/<part>.log`, beside all replicas of this part: Ray keeps a worker's stderr under no name that anyone
    could guess. Of other packages only warnings."""
    path = folder / f"{part}.log"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > MAX_FILE_BYTES:
            path.replace(path.with_suffix(".log.1"))
        handler: logging.Handler = WatchedFileHandler(path)
    except OSError:  # a full disk takes the log, not the service
        handler = logging.StreamHandler(sys.stderr)
    _install(handler, part, level=logging.WARNING)
    logging.getLogger("raymill").setLevel(logging.INFO)


def _install(handler: logging.Handler, part: str, level: int = logging.INFO) -> None:
    json_lines = as_json()
    handler.setFormatter(JsonLines(part) if json_lines else logging.Formatter(TEXT))
    # A copy of the warm process has its handlers already: for programs they are replaced, for the part's name.
    logging.basicConfig(level=level, handlers=[handler], force=json_lines)
