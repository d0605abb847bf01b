"""Passwords: hashed with Argon2id (RFC 9106), checked in the same time whether there is one or not.

Parameters are OWASP's first choice (Password Storage Cheat Sheet): 19 MiB, two passes, one lane, which takes about
80 ms. At most two are computed at once in a process: more would be a way to fill its memory from outside.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import os
import threading
from collections.abc import Iterator

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from sqlalchemy.orm import Session

from raymill.policies.errors import Invalid, Unavailable
from raymill.registry import audit
from raymill.registry.audit import Actor
from raymill.registry.tables import Account, Password

MEMORY_KIB = 19_456
PASSES = 2
LANES = 1
PARAMETERS = f"$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p={LANES}$"

MIN_CHARS = 12
MAX_CHARS = 1024

WAIT_S = 5.0

_at_once = threading.BoundedSemaphore(2)


def hash_password(password: str) -> str:
    """In PHC format: algorithm, parameters, random salt of 16 bytes, hash of 32 bytes. Raises Unavailable."""
    kdf = Argon2id(salt=os.urandom(16), length=32, iterations=PASSES, lanes=LANES, memory_cost=MEMORY_KIB)
    with _a_turn():
        return kdf.derive_phc_encoded(password.encode())


def matches(password: str, phc: str | None) -> bool:
    """Whether that is the password; None, of an account without one, takes as long to say no. Raises Unavailable."""
    expected = phc or _nobodys()
    with _a_turn():
        try:
            Argon2id.verify_phc_encoded(password.encode(), expected)
        except InvalidKey:
            return False
    return phc is not None


def phc_of(session: Session, account: Account | None) -> str | None:
    """The hash of an account's password. To be read before `matches`, which is slow and needs no transaction."""
    row = session.get(Password, account.id) if account is not None else None
    return row.phc if row is not None else None


def renew(session: Session, account: Account, password: str) -> None:
    """Hash a password that was just checked with today's parameters, when an older release hashed it."""
    row = session.get_one(Password, account.id)
    if not row.phc.startswith(PARAMETERS):
        row.phc = hash_password(password)


def set_password(session: Session, account: Account, password: str, actor: Actor) -> None:
    """Give an account a password, or another one.

    Raises:
        Invalid: it is too short, too long, or holds the account's name. The message does not hold it.
    """
    if not MIN_CHARS <= len(password) <= MAX_CHARS:
        raise Invalid(
            f"the password has {len(password)} characters: choose one of {MIN_CHARS} to {MAX_CHARS}",
            param="password",
        )
    if account.name in password.lower():
        raise Invalid("the password holds the account's name: choose another one", param="password")
    row = session.get(Password, account.id, with_for_update=True)
    phc = hash_password(password)
    if row is None:
        session.add(Password(account_id=account.id, phc=phc))
    else:
        row.phc, row.changed_at = phc, dt.datetime.now(dt.UTC)
    audit.record(session, actor, "password.set", f"account/{account.name}")


@contextlib.contextmanager
def _a_turn() -> Iterator[None]:
    if not _at_once.acquire(timeout=WAIT_S):
        raise Unavailable("too many log in at once: try again in a few seconds")
    try:
        yield
    finally:
        _at_once.release()


@functools.cache
def _nobodys() -> str:
    return hash_password(os.urandom(16).hex())
