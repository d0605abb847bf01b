"""Personal data: sealed, exported, erased without a change to the audit log; and what is deleted for its age."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pytest
from sqlalchemy import select, text
from tests.registry.making import ADA
from tests.registry.using import make_account, usage

from raymill.policies.errors import Conflict, Invalid
from raymill.registry import audit, identity, master_keys, passwords, personal, retention
from raymill.registry.artifacts import Tampered
from raymill.registry.database import Database
from raymill.registry.retention import Retention
from raymill.registry.secrets import SecretBox
from raymill.registry.tables import Account, AuditEvent, Feedback, Role, Subject, Trace, Usage

EMAIL = "bob@example.org"


@pytest.fixture
def box(tmp_path: Path) -> SecretBox:
    made = SecretBox(tmp_path / "secrets")
    made.create_if_missing()
    return made


@pytest.fixture
def bob(database: Database, box: SecretBox) -> Account:
    """Bob, who asked something, kept it, said what he thought and has a password."""
    account, key = make_account(database, "bob")
    asked = usage(key)
    of = {"request_id": asked.request_id, "account_id": account.id}
    kept = {"route": "support", "at": asked.at, "prompt": {"messages": ["my secret question"]}, "answer": {}}
    with database.transaction() as session:
        session.add_all(
            [
                asked,
                Trace(usage_id=asked.id, **of, **kept),
                Feedback(**of, score=1.0, comment="my secret comment"),
            ]
        )
        passwords.set_password(session, account, "correct horse battery", ADA)
        personal.set_person(session, box, account, {"email": EMAIL, "display_name": "Bob"}, ADA)
    return account


def everything(database: Database) -> str:
    """All rows of all tables, as text."""
    with database.engine.connect() as connection:
        names = connection.execute(
            text("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
        ).scalars()
        return "\n".join(
            str(connection.execute(text(f'SELECT json_agg(t) FROM "{name}" t')).scalar()) for name in names
        )


def test_what_is_personal_is_sealed_and_can_be_read_and_changed(
    database: Database, box: SecretBox, bob: Account
) -> None:
    assert EMAIL not in everything(database)
    with database.transaction() as session:
        personal.set_person(session, box, bob, {"display_name": None}, ADA)
        assert personal.person_of(session, box, bob) == {"email": EMAIL}
        with pytest.raises(Invalid, match="is no field"):
            personal.set_person(session, box, bob, {"shoe_size": "44"}, ADA)
    assert master_keys.rotate(database, box, ADA) == 1
    with database.transaction() as session:
        assert personal.person_of(session, box, bob) == {"email": EMAIL}
        eve = identity.create_account(session, "eve", Role.VIEWER, ADA)
        personal.set_person(session, box, eve, {"email": "eve@example.org"}, ADA)
        mine, theirs = session.get_one(Subject, bob.id), session.get_one(Subject, eve.id)
        theirs.sealed = mine.sealed
        with pytest.raises(Tampered):
            personal.person_of(session, box, eve)
        session.rollback()


def test_an_export_holds_all_and_no_secret(database: Database, box: SecretBox, bob: Account) -> None:
    with database.transaction() as session:
        found = personal.export(session, box, bob)
    assert found["person"] == {"email": EMAIL, "display_name": "Bob"}
    assert found["traces"][0]["prompt"] == {"messages": ["my secret question"]}
    assert found["feedback"][0]["comment"] == "my secret comment"
    assert [each["requests"] for each in found["requests"]] == [1]
    assert [each["name"] for each in found["keys"]] == ["laptop"]
    written = json.dumps(found)
    assert "argon2" not in written
    assert "sha256" not in written


def test_erasing_leaves_nothing_personal_and_the_audit_log_whole(
    database: Database, box: SecretBox, bob: Account
) -> None:
    with database.transaction() as session:
        sealed = session.scalars(select(AuditEvent).where(AuditEvent.action == "person.set")).one()
        assert (sealed.after or {})["sealed"]
        head = audit.verify(session).head
    for _ in range(2):
        with database.transaction() as session:
            account = identity.find_account(session, "bob", lock=True)
            assert personal.erase(session, account, ADA).erased_at is not None
    kept = everything(database)
    assert [word for word in (EMAIL, "Bob", "my secret", "argon2") if word in kept] == []
    with database.transaction() as session:
        assert personal.person_of(session, box, bob) == {}
        again = audit.verify(session)
        assert again.rows == 5
        assert session.scalars(select(AuditEvent.hash).order_by(AuditEvent.seq)).all()[-2] == head
        assert session.scalars(select(Usage)).one().prompt_tokens == 10
        with pytest.raises(Conflict, match="was erased on"):
            personal.set_person(session, box, account, {"email": EMAIL}, ADA)
        with pytest.raises(Conflict, match="your own account"):
            personal.erase(session, account, audit.Actor(name="bob"))


def test_what_is_older_than_it_may_be_goes_and_the_rest_stays(database: Database, bob: Account) -> None:
    now = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)  # 75 days after the request
    with database.transaction() as session:
        assert retention.sweep(session, Retention(), now) == {}
        assert retention.sweep(session, Retention(trace_days=76, usage_days=76), now) == {}
        session.scalars(select(Feedback)).one().at = now - dt.timedelta(days=2)
        assert retention.sweep(session, Retention(trace_days=74, feedback_days=3), now) == {"trace": 1}
        assert retention.sweep(session, Retention(usage_days=74, feedback_days=1), now) == {
            "usage": 1,
            "feedback": 1,
        }
    assert bob.name == "bob"
