"""The output of attempts, kept on disk: one file for each, that outlives worker and cluster."""

from __future__ import annotations

import contextlib
import logging
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

from raymill.cluster.settings import Settings
from raymill.registry.tables import Job

LAST_BYTES = 8 << 10


def job_log(settings: Settings, job_id: uuid.UUID, epoch: int) -> Path:
    """Where the output of an attempt lies."""
    return settings.logs_dir / "jobs" / f"{job_id}-{epoch}.log"


def last_lines(settings: Settings, job: Job) -> str | None:
    """The end of what the newest attempt wrote; None when it wrote nothing on this machine."""
    with contextlib.suppress(OSError), job_log(settings, job.id, job.epoch).open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - LAST_BYTES))
        return file.read().decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
    return None


class AttemptLogs(logging.Handler):
    """Writes what a thread logs while it works on an attempt to that attempt's file."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._settings = settings
        self._local = threading.local()
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))

    @contextlib.contextmanager
    def of(self, job_id: uuid.UUID, epoch: int) -> Iterator[None]:
        """What this thread logs in the block is the attempt's. The file is made with its first line."""
        self._local.path = job_log(self._settings, job_id, epoch)
        try:
            yield
        finally:
            self._local.path = None

    def emit(self, record: logging.LogRecord) -> None:
        path: Path | None = getattr(self._local, "path", None)
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a") as file:
                file.write(self.format(record) + "\n")
        except OSError:
            self.handleError(record)
