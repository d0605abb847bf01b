"""What Ray Tune tells of trials, as records: kept in memory by its calls, written down between its steps.

Errors of the store, and a cancel or pause, are raised between two steps of Ray Tune, which wraps what is raised
elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune import Callback

from raymill.cluster.context import JsonObject
from raymill.cluster.plain import last_line
from raymill.registry.tables import TrialState
from raymill.registry.trials import TrialRecord
from raymill.tune.store import TrialStore
from raymill.tune.trial import STEPS

REPORTED = (STEPS, "validation_loss", "final_loss", "seconds", "tokens")

Tell = Callable[..., None]
"""`JobContext.event`."""


def trial_id(number: int) -> str:
    """The same for each process that runs the search."""
    return f"{number:05d}"


class Recorder(Callback):  # type: ignore[misc]
    """The records of one search."""

    def __init__(
        self, store: TrialStore, root: Path, metric: str, tell: Tell, check: Callable[[], None], size: int
    ) -> None:
        self._store = store
        self._root = root
        self._metric = metric
        self._tell = tell
        self._check = check
        self._size = size
        self._changed: set[int] = set()
        self.records = {record.number: record for record in store.load()}

    def add(self, number: int, config: JsonObject) -> None:
        self.records[number] = TrialRecord(number=number, config=config)
        self._changed.add(number)

    def on_trial_result(self, *, trial: Any, result: JsonObject, **_: Any) -> None:
        record = self._record(trial)
        if "refusal" in result:
            record.state, record.error = TrialState.FAILED, result["refusal"]
            return
        record.config = dict(trial.config)
        record.steps, record.total_steps = result[STEPS], result["total_steps"]
        record.metric, record.seconds = result[self._metric], result["seconds"]
        if (source := result.get("copied_from")) is not None:
            record.copies.append({STEPS: result["copied_at"], "trial": int(source)})
            # What it had learnt is gone with its weights.
            record.reports = [report for report in record.reports if report[STEPS] <= result["copied_at"]]
        # A trial that lost its process reports some steps again.
        record.reports = [report for report in record.reports if report[STEPS] != record.steps]
        record.reports.append({key: result[key] for key in REPORTED if key in result})
        self._tell("trial", number=record.number, state="running", steps=record.steps, loss=record.metric)

    def on_checkpoint(self, *, trial: Any, checkpoint: Any, **_: Any) -> None:
        self._record(trial).checkpoint = os.path.relpath(checkpoint.path, self._root)

    def on_trial_complete(self, *, trial: Any, **_: Any) -> None:
        record = self._record(trial)
        if record.state is TrialState.RUNNING:
            whole = 0 < record.total_steps <= record.steps
            record.state = TrialState.FINISHED if whole else TrialState.STOPPED
        self._tell_end(record)

    def on_trial_error(self, *, trial: Any, **_: Any) -> None:
        record = self._record(trial)
        record.state = TrialState.FAILED
        record.error = reason_of(trial) or "its process ended: see the workers' logs in Ray"
        self._tell_end(record)

    def on_trial_recover(self, *, trial: Any, **_: Any) -> None:
        record = self._record(trial)
        self._tell("log", text=f"trial {record.number} lost its process and goes on from step {record.steps}")

    def on_step_end(self, **_: Any) -> None:
        self.flush()
        self._check()

    def flush(self) -> None:
        for number in sorted(self._changed):
            self._store.save(self.records[number])
        self._changed.clear()

    def get_state(self) -> JsonObject | None:
        return None

    def _record(self, trial: Any) -> TrialRecord:
        record = self.records[int(trial.trial_id)]
        self._changed.add(record.number)
        return record

    def _tell_end(self, record: TrialRecord) -> None:
        over = sum(each.state.over for each in self.records.values())
        self._tell(
            "trial", number=record.number, state=record.state.value, steps=record.steps, loss=record.metric
        )
        self._tell("progress", done=over, total=self._size, what="trials")


def reason_of(trial: Any) -> str:
    """What a person needs of a trial's error file."""
    path = trial.error_file
    return last_line(Path(path).read_text(errors="replace"))[:500] if path and Path(path).is_file() else ""
