"""Counts and times of queues, on a real Postgres."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import TextClause, text, update
from tests.registry.making import ADA, claim, claim_one, make_pipeline, step, succeed

from raymill.registry import jobs
from raymill.registry.database import Database
from raymill.registry.jobs import Done, ErrorClass, JobSpec
from raymill.registry.jobs.stats import (
    ATTENTION,
    BY_KIND,
    FINISHED,
    LATENCY,
    READY,
    RECENT,
    RUNNING,
    SAMPLE,
    WAITING,
    QueueStats,
    queue_stats,
)
from raymill.registry.tables import Job, new_id
from raymill.registry.tables.base import first_id_at

STATEMENTS = {
    "ready": READY,
    "waiting": WAITING,
    "running": RUNNING,
    "attention": ATTENTION,
    "finished": FINISHED,
    "latency": LATENCY,
    "by kind": BY_KIND,
}
HOUR = dt.timedelta(hours=1)


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def stats(database: Database) -> dict[str, QueueStats]:
    with database.transaction() as session:
        return {each.queue: each for each in queue_stats(session)}


def enqueue(database: Database, *specs: JobSpec) -> None:
    with database.transaction() as session:
        jobs.enqueue(jobs.raw(session), specs)


def test_queues_without_jobs_are_told_of_too(database: Database) -> None:
    found = stats(database)
    assert list(found) == ["heavy", "hooks", "short"]
    assert found["short"] == QueueStats(queue="short", runner="short", max_running=None, paused_at=None)


def test_every_state_is_counted_in_its_place(database: Database) -> None:
    enqueue(database, JobSpec(kind="note", run_at=now() + HOUR), *(JobSpec(kind="note") for _ in range(6)))
    make_pipeline(database, step("a"), step("b", "a"), step("c", "b", queue="heavy"))
    done, failed, dead, paused = claim(database, limit=4)
    with database.transaction() as session:
        jobs.complete(jobs.raw(session), [Done(done.id, done.epoch, {})])
        jobs.fail(session, failed.id, failed.epoch, "wrong", ErrorClass.INPUT)
        session.execute(update(Job).where(Job.id == dead.id).values(max_attempts=1))
        jobs.fail(session, dead.id, dead.epoch, "broke", ErrorClass.UNEXPECTED)
        jobs.pause_job(session, paused.id, ADA)
        jobs.end_pause(session, paused.id, paused.epoch)
        jobs.set_queue(session, "short", ADA, max_running=7)
        jobs.pause_queue(session, "hooks", ADA)
    claimed = claim_one(database)
    found = stats(database)
    short = found["short"]
    assert (short.ready, short.scheduled, short.waiting, short.running, short.paused) == (2, 1, 1, 1, 1)
    assert (short.failed_last_day, short.dead, short.finished_last_hour) == (2, 1, 3)
    assert (short.max_running, found["heavy"].waiting, found["heavy"].ready) == (7, 1, 0)
    assert found["hooks"].paused_at is not None
    assert short.oldest_ready_s is not None
    assert 0 <= short.oldest_ready_s < 60
    succeed(database, claimed)
    assert stats(database)["short"].finished_last_hour == 4


def test_latency_is_from_when_a_job_could_start_until_it_did(database: Database) -> None:
    enqueue(database, *(JobSpec(kind="note") for _ in range(101)))
    claim(database, limit=101)
    with database.transaction() as session:
        for number, job_id in enumerate(session.scalars(text("SELECT id FROM job ORDER BY id")).all()):
            waited = {"created_at": now() - HOUR, "run_at": now(), "started_at": now() + number * HOUR / 3600}
            session.execute(update(Job).where(Job.id == job_id).values(**waited))
        # Another try, and a step that waited for its parent, tell nothing of the queue.
        late = {"started_at": now() + HOUR}
        enqueue_late = JobSpec(kind="note")
        jobs.enqueue(jobs.raw(session), [enqueue_late])
        session.execute(update(Job).where(Job.id == enqueue_late.id).values(attempt=2, **late))
    short = stats(database)["short"]
    assert short.start_p50_s == pytest.approx(50, abs=1)
    assert short.start_p99_s == pytest.approx(99, abs=1)


def test_failures_of_other_days_count_as_dead_letters_only(database: Database) -> None:
    enqueue(database, JobSpec(kind="note"))
    job = claim_one(database)
    with database.transaction() as session:
        session.execute(update(Job).where(Job.id == job.id).values(max_attempts=1))
        jobs.fail(session, job.id, job.epoch, "broke", ErrorClass.UNEXPECTED)
        session.execute(update(Job).where(Job.id == job.id).values(finished_at=now() - 25 * HOUR))
    short = stats(database)["short"]
    assert (short.dead, short.failed_last_day, short.finished_last_hour) == (1, 0, 0)


def rows_read(database: Database, statement: TextClause) -> int:
    """How many rows of `job` a statement looks at, those that it then leaves out among them."""
    bound = {"day_ago": first_id_at(now() - 24 * HOUR), "recent": RECENT, "sample": SAMPLE}
    with database.transaction() as session:
        explain = text(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement.text}")
        parameters = {name: bound[name] for name in statement._bindparams}
        plan = session.scalar(explain, parameters)[0]["Plan"]
    return sum(read for node, read in scans(plan) if node == "job")


def scans(plan: dict[str, Any]) -> Iterator[tuple[str, int]]:
    removed = plan.get("Rows Removed by Filter", 0) + plan.get("Rows Removed by Index Recheck", 0)
    if "Relation Name" in plan:
        yield plan["Relation Name"], (plan["Actual Rows"] + removed) * plan["Actual Loops"]
    for child in plan.get("Plans", []):
        yield from scans(child)


def test_ids_begin_with_the_time_they_were_made() -> None:
    before = first_id_at(now())
    assert before <= new_id() < first_id_at(now() + dt.timedelta(milliseconds=2))


def test_a_hundred_thousand_finished_jobs_do_not_slow_it_down(database: Database) -> None:
    with database.transaction() as session:
        session.execute(
            text("""
            INSERT INTO job (id, step, kind, queue, name, config, result, state, attempt, epoch, created_at, started_at, finished_at)
            SELECT (lpad(to_hex((extract(epoch FROM now() - n * interval '20 ms') * 1000)::bigint), 12, '0')
                    || '70008000' || lpad(to_hex(n), 12, '0'))::uuid, 'note', 'note', 'short', 'note', '{"of": "note"}',
                   '{"digest": "0"}', 'succeeded', 1, 1, now(), now(), now()
            FROM generate_series(1, 100000) AS n
            """)
        )
        make_pipeline(database, step("a"), step("b", "a"))
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE job"))
    found = stats(database)
    assert (found["short"].ready, found["short"].waiting) == (1, 1)
    assert found["short"].finished_last_hour == 99_998  # two of the newest have not ended
    # Not by the clock, which tells of the machine: each statement reads only the jobs that it counts.
    looked_at = {name: rows_read(database, statement) for name, statement in STATEMENTS.items()}
    assert looked_at == {
        "ready": 1,
        "waiting": 1,
        "running": 0,
        "attention": 0,
        "finished": RECENT,
        "latency": SAMPLE,
        "by kind": 2,
    }
