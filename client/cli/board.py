"""What is known of a pipeline while it runs: one row for each step, from snapshots and events.

Draws nothing; `follow.py` does. Times are seconds; the clock is the service's, as its answers tell it.
"""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import dataclass

from raymill.client.cli.output import duration
from raymill.client.cli.results import summary
from raymill.client.types import TERMINAL, Job, JobEvent, JsonObject, Pipeline, State

WAITING: State = "queued"


@dataclass
class Row:
    """A step, as it is shown."""

    job: Job
    detail: str = ""
    """What it is doing, or what it made."""

    done: float = 0.0
    total: float = 0.0
    """0 when there is nothing to count."""

    @property
    def name(self) -> str:
        return self.job.step

    @property
    def label(self) -> str:
        """The state in a word; a step whose result was there already is `reused`."""
        return "reused" if self.job.reused_job_id is not None else self.job.state

    @property
    def is_over(self) -> bool:
        return self.job.state in TERMINAL

    def seconds(self, now: dt.datetime) -> float | None:
        """How long it ran; None before it started."""
        if self.job.started_at is None:
            return None
        return max(0.0, ((self.job.finished_at or now) - self.job.started_at).total_seconds())


class Board:
    """The rows of one pipeline, in the order in which they run."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.rows: dict[uuid.UUID, Row] = {}
        self.refresh(pipeline)

    def refresh(self, pipeline: Pipeline) -> list[Row]:
        """Take a newer snapshot. Returns the rows whose state changed."""
        self.pipeline = pipeline
        changed: list[Row] = []
        for job in pipeline.jobs:
            row = self.rows.get(job.id)
            if row is None:
                row = self.rows[job.id] = Row(job=job)
                known = job.state == WAITING
            else:
                known = row.label == Row(job=job).label and row.job.attempt == job.attempt
                row.job = job
            if not known:
                changed.append(row)
                row.detail = summary(job) if row.is_over else ""
                row.done = row.total = 0.0
        return changed

    def take(self, event: JobEvent) -> Row | None:
        """Let a progress event change its row. Returns the row when it did."""
        row = self.rows.get(event.job_id)
        if row is None or row.is_over:
            return None
        data = event.data
        match event.kind:
            case "phase":
                row.detail, row.done, row.total = str(data.get("name", "")), 0.0, 0.0
            case "step":
                row.detail = training_line(data)
                row.done, row.total = _float(data, "step"), _float(data, "total")
            case "progress":
                row.done, row.total = _float(data, "done"), _float(data, "total")
                row.detail = f"{row.done:,.0f} of {row.total:,.0f} {data.get('what', '')}".rstrip()
            case _:
                return None
        return row


def training_line(data: JsonObject) -> str:
    """`step 120 of 375, loss 0.412, 8,500 tokens/s, 0:40 left`."""
    parts = [f"step {_float(data, 'step'):,.0f} of {_float(data, 'total'):,.0f}"]
    if isinstance(data.get("loss"), int | float):
        parts.append(f"loss {data['loss']:.4g}")
    if isinstance(data.get("reward_margin"), int | float):
        parts.append(f"margin {data['reward_margin']:.3g}")
    if isinstance(data.get("tokens_per_s"), int | float):
        parts.append(f"{data['tokens_per_s']:,.0f} tokens/s")
    if isinstance(data.get("eta_s"), int | float):
        parts.append(f"{duration(data['eta_s'])} left")
    return ", ".join(parts)


def _float(data: JsonObject, key: str) -> float:
    value = data.get(key)
    return float(value) if isinstance(value, int | float) else 0.0
