"""GPUs of the cluster by type: told by the engine, read by claims and by whoever asks why a job waits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sqlalchemy import delete, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from raymill.registry.jobs import Priority
from raymill.registry.jobs.bounds import LEFT, WITHIN_QUOTA
from raymill.registry.placement_config import ANY
from raymill.registry.tables import Accelerator

# Those that run hold their GPUs, and a cluster is asked for a size, whoever uses it. An index gives the
# first of each queue and priority.
NEXT = text(f"""
WITH {LEFT}
next AS (
    SELECT accelerator, gpus FROM (
        SELECT true AS running, job.priority, job.run_at, job.id, job.accelerator, job.gpus
        FROM job JOIN queue ON queue.name = job.queue WHERE queue.runner = 'heavy' AND job.state = 'running'
        UNION ALL
        SELECT false, ready.*
        FROM queue CROSS JOIN generate_series({min(Priority):d}, {max(Priority):d}) AS level CROSS JOIN LATERAL (
            SELECT job.priority, job.run_at, job.id, job.accelerator, job.gpus FROM job
            WHERE job.queue = queue.name AND job.priority = level AND job.state = 'queued' AND job.waiting_on = 0
              AND job.run_at <= statement_timestamp() AND {WITHIN_QUOTA}
            ORDER BY job.run_at, job.id LIMIT :slots) AS ready
        WHERE queue.runner = 'heavy' AND queue.paused_at IS NULL) AS job
    ORDER BY running DESC, priority DESC, run_at, id LIMIT :slots)
SELECT accelerator, sum(gpus) AS gpus FROM next WHERE accelerator IS NOT NULL GROUP BY accelerator
""")


class Gpus(NamedTuple):
    there: int
    free: int


def tell(session: Session, found: Mapping[str, Gpus]) -> None:
    """Replace what was known by `found`, by type, the sum of all (`any`) among them. Writes only what differs."""
    known = {row.name: Gpus(row.gpus, row.free) for row in session.scalars(select(Accelerator))}
    for name in known.keys() - found.keys():
        session.execute(delete(Accelerator).where(Accelerator.name == name))
    for name, gpus in sorted(found.items()):
        if known.get(name) == gpus:
            continue
        values = {"gpus": gpus.there, "free": gpus.free}
        session.execute(
            insert(Accelerator)
            .values(name=name, **values)
            .on_conflict_do_update(index_elements=[Accelerator.name], set_=values)
        )


def wanted(session: Session, slots: int) -> dict[str, int]:
    """GPUs by type that the heavy jobs ask for which run or would be next, were the GPUs there.

    Args:
        slots: jobs that may run at once.
    """
    return {row.accelerator: int(row.gpus) for row in session.execute(NEXT, {"slots": slots})}


def known(session: Session) -> int:
    """GPUs of the whole cluster, when the engine last looked."""
    row = session.get(Accelerator, ANY)
    return row.gpus if row is not None else 0
