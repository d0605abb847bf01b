"""How audit rows reach the log: with their transaction's COMMIT, in one message to the server.

They wait in the session until then; a savepoint that is rolled back takes its rows along. So the log's lock is held for
a moment of the server's own, and no writer waits for what another one computes.

Nor does it wait for another one's flush: the commit itself does not flush (`synchronous_commit`); what is written
after it does, before the caller is told, and one flush serves all who wait. The WAL is one line, so no row reaches the
disk without those before it. For that millisecond others may see what a crash would take back, and nobody was told of.
Whoever vouches for rows elsewhere calls `make_durable` first.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import psycopg
from psycopg import generators
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus, TransactionStatus
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.orm import Session, SessionTransaction

from raymill.registry.tables import JsonObject

_WAITING = "raymill.audit"
_APPEND = """
SELECT raymill_audit_append(
    %(at)s, %(actor)s, %(action)s, %(object)s, %(detail)s::jsonb, %(request_id)s, %(address)s, %(before)s::jsonb,
    %(after)s::jsonb, %(said)s
)"""
_AT_ONCE = 500
"""Statements in one message."""

_FLUSH = "SELECT pg_logical_emit_message(true, 'raymill', '')"
"""Commits something of its own, as the server is set up to commit: all of the WAL before it is on disk then."""

_FLUSH_17 = """
SELECT pg_logical_emit_message(current_setting('synchronous_standby_names') <> '', 'raymill', '', true)"""
"""The same without a commit, since PostgreSQL 17, but where standbys must have it too: a third less work."""


class _Waiting(NamedTuple):
    transaction: SessionTransaction
    """The innermost one that it was recorded in."""

    row: JsonObject


def append_at_commit(session: Session, row: JsonObject) -> None:
    """Write `row` when the session's transaction commits. Its keys are the parameters of `raymill_audit_append`."""
    transaction = session.get_nested_transaction() or session.get_transaction() or session.begin()
    session.info.setdefault(_WAITING, []).append(_Waiting(transaction, row))


def make_durable(session: Session) -> None:
    """All rows that the session can see are on disk when this returns."""
    bind = session.get_bind()
    engine: Engine = bind.engine if isinstance(bind, Connection) else bind
    with engine.begin() as connection:
        connection.execute(text(_FLUSH))


def driver_connection(session: Session) -> psycopg.Connection[tuple[Any, ...]]:
    """What the session's transaction runs on, without SQLAlchemy."""
    connection = session.connection().connection.driver_connection
    assert isinstance(connection, psycopg.Connection)
    return connection


@event.listens_for(Session, "before_commit")
def _append_and_commit(session: Session) -> None:
    if session.in_nested_transaction() or not session.info.get(_WAITING):
        return
    session.flush()
    connection = driver_connection(session)
    cursor = psycopg.ClientCursor(connection)
    statements = [cursor.mogrify(_APPEND, waiting.row) for waiting in session.info.pop(_WAITING)]
    if connection.info.transaction_status == TransactionStatus.IDLE:
        statements.insert(0, "BEGIN")
    while len(statements) > _AT_ONCE:
        _send(connection, statements[:_AT_ONCE])
        del statements[:_AT_ONCE]
    flush = _FLUSH_17 if connection.info.server_version >= 170000 else _FLUSH
    # SQLAlchemy's own COMMIT finds nothing to do.
    _send(connection, [*statements, "SET LOCAL synchronous_commit = off", "COMMIT", flush])


def _send(connection: psycopg.Connection[Any], statements: list[str]) -> None:
    """All in one message, which a cursor would put a BEGIN with a round trip of its own before."""
    connection.pgconn.send_query(";".join(statements).encode(connection.info.encoding))
    result = connection.wait(generators.execute(connection.pgconn))[-1]
    if result.status not in {ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK}:
        raise error_from_result(result, encoding=connection.info.encoding)


@event.listens_for(Session, "after_soft_rollback")
def _forget(session: Session, ended: SessionTransaction) -> None:
    waiting: list[_Waiting] = session.info.get(_WAITING, [])
    waiting[:] = [each for each in waiting if not _is_within(each.transaction, ended)]


def _is_within(transaction: SessionTransaction | None, outer: SessionTransaction) -> bool:
    while transaction is not None and transaction is not outer:
        transaction = transaction.parent
    return transaction is outer
