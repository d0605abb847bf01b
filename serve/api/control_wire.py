"""From rows of queues and their numbers to wire types."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from raymill.client import control_types as wire
from raymill.registry import tables
from raymill.registry.jobs.stats import QueueStats


def queue(row: tables.Queue) -> wire.Queue:
    return wire.Queue.model_validate(row, from_attributes=True)


def queue_stats(found: QueueStats) -> wire.QueueStats:
    return wire.QueueStats.model_validate(found, from_attributes=True)


def job_stats(found: Sequence[QueueStats]) -> wire.JobStats:
    return wire.JobStats(at=dt.datetime.now(dt.UTC), queues=[queue_stats(each) for each in found])
