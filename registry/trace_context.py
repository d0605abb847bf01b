"""Which trace the work at hand belongs to: a W3C `traceparent` in a context variable, and with the jobs that are written.

A job that is written while one is carried keeps it as its first event, so that the attempt, in another process and perhaps
hours later, is a span below the request that asked for it. Makes and exports no spans (`cluster/tracing.py` does).
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any

from sqlalchemy import TextClause, text
from sqlalchemy.orm import Session

TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
EVENT = "trace"
FIRST = 200
"""Events of a pipeline among which its trace is looked for: it is written with its steps."""

WRITE = "INSERT INTO job_event (pipeline_id, job_id, kind, data) VALUES (%s, %s, %s, %s)"


def _read(column: str) -> TextClause:
    return text(f"""
        SELECT data ->> 'traceparent' FROM (
            SELECT id, kind, data FROM job_event WHERE {column} = :of ORDER BY id LIMIT :first) AS early
        WHERE kind = :kind ORDER BY id LIMIT 1""")


OF_JOB, OF_PIPELINE = _read("job_id"), _read("pipeline_id")

_current: ContextVar[str | None] = ContextVar("raymill_traceparent", default=None)


def current() -> str | None:
    return _current.get()


def carry(traceparent: str | None) -> None:
    """What this task or thread does from now on belongs to that trace; None, or what is no traceparent: to none."""
    _current.set(traceparent if trace_id(traceparent) else None)


def trace_id(traceparent: str | None) -> str | None:
    """32 hex digits; None where it is no traceparent."""
    found = TRACEPARENT.fullmatch(traceparent or "")
    return found[1] if found else None


def keep(connection: Any, job_ids: Iterable[uuid.UUID], pipeline_id: uuid.UUID | None = None) -> None:
    """Write the trace that is carried to new jobs, if one is.

    Args:
        connection: psycopg's, in the transaction that writes the jobs.
    """
    traceparent = current()
    if traceparent is None:
        return
    data = json.dumps({"traceparent": traceparent})
    with connection.cursor() as cursor:
        cursor.executemany(WRITE, [(pipeline_id, job_id, EVENT, data) for job_id in job_ids])


def kept(session: Session, job_id: uuid.UUID, pipeline_id: uuid.UUID | None) -> str | None:
    """The traceparent that a job was written with, or its pipeline."""
    statement, of = (OF_JOB, job_id) if pipeline_id is None else (OF_PIPELINE, pipeline_id)
    found: str | None = session.scalar(statement, {"of": of, "first": FIRST, "kind": EVENT})
    return found
