"""Usage records into Postgres: rows, and what only new rows mean for meters and traces, in one transaction.

Knows no files but the one for what Postgres refuses. SQL is named text; plain psycopg.
"""

from __future__ import annotations

import logging
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, LiteralString

import msgspec
import psycopg

from raymill.registry import meters
from raymill.registry.meters import MeterKey
from raymill.serve.gateway.segments import keep_refused
from raymill.serve.gateway.spool import Closed, TraceRecord, UsageRecord

logger = logging.getLogger(__name__)

COLUMNS: LiteralString = (
    "id, request_id, at, replica_id, key_id, account_id, team_id, operation, route, provider, model, status, "
    "outcome, stream, attempts, prompt_tokens, cached_tokens, completion_tokens, estimated, cost_micro_usd, "
    "priced, latency_ms, first_token_ms, overhead_ms, canary_id, arm"
)
LONGEST = {
    "request_id": 128,
    "operation": 32,
    "route": 200,
    "provider": 64,
    "model": 200,
    "outcome": 16,
    "arm": 16,
}
"""Characters that a column takes; what is longer is cut."""

# Where a batch lands first: COPY knows no ON CONFLICT.
INCOMING: LiteralString = f"""
CREATE TEMP TABLE incoming_usage ON COMMIT DELETE ROWS AS SELECT {COLUMNS} FROM usage WITH NO DATA
"""
COPY: LiteralString = f"COPY incoming_usage ({COLUMNS}) FROM STDIN"

# Rows that are not there yet. Returns which they were: a batch may come twice.
INSERT: LiteralString = f"""
INSERT INTO usage ({COLUMNS}) SELECT {COLUMNS} FROM incoming_usage ON CONFLICT (id) DO NOTHING RETURNING id
"""

TRACE: LiteralString = """
INSERT INTO trace (usage_id, request_id, account_id, route, at, prompt, answer)
VALUES (%s, %s, %s, %s, %s, %s::jsonb, %s::jsonb) ON CONFLICT (usage_id) DO NOTHING
"""


def prepare(connection: psycopg.Connection[Any]) -> None:
    """Once for each connection, which must be in autocommit."""
    connection.execute(INCOMING)


def store(
    connection: psycopg.Connection[Any], replica_id: uuid.UUID, closed: Sequence[Closed], *, refused: Path
) -> None:
    """Write records of one replica.

    Args:
        refused: Folder that keeps what Postgres does not take, so that the rest is not held up.
    """
    try:
        with connection.transaction():
            _store(connection, replica_id, closed)
    except (psycopg.DataError, psycopg.IntegrityError):
        for entry in closed:
            try:
                with connection.transaction():
                    _store(connection, replica_id, [entry])
            except (psycopg.DataError, psycopg.IntegrityError) as error:
                logger.error("Postgres refused the record of request %s: %s", entry.record.request_id, error)
                keep_refused(refused, msgspec.json.encode(entry))


def store_end(
    connection: psycopg.Connection[Any], replica_id: uuid.UUID, lost: Sequence[UsageRecord], *, refused: Path
) -> None:
    """A replica is dead: requests it did not finish become rows, and its leases go back."""
    store(connection, replica_id, [Closed(record) for record in lost], refused=refused)
    with connection.transaction():
        meters.drop(connection, replica_id)


def _store(connection: psycopg.Connection[Any], replica_id: uuid.UUID, closed: Sequence[Closed]) -> None:
    if not closed:
        return
    with connection.cursor() as cursor:
        with cursor.copy(COPY) as copy:
            for entry in closed:
                copy.write_row(_row(entry.record))
        new = {row[0] for row in cursor.execute(INSERT).fetchall()}
    used: Counter[MeterKey] = Counter()
    traces = []
    for entry in closed:
        if entry.record.id in new:
            new.discard(entry.record.id)
            for name, bucket, amount in entry.deltas:
                used[name, bucket] += amount
            if entry.trace is not None:
                traces.append(_trace_row(entry.record, entry.trace))
    meters.apply(connection, replica_id, used)
    if traces:
        with connection.cursor() as cursor:
            cursor.executemany(TRACE, traces)


def _row(record: UsageRecord) -> list[object]:
    values = msgspec.structs.astuple(record)
    names = record.__struct_fields__
    return [
        _text(name, value) if isinstance(value, str) else value
        for name, value in zip(names, values, strict=True)
    ]


def _text(name: str, value: str) -> str:
    return value.replace("\0", "\ufffd")[: LONGEST[name]]


def _trace_row(record: UsageRecord, trace: TraceRecord) -> tuple[object, ...]:
    return (
        record.id,
        _text("request_id", record.request_id),
        record.account_id,
        _text("route", record.route),
        record.at,
        _json(trace.prompt),
        _json(trace.answer),
    )


def _json(value: Any) -> str:
    encoded = msgspec.json.encode(value).decode()
    # jsonb holds no NUL.
    return msgspec.json.encode(_without_nul(value)).decode() if "\\u0000" in encoded else encoded


def _without_nul(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "\ufffd")
    if isinstance(value, dict):
        return {_without_nul(name): _without_nul(part) for name, part in value.items()}
    return [_without_nul(part) for part in value] if isinstance(value, list) else value
