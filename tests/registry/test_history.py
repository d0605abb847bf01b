"""Retention on a real Postgres: what moves, what stays, and that nothing of it is lost."""

from __future__ import annotations

import contextlib
import datetime as dt
import threading
import uuid

import pytest
from sqlalchemy import func, select, text, update
from tests.registry.making import claim_one, make_pipeline, read_job, succeed

from raymill.registry import jobs
from raymill.registry.database import Database
from raymill.registry.jobs import Claimed, Done, ErrorClass, JobSpec, history
from raymill.registry.tables import Artifact, AuditEvent, Job, JobEvent, JobState, new_id

UTC = dt.UTC
LONG_AGO = dt.datetime(2025, 11, 30, 23, 59, tzinfo=UTC)


def enqueue(database: Database, made: dt.datetime | None = None) -> uuid.UUID:
    """A job whose id is as if it had been made then."""
    fresh = new_id()
    if made is not None:
        fresh = uuid.UUID(int=int(made.timestamp() * 1000) << 80 | fresh.int & ((1 << 80) - 1))
    with database.transaction() as session:
        return jobs.enqueue(jobs.raw(session), [JobSpec(kind="note", id=fresh)])[0]


def complete(database: Database, job: Claimed) -> None:
    with database.transaction() as session:
        jobs.complete(jobs.raw(session), [Done(job.id, job.epoch, {"answer": 42})])


def age(database: Database, job_id: uuid.UUID, ended: dt.datetime) -> uuid.UUID:
    with database.transaction() as session:
        session.execute(update(Job).where(Job.id == job_id).values(finished_at=ended))
    return job_id


def old_job(database: Database, ended: dt.datetime = LONG_AGO) -> uuid.UUID:
    enqueue(database, ended)
    job = claim_one(database)
    with database.transaction() as session:
        jobs.add_events(session, job, [("log", {"line": "hello"}), ("log", {"line": "bye"})])
    complete(database, job)
    return age(database, job.id, ended)


def retain(database: Database, days: int = 14, limit: int = 1000) -> int:
    with database.transaction() as session:
        return history.retain(session, days, limit).moved


def count(database: Database) -> int:
    with database.transaction() as session:
        return session.scalar(select(func.count()).select_from(Job)) or 0


def ago(days: float) -> dt.datetime:
    return dt.datetime.now(UTC) - dt.timedelta(days=days)


def test_an_old_job_moves_whole_with_its_events_and_can_be_read_back(database: Database) -> None:
    job_id = old_job(database)
    before = read_job(database, job_id)
    assert retain(database) == 1
    assert retain(database) == 0
    with database.transaction() as session:
        assert session.get(Job, job_id) is None
        assert session.scalar(select(func.count()).select_from(JobEvent)) == 0
        row = history.find(session, job_id)
        assert history.find(session, uuid.uuid4()) is None
    assert row is not None
    assert (row.finished_at, row.kind, row.queue, row.state) == (
        LONG_AGO,
        "note",
        "short",
        JobState.SUCCEEDED,
    )
    assert [event["data"]["line"] for event in row.events] == ["hello", "bye"]
    back = history.as_job(row)
    for column in [each.name for each in Job.__table__.columns]:
        assert getattr(back, column) == getattr(before, column), column


def test_a_job_goes_into_the_partition_of_its_month_by_utc(database: Database) -> None:
    old_job(database, dt.datetime(2025, 11, 30, 23, 59, 59, tzinfo=UTC))
    old_job(database, dt.datetime(2025, 12, 1, tzinfo=UTC))
    with database.transaction() as session:
        session.execute(text("SET LOCAL timezone = 'Asia/Tokyo'"))
        assert history.retain(session).moved == 2
        assert list(session.scalars(history.PARTITIONS)) == ["job_history_2025_11", "job_history_2025_12"]
        for name in ("job_history_2025_11", "job_history_2025_12"):
            assert session.scalar(text(f"SELECT count(*) FROM {name}")) == 1


def test_what_is_young_runs_waits_or_belongs_to_a_pipeline_stays(database: Database) -> None:
    old_job(database, ago(13))
    enqueue(database)
    running = claim_one(database)
    enqueue(database)
    make_pipeline(database)
    step = claim_one(database)  # the one that waits alone
    assert step.pipeline_id is None
    succeed(database, claim_one(database))
    with database.transaction() as session:
        session.execute(update(Job).where(Job.pipeline_id.is_not(None)).values(finished_at=LONG_AGO))
    assert retain(database) == 0
    assert read_job(database, running.id).state is JobState.RUNNING
    assert count(database) == 4


@pytest.mark.parametrize(("days", "moved"), [(100, 0), (141, 1)])
def test_dead_letters_wait_ten_times_as_long(database: Database, days: int, moved: int) -> None:
    enqueue(database, ago(days))
    job = claim_one(database)
    with database.transaction() as session:
        session.execute(update(Job).values(max_attempts=1))
        jobs.fail(session, job.id, job.epoch, "it broke", ErrorClass.UNEXPECTED)
    age(database, job.id, ago(days))
    assert retain(database) == moved


def test_a_job_that_another_row_tells_of_stays(database: Database) -> None:
    job_id = old_job(database)
    with database.transaction() as session:
        session.add(Artifact(name="note/a/1", digest="d" * 64, size_bytes=1, files=[], job_id=job_id))
    assert retain(database) == 0
    assert "artifact" in history._unheard_of()
    assert "promotion" in history._unheard_of()


def test_batches_go_on_where_the_last_one_ended_and_pass_each_other_by(database: Database) -> None:
    ids = sorted(old_job(database, ago(20 + number)) for number in range(6))
    with database.transaction() as session:  # whoever makes a month lets the others wait for it
        for number in range(6):
            history._make_partition(session, history._month(ago(20 + number)))
    with database.transaction() as session:
        first = history.retain(session, 14, 2)
        assert (first.moved, first.after) == (2, ids[1])
        assert retain(database, limit=2) == 2  # another engine, while ours has not committed
        assert history.retain(session, 14, 2, after=ids[3]).after == ids[5]
    assert count(database) == 0


def test_two_engines_that_need_the_same_new_month_both_get_it(database: Database) -> None:
    for _ in range(8):
        old_job(database)
    barrier, moved = threading.Barrier(4), []

    def engine() -> None:
        barrier.wait()
        moved.append(retain(database, limit=2))

    threads = [threading.Thread(target=engine) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while retain(database):
        moved.append(1)
    with database.transaction() as session:
        assert session.scalar(text("SELECT count(*) FROM job_history")) == 8
    assert count(database) == 0


def test_what_is_rolled_back_has_not_moved(database: Database) -> None:
    job_id = old_job(database)
    with contextlib.suppress(RuntimeError), database.transaction() as session:
        history.retain(session)
        raise RuntimeError("the process ends here")
    assert read_job(database, job_id).state is JobState.SUCCEEDED
    assert retain(database) == 1


def test_months_that_are_over_long_enough_are_dropped_and_that_is_on_record(database: Database) -> None:
    kept = old_job(database, ago(20))
    for month in range(1, 4):
        old_job(database, dt.datetime(2020, month, 5, tzinfo=UTC))
    assert retain(database) == 4
    with database.transaction() as session:
        dropped = history.drop_old(session, 12)
    assert dropped == [f"job_history_2020_0{month}" for month in range(1, 4)]
    with database.transaction() as session:
        assert history.drop_old(session, 12) == []
        assert history.find(session, kept) is not None
        rows = session.scalars(select(AuditEvent).where(AuditEvent.action == "history.drop")).all()
    assert next((row.object, row.detail) for row in rows) == ("job_history/2020_01", {"jobs": 1})
