"""One moment of a database that others write to: a snapshot, and where in the WAL it belongs.

A snapshot alone does not say which commits in the WAL it sees, for a commit is written a little before others see it.
So every table is locked against writers (SHARE), which waits for those who have begun; then nobody is in between, and
the end of the WAL is the snapshot's place. The lock is let go at once: what follows is read in the snapshot.

Those who want to write queue behind a lock that is waited for, so all of it is given up after some tenths of a second
and tried again. Tables are locked in the order in which transactions write to them, parents first, so that hardly any
writer waits for us while we wait for it; where one does, we give up long before PostgreSQL would end one of the two.
"""

from __future__ import annotations

import datetime as dt
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import IsolationLevel, sql

from raymill.cluster.backup import tables
from raymill.cluster.backup.tables import Connection
from raymill.policies.errors import Unavailable
from raymill.registry.tables import AuditEvent, Base

LOCK_WAIT_S = 0.4
"""PostgreSQL looks for deadlocks after a second (`deadlock_timeout`), and may then end the writer."""

PATIENCE_S = 600.0

_TIMEOUT = sql.SQL("SET LOCAL statement_timeout = {}").format(int(LOCK_WAIT_S * 1000))


@dataclass(frozen=True, kw_only=True)
class Moment:
    at: dt.datetime
    """By the database's clock."""

    lsn: str
    """Every commit that the snapshot sees is before it in the WAL, every other one behind."""

    writers_waited_s: float
    """At most."""


@contextmanager
def moment(dsn: str, *, patience_s: float = PATIENCE_S) -> Iterator[tuple[Moment, Connection]]:
    """A moment, and a transaction that sees the database as it was then, until the block ends.

    Raises:
        Unavailable: somebody writes for longer than `patience_s`.
    """
    with psycopg.connect(dsn) as reading, psycopg.connect(dsn) as locking:
        locked = _lock_statement(tables.ours(reading))
        reading.rollback()
        reading.isolation_level = locking.isolation_level = IsolationLevel.REPEATABLE_READ
        reading.read_only = True
        found = _take(reading, locking, locked, patience_s)
        yield found, reading
        reading.rollback()


def _lock_statement(names: list[tuple[str, str]]) -> sql.Composed:
    order = {table.name: number for number, table in enumerate(Base.metadata.sorted_tables)}
    last = AuditEvent.__tablename__
    ordered = sorted(names, key=lambda name: (name[1] == last, order.get(name[1], len(order)), name))
    listed = sql.SQL(", ").join(sql.Identifier(*name) for name in ordered)
    return sql.SQL("LOCK TABLE {} IN SHARE MODE").format(listed)


def _take(reading: Connection, locking: Connection, locked: sql.Composed, patience_s: float) -> Moment:
    deadline = time.monotonic() + patience_s
    while True:
        begun = time.monotonic()
        try:
            locking.execute(_TIMEOUT)
            # No snapshot is taken before the first SELECT, and that comes after the locks.
            locking.execute(locked)
        except (psycopg.errors.QueryCanceled, psycopg.errors.DeadlockDetected) as error:
            locking.rollback()
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"no moment without writers came in {patience_s:.0f} s: see in pg_stat_activity who has had a "
                    "transaction open for long, and end it"
                ) from error
            time.sleep(random.uniform(0.1, 0.5))
            continue
        row = locking.execute(
            "SELECT pg_export_snapshot(), pg_current_wal_insert_lsn()::text, clock_timestamp()"
        ).fetchone()
        assert row is not None
        reading.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(row[0]))
        locking.rollback()
        return Moment(
            at=row[2].astimezone(dt.UTC), lsn=row[1], writers_waited_s=round(time.monotonic() - begun, 4)
        )
