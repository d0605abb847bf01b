"""Accounts and keys: a key is never kept, and stops when it should."""

from __future__ import annotations

import datetime as dt
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select
from tests.registry.making import ADA

from raymill.cluster.wake import Wake
from raymill.policies.errors import Conflict, NotFound
from raymill.registry import identity
from raymill.registry.database import Database
from raymill.registry.tables import Account, ApiKey, AuditEvent, Role, new_id


def make_key(database: Database, *, expires_at: dt.datetime | None = None) -> tuple[ApiKey, str]:
    with database.transaction() as session:
        identity.create_account(session, "bob", Role.OPERATOR, ADA)
        return identity.create_key(session, "bob", "laptop", ADA, expires_at=expires_at)


def role_of(database: Database, key: str) -> Role | None:
    with database.transaction() as session:
        row = identity.authenticate(session, key)
        return row.account.role if row else None


def test_a_key_opens_for_its_account_and_is_not_kept(database: Database) -> None:
    row, key = make_key(database)
    assert role_of(database, key) is Role.OPERATOR
    assert key.startswith("rm-")
    assert row.prefix == key[:10]
    with database.engine.connect() as connection:
        everything = connection.exec_driver_sql("SELECT to_jsonb(k)::text FROM api_key k").scalar_one()
    assert key[10:] not in everything


@pytest.mark.parametrize("wrong", ["", "rm-", "rm-x", "é"])
def test_another_key_opens_for_nobody(database: Database, wrong: str) -> None:
    _, key = make_key(database)
    assert role_of(database, wrong) is None
    assert role_of(database, key[:-1]) is None


def test_a_key_ends_when_it_expires(database: Database) -> None:
    now = dt.datetime.now(dt.UTC)
    row, key = make_key(database, expires_at=now + dt.timedelta(days=1))
    assert role_of(database, key) is Role.OPERATOR
    with database.transaction() as session:
        session.get_one(ApiKey, row.id).expires_at = now
    assert role_of(database, key) is None


def test_a_revoked_key_ends_at_once_and_the_gateways_are_told(database: Database) -> None:
    row, key = make_key(database)
    wake = Wake(database.url, identity.KEY_CHANNEL)
    wake.wait(0.1)
    for _ in range(2):
        with database.transaction() as session:
            assert identity.revoke_key(session, row.id, ADA).revoked_at is not None
    assert wake.wait(5)
    wake.close()
    assert role_of(database, key) is None
    with database.transaction() as session:
        actions = session.scalars(select(AuditEvent.action).order_by(AuditEvent.seq)).all()
    assert actions == ["account.create", "key.create", "key.revoke"]


def test_a_disabled_account_has_no_key(database: Database) -> None:
    _, key = make_key(database)
    with database.transaction() as session:
        session.scalars(select(Account)).one().disabled_at = dt.datetime.now(dt.UTC)
    assert role_of(database, key) is None


def test_what_is_not_there_is_named(database: Database) -> None:
    with database.transaction() as session:
        with pytest.raises(NotFound, match="no account 'bob': make it with `raymill user create bob`"):
            identity.create_key(session, "bob", "laptop", ADA)
        with pytest.raises(NotFound, match="`raymill key list`"):
            identity.revoke_key(session, new_id(), ADA)


def test_a_name_is_taken_once_also_by_eight_at_once(database: Database) -> None:
    def create(_: int) -> bool:
        try:
            with database.transaction() as session:
                identity.create_account(session, "bob", Role.VIEWER, ADA)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(create, range(8))) == 1
    with pytest.raises(Conflict, match="account 'bob' exists already: choose another name"):
        make_key(database)


def test_the_first_admin_is_made_once_and_a_revoked_key_stays_revoked(database: Database) -> None:
    for _ in range(2):
        with database.transaction() as session:
            identity.ensure_admin(session, "rm-first")
    assert role_of(database, "rm-first") is Role.ADMIN
    with database.transaction() as session:
        identity.revoke_key(session, session.scalars(select(ApiKey.id)).one(), ADA)
    with database.transaction() as session:
        identity.ensure_admin(session, "rm-first")  # the service starts again
        assert session.scalar(select(func.count()).select_from(ApiKey)) == 1
    assert role_of(database, "rm-first") is None


def test_a_new_key_file_makes_another_key_for_the_same_admin(database: Database) -> None:
    for key in ("rm-first", "rm-second"):
        with database.transaction() as session:
            identity.ensure_admin(session, key)
    assert role_of(database, "rm-first") is role_of(database, "rm-second") is Role.ADMIN
    with database.transaction() as session:
        assert session.scalar(select(func.count()).select_from(Account)) == 1
