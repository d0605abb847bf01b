"""Logins: who knows the password gets in, guessing is slow, a copied token ends its session."""

from __future__ import annotations

import datetime as dt
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from sqlalchemy import func, select, text
from tests.registry.making import ADA

from raymill.policies.errors import Invalid, NotFound
from raymill.registry import identity, login_attempts, passwords, retention, sessions
from raymill.registry.database import Database
from raymill.registry.login_attempts import Attempt, TooManyAttempts
from raymill.registry.retention import SESSION_DAYS, Retention
from raymill.registry.secrets import SecretBox
from raymill.registry.sessions import Lifetimes, Tokens
from raymill.registry.tables import Account, AuditEvent, Password, Role, SpentRefresh, new_id

PASSWORD = "correct horse battery"
LIVES = Lifetimes(access_s=600, session_s=3600)


@pytest.fixture
def box(tmp_path: Path) -> SecretBox:
    made = SecretBox(tmp_path / "secrets")
    made.create_if_missing()
    return made


@pytest.fixture
def bob(database: Database) -> Account:
    with database.transaction() as session:
        account = identity.create_account(session, "bob", Role.OPERATOR, ADA)
        passwords.set_password(session, account, PASSWORD, ADA)
    return account


def log_in(database: Database, box: SecretBox, lifetimes: Lifetimes = LIVES) -> Tokens:
    with database.transaction() as session:
        account = identity.find_account(session, "bob")
        return sessions.open_session(session, box, account, "password", ADA, lifetimes)


def refresh(database: Database, box: SecretBox, token: str) -> Tokens | None:
    with database.transaction() as session:
        return sessions.refresh_session(session, box, token, ADA, LIVES)


def opens(database: Database, box: SecretBox, access_token: str) -> bool:
    with database.transaction() as session:
        return sessions.session_of(session, box, access_token) is not None


def actions(database: Database) -> list[str]:
    with database.transaction() as session:
        return list(session.scalars(select(AuditEvent.action).order_by(AuditEvent.seq)))


# --- passwords --------------------------------------------------------------------------------------------


def test_a_password_is_kept_as_argon2id_and_known_again(database: Database, bob: Account) -> None:
    older = Argon2id(salt=b"s" * 16, length=32, iterations=1, lanes=1, memory_cost=8192)
    with database.transaction() as session:
        phc = passwords.phc_of(session, bob)
        assert phc is not None
        assert phc.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
        assert passwords.matches(PASSWORD, phc)
        assert not passwords.matches(PASSWORD + " ", phc)
        assert passwords.phc_of(session, None) is None
        assert not passwords.matches(PASSWORD, None)
        session.get_one(Password, bob.id).phc = older.derive_phc_encoded(PASSWORD.encode())
        passwords.renew(session, bob, PASSWORD)
        assert passwords.matches(PASSWORD, renewed := passwords.phc_of(session, bob))
        assert (renewed or "").startswith(passwords.PARAMETERS)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("short", "has 5 characters: choose one of 12 to 1024"),
        ("bob-the-operator", "holds the account's name"),
    ],
)
def test_a_weak_password_is_refused_and_not_repeated(
    database: Database, bob: Account, wrong: str, words: str
) -> None:
    with database.transaction() as session, pytest.raises(Invalid, match=words) as error:
        passwords.set_password(session, bob, wrong, ADA)
    assert wrong not in str(error.value)


# --- attempts ---------------------------------------------------------------------------------------------


def test_guessing_locks_an_account_for_longer_each_time_whether_or_not_it_exists(database: Database) -> None:
    now = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
    for name in ("bob", "nobody"):
        attempt, at = Attempt(account=name, address=None), now
        for _ in range(5):
            login_attempts.begin(database, attempt, ADA, at)
        waits = []
        for _ in range(7):
            with pytest.raises(TooManyAttempts) as error:
                login_attempts.begin(database, attempt, ADA, at)
            waits.append(error.value.retry_after_s)
            at += dt.timedelta(seconds=waits[-1])
            login_attempts.begin(database, attempt, ADA, at)
        assert waits == [31, 61, 121, 241, 481, 901, 901]
        login_attempts.succeed(database, attempt)
        login_attempts.begin(database, attempt, ADA, at)


def test_guesses_at_once_are_all_counted_and_an_address_is_locked_too(database: Database) -> None:
    def guess(number: int) -> bool:
        try:
            login_attempts.begin(database, Attempt(account=f"a{number}", address="192.0.2.1"), ADA)
        except TooManyAttempts:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(guess, range(60))) == login_attempts.ALLOWED.address
    login_attempts.begin(database, Attempt(account="a1", address="192.0.2.2"), ADA)
    for number in range(60):  # a proxy's, which stands for everybody
        login_attempts.begin(database, Attempt(account=f"b{number}", address="127.0.0.1"), ADA)
    with database.engine.connect() as connection:
        kept = connection.execute(text("SELECT string_agg(subject, ' ') FROM login_attempts")).scalar_one()
    assert "192.0.2" not in kept


# --- sessions ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("bob")
def test_a_refresh_token_works_once_and_its_copy_ends_the_session(database: Database, box: SecretBox) -> None:
    first = log_in(database, box)
    assert opens(database, box, first.access_token)
    second = refresh(database, box, first.refresh_token)
    assert second is not None
    assert opens(database, box, second.access_token)
    assert refresh(database, box, "rmr-wrong") is None
    assert opens(database, box, second.access_token)
    assert refresh(database, box, first.refresh_token) is None
    assert not opens(database, box, second.access_token)
    assert refresh(database, box, second.refresh_token) is None
    assert actions(database)[-2:] == ["session.open", "session.reuse"]


@pytest.mark.usefixtures("bob")
def test_of_many_that_refresh_at_once_one_gets_tokens(database: Database, box: SecretBox) -> None:
    token = log_in(database, box).refresh_token
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: refresh(database, box, token), range(4)))
    assert len([each for each in found if each is not None]) == 1


def test_an_access_token_ends_with_its_time_session_account_or_key(
    database: Database, box: SecretBox, bob: Account
) -> None:
    assert not opens(database, box, log_in(database, box, Lifetimes(access_s=-60, session_s=60)).access_token)
    assert not opens(database, box, log_in(database, box, Lifetimes(access_s=60, session_s=-1)).access_token)
    tokens = log_in(database, box)
    old = box.current_id()
    box.rotate()
    assert opens(database, box, tokens.access_token)  # signed under the old key, which is still there
    (box.directory / f"{old}.key").unlink()
    assert not opens(database, box, tokens.access_token)
    tokens = log_in(database, box)
    with database.transaction() as session:
        account = identity.find_account(session, "bob", lock=True)
        account.disabled_at = dt.datetime.now(dt.UTC)
    assert not opens(database, box, tokens.access_token)
    assert refresh(database, box, tokens.refresh_token) is None
    with database.transaction() as session:
        identity.find_account(session, "bob", lock=True).disabled_at = None
        assert sessions.revoke_all(session, bob, ADA) > 0
    assert not opens(database, box, tokens.access_token)


@pytest.mark.usefixtures("bob")
def test_a_forged_access_token_opens_nothing(database: Database, box: SecretBox) -> None:
    good = log_in(database, box).access_token
    claims = jwt.decode(good, options={"verify_signature": False})
    key_id, key = box.derived(sessions.PURPOSE)
    header = {"kid": key_id, "typ": sessions.TYPE}
    forged = {
        "unsigned": jwt.encode(claims, "", algorithm="none", headers=header),
        "another key": jwt.encode(claims, b"k" * 32, algorithm="HS256", headers=header),
        "no such key": jwt.encode(claims, key, algorithm="HS256", headers={**header, "kid": "0" * 16}),
        "a path": jwt.encode(claims, key, algorithm="HS256", headers={**header, "kid": "../" + key_id}),
        "another type": jwt.encode(claims, key, algorithm="HS256", headers={"kid": key_id}),
        "another audience": jwt.encode({**claims, "aud": "x"}, key, algorithm="HS256", headers=header),
        "another session": jwt.encode(
            {**claims, "sid": str(new_id())}, key, algorithm="HS256", headers=header
        ),
        "nothing": "..",
    }
    assert {name for name, token in forged.items() if opens(database, box, token)} == set()
    assert opens(database, box, jwt.encode(claims, key, algorithm="HS256", headers=header))


def test_a_session_is_found_by_its_account_alone(database: Database, box: SecretBox, bob: Account) -> None:
    tokens = log_in(database, box)
    with database.transaction() as session:
        eve = identity.create_account(session, "eve", Role.VIEWER, ADA)
        assert [row.id for row in sessions.list_sessions(session, bob)] == [tokens.session.id]
        with pytest.raises(NotFound, match="`raymill session list`"):
            sessions.find_session(session, tokens.session.id, of=eve)
        row = sessions.find_session(session, tokens.session.id, of=bob)
        assert sessions.revoke_session(session, row, ADA).revoked_at is not None
        assert sessions.list_sessions(session, bob) == []


@pytest.mark.usefixtures("bob")
def test_an_ended_session_is_forgotten_with_its_spent_tokens(database: Database, box: SecretBox) -> None:
    tokens = log_in(database, box)
    assert refresh(database, box, tokens.refresh_token) is not None
    goes_at = tokens.session.expires_at + dt.timedelta(days=SESSION_DAYS)
    with database.transaction() as session:
        assert retention.sweep(session, Retention(), goes_at) == {}
        assert session.scalar(select(func.count()).select_from(SpentRefresh)) == 1
        later = goes_at + dt.timedelta(seconds=1)
        assert retention.sweep(session, Retention(), later) == {"login_session": 1}
        assert session.scalar(select(func.count()).select_from(SpentRefresh)) == 0
