"""How often somebody may try to log in: by account and by address, whichever replica is asked.

An attempt is counted before the password is looked at, in a transaction of its own, so that many at once are all
counted. After `ALLOWED` of them the subject is locked, for twice as long each time. Names that no account has are
counted and locked like others, so that nothing tells whether there is one. Units: seconds.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import delete, text
from sqlalchemy.orm import Session

from raymill.policies.errors import RaymillError
from raymill.registry import audit
from raymill.registry.audit import Actor
from raymill.registry.database import Database
from raymill.registry.tables import LoginAttempts

WINDOW_S = 3600
"""After so long without an attempt the count begins anew. Longer than the longest lock."""

FIRST_LOCK_S = 30
LONGEST_LOCK_S = 900
KEPT_S = 86_400


class TooManyAttempts(RaymillError):
    """Locked for a while."""

    code = "too_many_attempts"

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Allowed(NamedTuple):
    """How many attempts there may be before each further one locks."""

    account: int = 5
    address: int = 50


ALLOWED = Allowed()

_COUNT = text(
    """
    INSERT INTO login_attempts AS a (subject, count, last_at, locked_until) VALUES (:subject, 1, :now, NULL)
    ON CONFLICT (subject) DO UPDATE SET
        count = CASE WHEN a.locked_until > :now THEN a.count
                     WHEN a.last_at < :quiet THEN 1 ELSE a.count + 1 END,
        last_at = CASE WHEN a.locked_until > :now THEN a.last_at ELSE :now END
    RETURNING count, locked_until
    """
)
_LOCK = text("UPDATE login_attempts SET locked_until = :until WHERE subject = :subject")
_UNCOUNT = text("UPDATE login_attempts SET count = greatest(count - 1, 0) WHERE subject = :subject")


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """Who is said to log in, and from where."""

    account: str | None
    """None: it is not known yet."""
    address: str | None

    def subjects(self) -> list[tuple[str, int]]:
        """Hash -> attempts allowed. In a fixed order, for each is a row that is locked."""
        found = []
        if self.account is not None:
            found.append((_hash("account", self.account), ALLOWED.account))
        # The loopback interface is a proxy's, which stands for everybody.
        if self.address is not None and not _is_loopback(self.address):
            found.append((_hash("address", self.address), ALLOWED.address))
        return sorted(found)


def begin(database: Database, attempt: Attempt, actor: Actor, now: dt.datetime | None = None) -> None:
    """Count an attempt.

    Raises:
        TooManyAttempts: it may not be made now.
    """
    now = now or dt.datetime.now(dt.UTC)
    wait_s = 0.0
    with database.transaction() as session:
        session.execute(
            delete(LoginAttempts).where(LoginAttempts.last_at < now - dt.timedelta(seconds=KEPT_S))
        )
        for subject, allowed in attempt.subjects():
            quiet = now - dt.timedelta(seconds=WINDOW_S)
            row = session.execute(_COUNT, {"subject": subject, "now": now, "quiet": quiet}).one()
            count, locked_until = int(row[0]), row[1]
            if locked_until is not None and locked_until > now:
                wait_s = max(wait_s, (locked_until - now).total_seconds())
            elif count >= allowed:
                # This attempt may still be made; the next one waits.
                lock_s = min(FIRST_LOCK_S * 2 ** min(count - allowed, 10), LONGEST_LOCK_S)
                session.execute(_LOCK, {"subject": subject, "until": now + dt.timedelta(seconds=lock_s)})
                audit.record(session, actor, "login.lock", f"login/{subject[:12]}", seconds=lock_s)
    if wait_s:
        seconds = int(wait_s) + 1
        raise TooManyAttempts(f"too many attempts to log in: wait {seconds} s", retry_after_s=seconds)


def succeed(database: Database, attempt: Attempt) -> None:
    """Forget the account's attempts; of the address's only this one, for others may be guesses."""
    account = _hash("account", attempt.account) if attempt.account is not None else None
    with database.transaction() as session:
        for subject, _ in attempt.subjects():
            if subject == account:
                session.execute(delete(LoginAttempts).where(LoginAttempts.subject == subject))
            else:
                session.execute(_UNCOUNT, {"subject": subject})


def forget(session: Session, account: str) -> None:
    """Let an account log in again at once."""
    session.execute(delete(LoginAttempts).where(LoginAttempts.subject == _hash("account", account)))


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _hash(kind: str, value: str) -> str:
    return hashlib.sha256(f"{kind}:{value}".encode()).hexdigest()
