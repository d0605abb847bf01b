"""Where trials are written down as they go: rows of the registry, or files for a search without one."""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from raymill.registry import trials
from raymill.registry.database import Database
from raymill.registry.tables import TrialState
from raymill.registry.trials import TrialRecord


class TrialStore(Protocol):
    """What a search needs to go on after its process died."""

    def load(self) -> list[TrialRecord]:
        """All trials, by number."""
        ...

    def save(self, record: TrialRecord) -> None: ...


class RowStore:
    """The rows of a job. Raises LeaseLost once another attempt owns it."""

    def __init__(self, database: Database, job_id: uuid.UUID, epoch: int) -> None:
        self._database = database
        self._job_id = job_id
        self._epoch = epoch

    def load(self) -> list[TrialRecord]:
        return self._database.patiently(lambda session: trials.load(session, self._job_id))

    def save(self, record: TrialRecord) -> None:
        self._database.patiently(lambda session: trials.save(session, self._job_id, self._epoch, record))


class FileStore:
    """One JSON file for each trial."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def load(self) -> list[TrialRecord]:
        found = [json.loads(path.read_text()) for path in sorted(self._directory.glob("*.json"))]
        return [TrialRecord(**{**data, "state": TrialState(data["state"])}) for data in found]

    def save(self, record: TrialRecord) -> None:
        path = self._directory / f"{record.number:05d}.json"
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(record)))
        partial.rename(path)
