"""Moving finished jobs out of the way: from the table that is claimed from into monthly partitions.

Only jobs that stand alone move, and only those that no other row tells of (an artifact, a run, a promotion...).
What is moved is as it was, with its events, and takes part in nothing any more: it cannot be redriven, and its
idempotency key may be used again. A month is dropped whole. Times are the database's, months are UTC's.
"""

from __future__ import annotations

import datetime as dt
import uuid
from typing import NamedTuple

from sqlalchemy import bindparam, select, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session
from sqlalchemy.types import Uuid

from raymill.registry import audit
from raymill.registry.audit import SYSTEM
from raymill.registry.database import clock
from raymill.registry.tables import Base, Job, JobEvent, JobHistory
from raymill.registry.tables.base import first_id_at

DEAD_FACTOR = 10
"""Dead letters wait for somebody to look at them: so many times longer."""

PREFIX = "job_history_"
_LOCK = 7265708

# Ids begin with the time of their making, so that the look goes along the primary key and ends where jobs are too
# young to have ended long ago. `:after` is where the last look ended.
OLD = """
SELECT job.id, job.finished_at FROM job
WHERE job.id > :after AND job.id < :young AND job.pipeline_id IS NULL
  AND (job.state IN ('succeeded', 'failed', 'cancelled') AND job.finished_at < :ended
       OR job.state = 'dead' AND job.finished_at < :died)
  {unheard_of}
ORDER BY job.id LIMIT :limit FOR UPDATE OF job SKIP LOCKED
"""

KEEP = text("""
INSERT INTO job_history (id, finished_at, kind, queue, state, job, events)
SELECT id, finished_at, kind, queue, state, to_jsonb(job), coalesce(
    (SELECT jsonb_agg(to_jsonb(event) ORDER BY event.id) FROM job_event AS event WHERE event.job_id = job.id),
    '[]'::jsonb)
FROM job WHERE id = ANY(:ids)
""").bindparams(bindparam("ids", type_=ARRAY(Uuid)))

GONE = tuple(
    text(f"DELETE FROM {table} WHERE {column} = ANY(:ids)").bindparams(bindparam("ids", type_=ARRAY(Uuid)))
    for table, column in (("job_event", "job_id"), ("job", "id"))
)

PARTITIONS = text("""
SELECT child.relname FROM pg_inherits
JOIN pg_class AS child ON child.oid = inhrelid
WHERE inhparent = 'job_history'::regclass ORDER BY child.relname
""")


class Retained(NamedTuple):
    """What one batch did."""

    moved: int
    after: uuid.UUID
    """Where the next batch goes on."""


START = uuid.UUID(int=0)


def retain(
    session: Session, older_than_days: int = 14, limit: int = 1000, *, after: uuid.UUID = START
) -> Retained:
    """Move one batch of finished jobs into the history, in the caller's transaction; others may do so meanwhile."""
    now = clock(session)
    ended = now - dt.timedelta(days=older_than_days)
    parameters = {
        "after": after,
        "young": first_id_at(ended),
        "ended": ended,
        "died": now - dt.timedelta(days=older_than_days * DEAD_FACTOR),
        "limit": limit,
    }
    rows = session.execute(_OLD, parameters).all()
    if not rows:
        return Retained(0, after)
    for month in sorted({_month(row.finished_at) for row in rows}):
        _make_partition(session, month)
    ids = [row.id for row in rows]
    for statement in (KEEP, *GONE):
        session.execute(statement, {"ids": ids})
    return Retained(len(ids), ids[-1])


def drop_old(session: Session, months: int = 12) -> list[str]:
    """Drop the months that ended more than `months` months ago. Returns the names of their partitions."""
    now = clock(session)
    first_kept = _partition(_months_before(_month(now), months))
    dropped = [name for name in session.scalars(PARTITIONS) if name < first_kept]
    for name in dropped:
        # Names are ours, and of digits but for the prefix.
        jobs = session.execute(text(f'SELECT count(*) FROM "{name}"')).scalar_one()
        session.execute(text(f'DROP TABLE "{name}"'))
        audit.record(session, SYSTEM, "history.drop", f"job_history/{name.removeprefix(PREFIX)}", jobs=jobs)
    return dropped


def find(session: Session, job_id: uuid.UUID) -> JobHistory | None:
    """A job that was moved, with its events; None when there is none."""
    return session.scalar(select(JobHistory).where(JobHistory.id == job_id))


def as_job(row: JobHistory) -> Job:
    """The job as it was, as an object that belongs to no session: for whoever shows jobs."""
    columns = Job.__table__.columns
    values = {
        name: _read(columns[name].type.python_type, value)
        for name, value in row.job.items()
        if name in columns
    }
    return Job(**values)


def _read(python_type: type, value: object) -> object:
    """A JSON value as the column has it."""
    if value is None:
        return None
    if python_type is dt.datetime:
        return dt.datetime.fromisoformat(str(value))
    if python_type is uuid.UUID:
        return uuid.UUID(str(value))
    if python_type is list and isinstance(value, list):  # of ids: the parents of a step
        return [uuid.UUID(each) for each in value]
    if isinstance(python_type, type) and issubclass(python_type, str):
        return python_type(str(value))
    return value


def _make_partition(session: Session, month: dt.date) -> None:
    """Made once; the lock on the table that this takes is held until the caller's commit."""
    name = _partition(month)
    there = text("SELECT to_regclass(:name) IS NOT NULL")
    if session.execute(there, {"name": name}).scalar_one():
        return
    session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    until = _months_before(month, -1)
    session.execute(
        text(
            f"CREATE TABLE IF NOT EXISTS {name} PARTITION OF job_history "
            f"FOR VALUES FROM ('{month} 00:00:00+00') TO ('{until} 00:00:00+00')"
        )
    )


def _month(moment: dt.datetime) -> dt.date:
    return moment.astimezone(dt.UTC).date().replace(day=1)


def _months_before(month: dt.date, count: int) -> dt.date:
    index = month.year * 12 + month.month - 1 - count
    return dt.date(index // 12, index % 12 + 1, 1)


def _partition(month: dt.date) -> str:
    return f"{PREFIX}{month:%Y_%m}"


def _unheard_of() -> str:
    """SQL: no row but an event tells of the job. The tables are asked for, so that none is forgotten.

    Not other jobs: they take over results by address, and what stands alone has none.
    """
    told_by = [
        (table.name, key.parent.name)
        for table in Base.metadata.sorted_tables
        for key in table.foreign_keys
        if key.column.table is Job.__table__ and table not in {Job.__table__, JobEvent.__table__}
    ]
    return "\n  ".join(
        f'AND NOT EXISTS (SELECT FROM "{table}" AS other WHERE other."{column}" = job.id)'
        for table, column in told_by
    )


_OLD = text(OLD.format(unheard_of=_unheard_of()))
