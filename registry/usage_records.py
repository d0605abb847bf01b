"""Single requests from the records of usage, a page at a time. Money is micro-dollars, times are milliseconds."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any, NamedTuple

from sqlalchemy import text
from sqlalchemy.orm import Session

from raymill.registry.usage_filters import EVERYTHING, Filters, span

# Single requests with the names of who asked, newest first; `at` and `id` continue after the last one seen.
RECORDS = """
SELECT usage.id, request_id, at, account.name AS account, team.name AS team, key_id, api_key.name AS key,
       operation, route, provider, model, status, outcome, stream, attempts, prompt_tokens, cached_tokens,
       completion_tokens, estimated, cost_micro_usd, priced, latency_ms, first_token_ms, overhead_ms
FROM usage
LEFT JOIN account ON account.id = usage.account_id
LEFT JOIN team ON team.id = usage.team_id
LEFT JOIN api_key ON api_key.id = usage.key_id
WHERE {conditions}
ORDER BY at DESC, usage.id DESC
LIMIT :limit
"""


class Position(NamedTuple):
    """After which row a list goes on."""

    at: dt.datetime
    id: uuid.UUID


class Record(NamedTuple):
    """One request, with the names of who asked. A name is None when nothing by that id is left."""

    id: uuid.UUID
    request_id: str
    at: dt.datetime
    account: str | None
    team: str | None
    key_id: uuid.UUID
    key: str | None
    operation: str
    route: str
    provider: str
    model: str
    status: int
    outcome: str
    stream: bool
    attempts: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    estimated: bool
    cost_micro_usd: int
    priced: bool
    latency_ms: float
    first_token_ms: float | None
    overhead_ms: float


def records(
    session: Session,
    *,
    since: dt.datetime,
    until: dt.datetime,
    filters: Filters = EVERYTHING,
    after: Position | None = None,
    limit: int = 50,
) -> list[Record]:
    """Single requests, newest first, those that come after `after` in that order."""
    where = filters.conditions()
    values: dict[str, Any] = {**span(since, until), **filters.values(), "limit": limit}
    if after is not None:
        where += " AND (at, usage.id) < (:after_at, :after_id)"
        values |= {"after_at": after.at, "after_id": after.id}
    return [Record(*row) for row in session.execute(text(RECORDS.format(conditions=where)), values)]
