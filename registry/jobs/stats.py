"""How the queues are doing: what waits, runs and lies there, and how fast jobs are started.

Each number comes from an index that holds only the jobs it counts, so that the finished ones, of which there are
very many, cost nothing. Those of the last hour have no index of their own (each end would pay for it): they are
read by their ids, which begin with the time they were made, newest first, and no more than `RECENT` of them.

Times are seconds.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from raymill.registry.database import clock
from raymill.registry.tables.base import first_id_at

RECENT = 100_000
"""Jobs of the last day that are looked at for what finished in the last hour."""

SAMPLE = 5_000
"""Newest jobs that the start latencies are taken from."""

# What may be claimed now, and what is due later.
READY = text("""
SELECT queue, count(*) FILTER (WHERE run_at <= statement_timestamp()) AS ready,
       count(*) FILTER (WHERE run_at > statement_timestamp()) AS scheduled,
       extract(epoch FROM statement_timestamp() - min(run_at) FILTER (WHERE run_at <= statement_timestamp()))::float
         AS oldest_ready_s
FROM job WHERE state = 'queued' AND waiting_on = 0 GROUP BY queue
""")

# Steps whose parents have not ended. That they depend on something is what their index is asked for.
WAITING = text("""
SELECT queue, count(*) AS waiting FROM job
WHERE waiting_on > 0 AND depends_on @> CAST('{}' AS uuid[]) AND state = 'queued' GROUP BY queue
""")

RUNNING = text("SELECT queue, count(*) AS running FROM job WHERE state = 'running' GROUP BY queue")

# Dead letters stay until someone looks at them.
ATTENTION = text("""
SELECT queue, count(*) FILTER (WHERE state = 'paused') AS paused,
       count(*) FILTER (WHERE state = 'dead') AS dead,
       count(*) FILTER (WHERE state IN ('dead', 'failed')
                        AND finished_at > statement_timestamp() - interval '24 hours') AS failed_last_day
FROM job WHERE state IN ('dead', 'failed', 'paused') GROUP BY queue
""")

FINISHED = text("""
SELECT queue, count(*) AS finished_last_hour
FROM (SELECT queue, finished_at FROM job WHERE id >= :day_ago ORDER BY id DESC LIMIT :recent) AS recent
WHERE finished_at > statement_timestamp() - interval '1 hour' GROUP BY queue
""")

# From when it could start until it did. A first attempt that waited for no parent: with others, what lies between
# is not the queue's doing.
LATENCY = text("""
SELECT queue, percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds) AS start_p50_s,
       percentile_cont(0.99) WITHIN GROUP (ORDER BY seconds) AS start_p99_s
FROM (SELECT queue, extract(epoch FROM started_at - greatest(created_at, run_at))::float AS seconds
      FROM (SELECT queue, started_at, created_at, run_at, attempt, depends_on FROM job
            WHERE id >= :day_ago ORDER BY id DESC LIMIT :sample) AS newest
      WHERE attempt = 1 AND depends_on = CAST('{}' AS uuid[])
        AND started_at > statement_timestamp() - interval '1 hour') AS started
GROUP BY queue
""")

# The same jobs by kind: READY, WAITING, RUNNING and what of ATTENTION waits for somebody, from the same indexes.
BY_KIND = text("""
SELECT queue, kind, CASE WHEN run_at <= statement_timestamp() THEN 'ready' ELSE 'scheduled' END AS state,
       count(*) AS jobs, extract(epoch FROM statement_timestamp() - min(run_at))::float AS oldest_s
FROM job WHERE state = 'queued' AND waiting_on = 0 GROUP BY 1, 2, 3
UNION ALL
SELECT queue, kind, 'waiting', count(*), NULL FROM job
WHERE waiting_on > 0 AND depends_on @> CAST('{}' AS uuid[]) AND state = 'queued' GROUP BY 1, 2
UNION ALL
SELECT queue, kind, 'running', count(*), NULL FROM job WHERE state = 'running' GROUP BY 1, 2
UNION ALL
SELECT queue, kind, state, count(*), NULL FROM job WHERE state IN ('dead', 'paused') GROUP BY 1, 2, 3
""")

QUEUES = text("SELECT name AS queue, runner, max_running, paused_at FROM queue ORDER BY name")


@dataclass(frozen=True, kw_only=True)
class QueueStats:
    """One queue as it is now."""

    queue: str
    runner: str
    max_running: int | None
    paused_at: dt.datetime | None

    ready: int = 0
    scheduled: int = 0
    """Due later: submitted so, or between two tries."""

    waiting: int = 0
    """Steps whose parents have not ended."""

    running: int = 0
    paused: int = 0
    failed_last_day: int = 0
    """Failed or died in the last 24 hours."""

    dead: int = 0
    """All dead letters."""

    oldest_ready_s: float | None = None
    finished_last_hour: int = 0
    """Among the newest `RECENT` jobs."""

    start_p50_s: float | None = None
    start_p99_s: float | None = None
    """From when a job could start until it did, of those that did in the last hour."""


@dataclass(frozen=True, kw_only=True)
class KindCount:
    """Jobs of one kind in one queue that are in one state."""

    queue: str
    kind: str
    state: str
    """ready, scheduled, waiting (for parents), running, paused or dead."""

    jobs: int
    oldest_s: float | None = None
    """How long the oldest that is ready has waited; None in the other states."""


def kind_counts(session: Session) -> list[KindCount]:
    """Jobs that have not ended, and dead letters, by queue, kind and state; what there are none of is left out."""
    rows = session.execute(BY_KIND)
    return [
        KindCount(
            queue=row.queue,
            kind=row.kind,
            state=row.state,
            jobs=row.jobs,
            oldest_s=row.oldest_s if row.state == "ready" else None,
        )
        for row in rows
    ]


def queue_stats(session: Session) -> list[QueueStats]:
    """Every queue, by name. Takes milliseconds, whatever number of jobs has ended."""
    day_ago = first_id_at(clock(session) - dt.timedelta(days=1))
    found: dict[str, dict[str, Any]] = {row.queue: dict(row._mapping) for row in session.execute(QUEUES)}
    for statement, parameters in (
        (READY, {}),
        (WAITING, {}),
        (RUNNING, {}),
        (ATTENTION, {}),
        (FINISHED, {"day_ago": day_ago, "recent": RECENT}),
        (LATENCY, {"day_ago": day_ago, "sample": SAMPLE}),
    ):
        _merge(found, (dict(row._mapping) for row in session.execute(statement, parameters)))
    return [QueueStats(**values) for values in found.values()]


def _merge(found: dict[str, dict[str, Any]], rows: Iterable[dict[str, Any]]) -> None:
    for row in rows:
        if row["queue"] in found:
            found[row["queue"]] |= row
