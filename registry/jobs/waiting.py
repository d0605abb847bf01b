"""Why jobs wait, as plain sentences: what their claims would find now, in one query for any number of jobs.

The first of several reasons is told, in the order in which one after the other has to fall.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Row, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session
from sqlalchemy.types import Uuid

from raymill.registry.jobs.bounds import LEFT
from raymill.registry.tables import Job, JobState

WAITS = frozenset({JobState.QUEUED, JobState.PAUSED})

# Sums over running jobs are made once, whatever number of jobs is asked for. Postgres is not shown how many these are: it
# would plan anew for each number, which takes it six times as long as finding out.
FACTS = text(f"""
WITH {LEFT}
running AS MATERIALIZED (SELECT queue, count(*) AS jobs FROM job WHERE state = 'running' GROUP BY queue),
types AS MATERIALIZED (SELECT string_agg(name, ', ' ORDER BY name) AS names FROM accelerator WHERE name <> 'any')
SELECT job.id, job.state, job.queue, job.run_at, job.run_at > statement_timestamp() AS later, job.gpus, job.cpus,
       job.accelerator, job.concurrency_key, job.concurrency_limit,
       CASE WHEN waiting_on > 0 THEN (
           SELECT string_agg(parent.step, ', ' ORDER BY parent.id) FROM job AS parent
           WHERE parent.id = ANY(job.depends_on) AND parent.state <> 'succeeded') END AS parents,
       queue.paused_at, queue.max_running AS queue_limit, coalesce(running.jobs, 0) AS queue_running,
       CASE WHEN job.concurrency_key IS NOT NULL THEN (
           SELECT count(*) FROM job AS busy WHERE busy.state = 'running'
           AND busy.concurrency_key = job.concurrency_key) END AS key_running,
       team.name AS team, bound.max_running, bound.max_gpus, bound.max_cpus,
       quota.running AS left_running, quota.gpus AS left_gpus, quota.cpus AS left_cpus,
       accelerator.gpus AS there, spare.gpus AS free, types.names AS types
FROM job JOIN queue ON queue.name = job.queue CROSS JOIN types
LEFT JOIN running ON running.queue = job.queue
LEFT JOIN team ON team.id = job.team_id
LEFT JOIN team_quota AS bound ON bound.team_id = job.team_id LEFT JOIN quota ON quota.team_id = job.team_id
LEFT JOIN accelerator ON accelerator.name = job.accelerator LEFT JOIN spare ON spare.name = job.accelerator
WHERE job.id = ANY(ARRAY(SELECT unnest(:ids)))
""").bindparams(bindparam("ids", type_=ARRAY(Uuid)))


def reasons(session: Session, jobs: Iterable[Job | Row[Any]]) -> dict[uuid.UUID, str]:
    """Why each of `jobs` waits that does, by its id. Nothing is asked when none does."""
    ids = [job.id for job in jobs if job.state in WAITS]
    if not ids:
        return {}
    session.flush()
    return {row.id: _reason(row) for row in session.execute(FACTS, {"ids": ids})}


def _reason(facts: Any) -> str:
    # Each with its condition: the first that holds is told.
    of_queue = facts.queue_limit is not None and facts.queue_running >= facts.queue_limit
    of_key = facts.key_running is not None and facts.key_running >= facts.concurrency_limit
    found = (
        (facts.state == JobState.PAUSED, "it is paused: `raymill jobs resume` lets it go on"),
        (facts.parents is not None, f"these steps come first: {facts.parents}"),
        (facts.paused_at, f"queue {facts.queue} is paused: `raymill queue resume` starts it again"),
        (facts.later, f"not before {facts.run_at.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S} UTC"),
        (
            of_queue,
            f"queue {facts.queue} runs {_count(facts.queue_running, 'job')}, and may run {facts.queue_limit}",
        ),
        (
            of_key,
            f"concurrency key {facts.concurrency_key} has {_count(facts.key_running or 0, 'running job')}, and may have "
            f"{facts.concurrency_limit}",
        ),
    )
    told = next((reason for holds, reason in found if holds), None)
    return told or _team(facts) or _accelerators(facts) or "it is next, once a worker is free"


def _team(facts: Any) -> str | None:
    for unit, asks, left, most in (
        ("job", 1, facts.left_running, facts.max_running),
        ("GPU", facts.gpus, facts.left_gpus, facts.max_gpus),
        ("CPU", facts.cpus, facts.left_cpus, facts.max_cpus),
    ):
        if left is None or asks == 0 or asks <= left:
            continue
        if asks > most:
            return (
                f"it asks for {_count(asks, unit)}, and the quota of team {facts.team} is {most}: ask for less, or raise it "
                f"with `raymill team quota {facts.team}`"
            )
        return f"team {facts.team} holds {_count(most - left, unit)} of a quota of {most}, and it asks for {asks}"
    return None


def _accelerators(facts: Any) -> str | None:
    if facts.accelerator is None or (facts.free is not None and facts.gpus <= facts.free):
        return None
    wanted = _count(facts.gpus, "GPU") + (
        "" if facts.accelerator == "any" else f" of type {facts.accelerator}"
    )
    if not facts.there:
        return f"it asks for {wanted}, and no node has one: the cluster has {facts.types or 'no GPU'}"
    if facts.gpus > facts.there:
        return f"it asks for {wanted}, and the cluster has {facts.there}: ask for fewer, or add nodes"
    return f"it asks for {wanted}, and {max(0, facts.free)} of {facts.there} are free"


def _count(number: int, unit: str) -> str:
    return f"{number} {unit}{'' if number == 1 else 's'}"
