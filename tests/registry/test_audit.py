"""The audit log: gap-free, in order, and every later change of it shows (P7)."""

from __future__ import annotations

import datetime as dt
import json
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from benchmarks import tampering
from sqlalchemy import select, text
from tests.registry.making import ADA

from raymill.policies.errors import Invalid
from raymill.registry import audit, audit_roots
from raymill.registry.artifacts import Tampered
from raymill.registry.audit import Actor
from raymill.registry.audit_chain import GENESIS, AuditBroken, Chain, Checked, Root, line, verify_lines
from raymill.registry.audit_export import Roots, lines
from raymill.registry.database import Database
from raymill.registry.signing_keys import KeyRing
from raymill.registry.tables import AuditEvent


def write(database: Database, *objects: str, **more: Any) -> None:
    for name in objects:
        with database.transaction() as session:
            audit.record(
                session, Actor(name="ada", request_id="r1"), "llm.rename", name, to=[1, 0.5, "é"], **more
            )


def verify(database: Database, *roots: Root) -> Checked:
    with database.transaction() as session:
        return audit.verify(session, roots)


def exported(database: Database) -> tuple[list[bytes], Root]:
    with database.transaction() as session:
        chain = Chain()
        found = [line(*row) for row in audit.walk(session, chain)]
        return found, audit_roots.root_of(chain)


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    ring = KeyRing(tmp_path / "keys")
    ring.create_if_missing()
    return ring


def test_an_empty_log_is_whole(database: Database) -> None:
    checked = verify(database)
    assert (checked.rows, checked.head, checked.vouched) == (0, GENESIS, 0)


def test_rows_form_a_chain_and_tell_who_from_where_before_and_after(database: Database) -> None:
    actor = Actor(name="eve", request_id="r2", address="192.0.2.7")
    write(database, "a", "b")
    with database.transaction() as session:
        audit.record(session, actor, "route.set", "c", before={"w": 1}, after={"w": 0.5})
    with database.transaction() as session:
        rows = session.scalars(select(AuditEvent).order_by(AuditEvent.seq)).all()
        assert [(row.seq, row.object, row.request_id) for row in rows] == [
            (1, "a", "r1"),
            (2, "b", "r1"),
            (3, "c", "r2"),
        ]
        assert [row.previous_hash for row in rows] == [GENESIS, rows[0].hash, rows[1].hash]
        assert (rows[2].address, rows[2].before, rows[2].after) == ("192.0.2.7", {"w": 1}, {"w": 0.5})
        assert (rows[0].address, rows[0].before, rows[0].after) == (None, None, None)
    assert (verify(database).rows, verify(database).head) == (3, rows[2].hash)


def test_numbers_and_text_of_every_kind_come_back_as_they_were_hashed(database: Database) -> None:
    values = [
        1e22,
        1e23,
        -1e300,
        1e-7,
        5e-324,
        -0.0,
        0.1 + 0.2,
        2**70,
        1.0,
        True,
        None,
        "\x01/\x7f\u2028é\ud7ff",
    ]
    write(database, "a", values=values, after={"größe": values})
    assert verify(database).rows == 1
    assert verify_lines(exported(database)[0]).rows == 1


def test_a_hash_does_not_hang_on_the_time_zone_of_the_session(database: Database) -> None:
    write(database, "a")
    with database.transaction() as session:
        session.execute(text("SET LOCAL TIME ZONE 'Asia/Kolkata'"))
        assert session.scalars(select(AuditEvent.at)).one().utcoffset() == dt.timedelta(hours=5, minutes=30)
        assert audit.verify(session).rows == 1


def test_writers_at_once_leave_no_gap(database: Database) -> None:
    def work(number: int) -> None:
        for each in range(5):
            write(database, f"{number}-{each}")

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(work, range(6)))
    assert verify(database).rows == 30


def test_a_change_that_rolls_back_leaves_no_row_and_no_gap(database: Database) -> None:
    write(database, "a")
    with database.transaction() as session:
        audit.record(session, ADA, "llm.rename", "b")
        session.rollback()
    write(database, "c")
    with database.transaction() as session:
        rows = session.execute(select(AuditEvent.seq, AuditEvent.object).order_by(AuditEvent.seq)).all()
    assert [tuple(row) for row in rows] == [(1, "a"), (2, "c")]


def test_a_savepoint_takes_its_rows_along(database: Database) -> None:
    with database.transaction() as session:
        audit.record(session, ADA, "llm.rename", "a")
        with session.begin_nested() as savepoint:
            audit.record(session, ADA, "llm.rename", "lost")
            with session.begin_nested():
                audit.record(session, ADA, "llm.rename", "lost with it")
            savepoint.rollback()
        with session.begin_nested():
            audit.record(session, ADA, "llm.rename", "b")
        audit.record(session, ADA, "llm.rename", "c")
    with database.transaction() as session:
        rows = session.execute(select(AuditEvent.seq, AuditEvent.object).order_by(AuditEvent.seq)).all()
    assert [tuple(row) for row in rows] == [(1, "a"), (2, "b"), (3, "c")]


def test_a_row_that_cannot_be_written_takes_its_change_along(database: Database) -> None:
    def change() -> None:
        with database.transaction() as session:
            session.execute(text("CREATE TABLE changed (id int)"))
            audit.record(session, ADA, "llm.rename", "b", to="\0")

    write(database, "a")
    with pytest.raises(psycopg.DataError):
        change()
    with database.transaction() as session:
        assert session.scalar(text("SELECT to_regclass('changed')")) is None
    write(database, "c")
    assert verify(database).rows == 2


def test_a_writer_that_computes_or_waits_holds_nobody_up(database: Database) -> None:
    with database.transaction() as session:
        audit.record(session, ADA, "llm.rename", "b")
        write(database, "a")
    with database.transaction() as session:
        assert session.scalars(select(AuditEvent.object).order_by(AuditEvent.seq)).all() == ["a", "b"]
        assert session.scalar(text("SHOW synchronous_commit")) == "on"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("UPDATE audit_event SET actor = 'eve' WHERE seq = 2", "audit row 2 is not what was written"),
        ("UPDATE audit_event SET hash = previous_hash WHERE seq = 2", "audit row 2 is not what was written"),
        ("DELETE FROM audit_event WHERE seq = 2", "audit row 2 is missing, row 3 follows"),
        ("DELETE FROM audit_event WHERE seq = 1", "audit row 1 is missing, row 2 follows"),
        ("DELETE FROM audit_event WHERE seq >= 3", "log ends after row 2, a root was taken of 4 rows"),
    ],
)
def test_damage_by_the_owner_of_the_database_is_named(database: Database, damage: str, message: str) -> None:
    write(database, "a", "b", "c", "d")
    root = exported(database)[1]
    with database.transaction() as session:
        session.execute(text("ALTER TABLE audit_event DISABLE TRIGGER ALL"))
        session.execute(text("GRANT ALL ON audit_event TO CURRENT_USER"))
        session.execute(text(damage))
    with pytest.raises(AuditBroken, match=message):
        verify(database, root)


def test_300_random_tamperings_are_all_found_and_none_is_seen_where_there_is_none(database: Database) -> None:
    write(database, *(f"llm/{number}" for number in range(100)), before={"n": 1}, after={"n": 2})
    log, root = exported(database)
    draw = random.Random(11)
    for number in range(300):
        damaged = tampering.KINDS[number % len(tampering.KINDS)](log, draw)
        with pytest.raises(AuditBroken):
            verify_lines(damaged, [root])
    assert verify_lines(log, [root]).vouched == 100


# --- exports and roots --------------------------------------------------------------------------------------


def test_pages_of_lines_are_the_log_byte_by_byte(database: Database) -> None:
    write(database, "a", "b", "c")
    with database.transaction() as session:
        found = [*lines(session, 0, 2), *lines(session, 2, 2), *lines(session, 3, 2)]
    assert [each.encode() for each in found] == exported(database)[0]
    row = json.loads(found[2])
    assert (row["row"]["object"], row["row"]["seq"]) == ("c", 3)


def test_the_root_is_that_of_rfc_6962() -> None:
    """The vectors of Certificate Transparency's reference code: leaves 00, 10, 20 21, 30 31 and so on."""
    from raymill.registry.merkle import Tree

    leaves = [
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    ]
    roots = {
        0: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        4: "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        5: "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        6: "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        7: "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    }
    tree = Tree()
    assert tree.root().hex() == roots[0]
    for leaf in leaves:
        tree.add(bytes.fromhex(leaf))
        assert tree.root().hex() == roots[tree.size]


def test_roots_are_kept_as_rows_come_and_give_away_a_log_that_was_cut_off_or_written_anew(
    database: Database, ring: KeyRing, tmp_path: Path
) -> None:
    roots = Roots(tmp_path / "roots", ring.directory)
    write(database, "a", "b")
    with database.transaction() as session:
        assert roots.take_if_due(session, every_s=0)
        assert not roots.take_if_due(session, every_s=0)  # nothing came since
    write(database, "c")
    with database.transaction() as session:
        assert not roots.take_if_due(session, every_s=3600)
        roots.take(session)
        checked = Roots(tmp_path / "roots", ring.directory).verify(session)
    assert (checked.rows, checked.vouched) == (3, 3)

    with database.transaction() as session:
        session.execute(text("ALTER TABLE audit_event DISABLE TRIGGER ALL"))
        session.execute(text("GRANT ALL ON audit_event TO CURRENT_USER"))
        session.execute(text("DELETE FROM audit_event"))
    write(database, "x", "y", "z")
    with database.transaction() as session, pytest.raises(AuditBroken, match="first 2 rows are not those"):
        roots.verify(session)


def test_a_root_counts_only_with_its_signature(ring: KeyRing, tmp_path: Path) -> None:
    root = Root(rows=2, root="0" * 64, head="1" * 64, at="2026-01-01T00:00:00+00:00")
    envelope = audit_roots.sign_root(ring.signer(), root)
    path = audit_roots.keep(tmp_path / "roots", root, envelope)
    assert audit_roots.read_root(path, ring.public_keys()) == root
    other = audit_roots.sign_root(ring.signer(), Root(**{**vars(root), "rows": 1}))
    path.write_text(json.dumps({**envelope, "payload": other["payload"]}))
    with pytest.raises(Tampered, match="does not fit"):
        audit_roots.read_root(path, ring.public_keys())
    for content in ("nonsense", "[]", '{"payloadType": "text/plain"}'):
        path.write_text(content)
        with pytest.raises(Invalid):
            audit_roots.read_root(path, ring.public_keys())
    ring.revoke(ring.key_id(), reason="lost", by="ada")
    audit_roots.keep(tmp_path / "roots", root, envelope)
    assert audit_roots.kept(tmp_path / "roots", ring.public_keys(), ring.revoked()) == ()


@pytest.mark.parametrize("line", [b"", b"\n", b'{"hash":"","row":{}}\n', b"\xff" * 200 + b"\n"])
def test_a_damaged_export_is_no_export(line: bytes) -> None:
    with pytest.raises(AuditBroken, match="audit row 1 is not what was written"):
        verify_lines([line])
