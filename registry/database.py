"""The one way to Postgres: an engine, transactions, and patience while the database is away.

Isolation is read committed; what must be serial takes a row or advisory lock and says so.
"""

from __future__ import annotations

import datetime as dt
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
import psycopg
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg.types.json import set_json_loads
from sqlalchemy import URL, Engine, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session

from raymill.policies.errors import Conflict, Invalid, Unavailable

T = TypeVar("T")

MIGRATIONS = Path(__file__).resolve().parent / "migrations"

CONNECT_S = 5
"""So long a server may take to accept a connection, before it counts as away."""


class Database:
    """Sessions on one Postgres. Safe to share between threads; make a new one after a fork."""

    def __init__(self, url: str, *, pool_size: int = 5) -> None:
        self.url = normal_url(url)
        self.engine: Engine = create_engine(
            self.url,
            pool_size=pool_size,
            max_overflow=10,
            pool_pre_ping=True,
            connect_args={"application_name": "raymill"},
            json_deserializer=msgspec.json.decode,
        )

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """One transaction: commits at the end of the block, rolls back when it raises."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    def patiently(self, work: Callable[[Session], T], *, timeout_s: float = 600.0) -> T:
        """Run `work` in a transaction, again and again while the database is away.

        `work` must bear being run twice: when the answer to COMMIT is lost, nobody knows if it took effect.

        Raises:
            Unavailable: the database stayed away for `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        for attempt in range(1_000_000):
            try:
                with self.transaction() as session:
                    return work(session)
            except (DBAPIError, psycopg.Error) as error:
                _wait_or_raise(error, attempt, deadline, timeout_s)
        raise AssertionError("unreachable")

    def hold(self) -> Held:
        """A connection of one's own, outside the pool."""
        return Held(self.url)

    def hold_once(self, work: Callable[[psycopg.Connection[tuple[object, ...]]], T]) -> T:
        """Run `work` on a connection of its own, in autocommit."""
        held = self.hold()
        try:
            return held.run(work)
        finally:
            held.close()

    def migrate(self, revision: str = "head") -> None:
        """Bring the schema to `revision`; one process at a time, the others wait for it.

        Raises:
            Conflict: the schema is of a newer release than this one. Nothing was changed.
        """
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        with self.engine.connect() as connection:
            connection.execute(
                text("SELECT pg_advisory_lock(7265706)")
            )  # session lock: one migration at a time
            connection.commit()
            config.attributes["connection"] = connection
            try:
                current = MigrationContext.configure(connection).get_current_revision()
                if current is not None and current not in known_revisions():
                    raise Conflict(
                        f"the schema is at {current}, which is newer than this release: run the release that made it, "
                        "or restore a backup that was taken before"
                    )
                if revision == "base":
                    command.downgrade(config, revision)
                else:
                    command.upgrade(config, revision)
                connection.commit()
            finally:
                connection.rollback()
                connection.execute(text("SELECT pg_advisory_unlock(7265706)"))
                connection.commit()

    def revisions(self) -> tuple[str | None, str | None]:
        """Of the schema that is there, and of the newest that there is a migration to."""
        with self.engine.connect() as connection:
            current = MigrationContext.configure(connection).get_current_revision()
        return current, ScriptDirectory(str(MIGRATIONS)).get_current_head()

    def close(self) -> None:
        self.engine.dispose()


def known_revisions() -> set[str]:
    """The schemas that this release can bring to its own."""
    return {script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions()}


BY_INDEX = "-c plan_cache_mode=force_generic_plan " + " ".join(
    f"-c {setting}=off"
    for setting in ("enable_seqscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin")
)
"""A plan is made once for thousands of executions, for planning a claim takes longer than claiming; perhaps while the
table is small: read whole then, it would be read whole for ever. Each of our statements has an index to go by."""


class Held:
    """One connection in autocommit that is kept, for one thread that runs a statement thousands of times a second."""

    def __init__(self, url: URL) -> None:
        self._dsn = dsn_of(url)
        self._connection: psycopg.Connection[tuple[object, ...]] | None = None

    def run(
        self,
        work: Callable[[psycopg.Connection[tuple[object, ...]]], T],
        *,
        again: Callable[[psycopg.Connection[tuple[object, ...]]], T] | None = None,
        timeout_s: float = 600.0,
    ) -> T:
        """Run `work`, again and again while the database is away.

        Args:
            again: run instead of `work` after a try whose answer was lost, for nobody knows if it took effect.

        Raises:
            Unavailable: the database stayed away for `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        sent = False
        for attempt in range(1_000_000):
            try:
                if self._connection is None:
                    self._connection = connection = psycopg.connect(
                        self._dsn,
                        autocommit=True,
                        application_name="raymill",
                        options=BY_INDEX,
                    )
                    set_json_loads(msgspec.json.decode, connection)
                this = again if sent and again is not None else work
                sent = True
                return this(self._connection)
            except psycopg.Error as error:
                self.close()
                _wait_or_raise(error, attempt, deadline, timeout_s)
        raise AssertionError("unreachable")

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def is_away(error: DBAPIError | psycopg.Error) -> bool:
    """Whether the database, not the statement, is what failed: no connection, shutdown, start-up, deadlock."""
    if isinstance(error, psycopg.Error):
        return isinstance(error, psycopg.OperationalError)
    if error.connection_invalidated or isinstance(error, OperationalError):
        return True
    state = getattr(error.orig, "sqlstate", None) or ""
    return state.startswith(("08", "57P", "40"))


def _wait_or_raise(
    error: DBAPIError | psycopg.Error, attempt: int, deadline: float, timeout_s: float
) -> None:
    if not is_away(error):
        raise error
    if time.monotonic() > deadline:
        raise Unavailable(
            f"Postgres did not answer for {timeout_s:.0f} s: see that it runs and is reachable"
        ) from error
    time.sleep(random.uniform(0, min(5.0, 0.1 * 2 ** min(attempt, 6))))


def one_at_a_time(session: Session, key: str) -> None:
    """Writers of the same key take turns: the next one goes on after this transaction has ended."""
    session.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 2))"), {"key": key})


def clock(session: Session) -> dt.datetime:
    """The database's time now, which what it keeps is compared with."""
    now: dt.datetime = session.execute(text("SELECT clock_timestamp()")).scalar_one()
    return now


def normal_url(url: str) -> URL:
    """`postgres://…` as people write it, with the driver that we use, and CONNECT_S unless it names another.

    Raises:
        Invalid: not a Postgres address.
    """
    try:
        parsed = make_url(url)
    except Exception as error:
        raise Invalid(
            "DATABASE_URL is no database address: it must look like postgresql://user@host/db"
        ) from error
    if parsed.drivername not in {"postgres", "postgresql", "postgresql+psycopg"}:
        raise Invalid(
            f"DATABASE_URL names {parsed.drivername!r}: only postgresql:// works, version 15 or newer"
        )
    query = {"connect_timeout": str(CONNECT_S), **parsed.query}
    return parsed.set(drivername="postgresql+psycopg", query=query)


def dsn_of(url: URL) -> str:
    """The same address as libpq takes it. It holds the password."""
    return url.set(drivername="postgresql").render_as_string(hide_password=False)
