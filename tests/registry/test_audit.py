"""The audit log: gap-free, in order, and every later change of it shows (P7)."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select, text
from tests.registry.making import ADA

from raymill.registry import audit
from raymill.registry.audit import GENESIS, Actor, AuditBroken
from raymill.registry.database import Database
from raymill.registry.tables import AuditEvent


def write(database: Database, *objects: str) -> None:
    for name in objects:
        with database.transaction() as session:
            audit.record(session, Actor(name="ada", request_id="r1"), "llm.rename", name, to=[1, 0.5, "é"])


def read(database: Database) -> list[AuditEvent]:
    with database.transaction() as session:
        return list(audit.all_rows(session))


def test_an_empty_log_is_whole(database: Database) -> None:
    assert audit.verify(iter(read(database))) == (0, GENESIS)


def test_rows_form_a_chain_that_anyone_can_recompute(database: Database) -> None:
    write(database, "a", "b", "c")
    rows = read(database)
    assert [(row.seq, row.object, row.request_id) for row in rows] == [
        (1, "a", "r1"),
        (2, "b", "r1"),
        (3, "c", "r1"),
    ]
    assert [row.previous_hash for row in rows] == [GENESIS, rows[0].hash, rows[1].hash]
    assert audit.verify(iter(rows)) == (3, rows[2].hash)


def test_a_hash_does_not_hang_on_the_time_zone_of_the_session(database: Database) -> None:
    write(database, "a")
    with database.transaction() as session:
        session.execute(text("SET LOCAL TIME ZONE 'Asia/Kolkata'"))
        rows = list(audit.all_rows(session))
        assert rows[0].at.utcoffset() == dt.timedelta(hours=5, minutes=30)
        assert audit.verify(iter(rows))[0] == 1


def test_writers_at_once_leave_no_gap(database: Database) -> None:
    def work(number: int) -> None:
        for each in range(5):
            write(database, f"{number}-{each}")

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(work, range(6)))
    assert audit.verify(iter(read(database)))[0] == 30


def test_a_change_that_rolls_back_leaves_no_row_and_no_gap(database: Database) -> None:
    write(database, "a")
    with database.transaction() as session:
        audit.record(session, ADA, "llm.rename", "b")
        session.rollback()
    write(database, "c")
    assert [(row.seq, row.object) for row in read(database)] == [(1, "a"), (2, "c")]


def edited(rows: list[AuditEvent]) -> list[AuditEvent]:
    rows[1].detail = {"to": "other"}
    return rows


def edited_with_its_hash(rows: list[AuditEvent]) -> list[AuditEvent]:
    rows[1].actor = "eve"
    rows[1].hash = audit.row_hash(rows[1])
    return rows


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (edited, "audit row 2 is not what was written: compare it with a backup"),
        (edited_with_its_hash, "audit row 3 is not what was written"),
        (lambda rows: [rows[0], rows[2], rows[3]], "audit row 2 is missing, row 3 follows"),
        (lambda rows: rows[1:], "audit row 1 is missing, row 2 follows"),
        (lambda rows: [rows[0], rows[2], rows[1], rows[3]], "audit row 2 is missing"),
    ],
)
def test_damage_is_named(
    database: Database, damage: Callable[[list[AuditEvent]], list[AuditEvent]], message: str
) -> None:
    write(database, "a", "b", "c", "d")
    with pytest.raises(AuditBroken, match=message):
        audit.verify(iter(damage(read(database))))


def test_a_row_that_the_owner_of_the_database_edits_shows(database: Database) -> None:
    write(database, "a", "b")
    with database.transaction() as session:
        session.execute(text("ALTER TABLE audit_event DISABLE TRIGGER ALL"))
        session.execute(text("UPDATE audit_event SET actor = 'eve' WHERE seq = 1"))
        assert session.scalars(select(AuditEvent.actor).where(AuditEvent.seq == 1)).one() == "eve"
    with pytest.raises(AuditBroken, match="audit row 1 is not"):
        audit.verify(iter(read(database)))
