"""Usage: summaries, single requests, what is unusual, and all of it as CSV.

Approvers and administrators see everyone's, others their own account's; for anyone who sees more than one
account the filters narrow it down.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Annotated, NamedTuple, cast

from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import StreamingResponse
from sqlalchemy.orm import Session

from raymill.client import types, usage_csv, usage_types
from raymill.policies.errors import Invalid
from raymill.registry import usage, usage_anomalies
from raymill.registry.database import Database
from raymill.registry.usage_filters import Filters
from raymill.registry.usage_records import Position, Record, records
from raymill.serve.api.context import PartsDep, SessionDep, Who
from raymill.serve.api.paging import Cursor, Limit
from raymill.serve.api.scope import account_in_reach, only_own
from raymill.serve.api.threads import ThreadRoute
from raymill.serve.api.time_paging import cursor_of, position_of

router = APIRouter(tags=["usage"], route_class=ThreadRoute)

DEFAULT_SPAN = dt.timedelta(days=7)
YEARS = range(2000, 2200)
CSV_BATCH = 2000

Text = Annotated[str | None, Query(max_length=200)]
GroupBy = Annotated[
    str,
    Query(
        max_length=100,
        description=f"Any of {', '.join(usage.DIMENSIONS)}, with commas between; empty for the total alone.",
    ),
]
Moment = Annotated[dt.datetime | None, Query(description="ISO 8601; UTC when it has no zone.")]


class Asked(NamedTuple):
    """Which requests a call is about."""

    since: dt.datetime
    until: dt.datetime
    filters: Filters


def asked(
    who: Who,
    opened: SessionDep,
    since: Moment = None,
    until: Moment = None,
    account: Text = None,
    team: Text = None,
    key: Text = None,
    route: Text = None,
    provider: Text = None,
    model: Text = None,
    operation: Text = None,
    outcome: Text = None,
    request_id: Text = None,
) -> Asked:
    """The last 7 days by default; names or ids of accounts, teams and keys."""
    end = _moment("until", until) or dt.datetime.now(dt.UTC)
    start = _moment("since", since) or end - DEFAULT_SPAN
    own = only_own(opened, who)
    if account is not None and own is not None:
        account = account_in_reach(opened, who, account).name
    plain = Filters(
        account_id=own,
        route=route,
        provider=provider,
        model=model,
        operation=operation,
        outcome=outcome,
        request_id=request_id,
    )
    return Asked(start, end, plain.of(opened, account=account, team=team, key=key))


AskedDep = Annotated[Asked, Depends(asked)]


def _moment(param: str, given: dt.datetime | None) -> dt.datetime | None:
    if given is None:
        return None
    if given.year not in YEARS:
        raise Invalid(f"{param} is in the year {given.year}: give one from 2000 on", param=param)
    return given if given.tzinfo is not None else given.replace(tzinfo=dt.UTC)


@router.get("/usage")
def summary(what: AskedDep, opened: SessionDep, group_by: GroupBy = "day") -> usage_types.UsageSummary:
    """Requests, errors, tokens, spend and latency by day, route and so on, and of all together."""
    dimensions = usage.checked_dimensions([name.strip() for name in group_by.split(",") if name.strip()])
    found = usage.summarize(
        opened, since=what.since, until=what.until, group_by=dimensions, filters=what.filters
    )
    return usage_types.UsageSummary(
        since=what.since,
        until=what.until,
        group_by=[cast(usage_types.Dimension, name) for name in dimensions],
        data=[_group(group) for group in found.groups],
        total=_group(found.total),
    )


@router.get("/usage/records")
def list_records(
    what: AskedDep, opened: SessionDep, limit: Limit = 50, cursor: Cursor = None
) -> types.Page[usage_types.UsageRecord]:
    """Single requests, newest first."""
    found = records(
        opened,
        since=what.since,
        until=what.until,
        filters=what.filters,
        after=position_of(cursor),
        limit=limit + 1,
    )
    shown = found[:limit]
    more = cursor_of(Position(shown[-1].at, shown[-1].id)) if len(found) > limit else None
    data = [usage_types.UsageRecord.model_validate(record) for record in shown]
    return types.Page(data=data, next_cursor=more)


@router.get("/usage/anomalies")
def anomalies(
    what: AskedDep,
    opened: SessionDep,
    by: Annotated[
        str, Query(max_length=20, description="route, key, team, account, provider, model…")
    ] = "route",
    window_hours: Annotated[int, Query(ge=1, le=24)] = 24,
) -> usage_types.AnomalyReport:
    """What was unlike the same hours of the last 28 days. Of `since` and `until` only the second counts."""
    found = usage_anomalies.anomalies(
        opened, until=what.until, by=by, window_hours=window_hours, filters=what.filters
    )
    return usage_types.AnomalyReport(
        until=what.until,
        window_hours=window_hours,
        data=[usage_types.Anomaly.model_validate(each) for each in found],
    )


@router.get("/usage.csv", response_class=StreamingResponse)
def as_csv(what: AskedDep, opened: SessionDep, found: PartsDep, group_by: GroupBy = "") -> Response:
    """A summary when it is grouped, else every single request, newest first, as long as it takes."""
    if group_by:
        lines = usage_csv.summary_csv(summary(what, opened, group_by))
    else:
        # The first piece now: a question that makes no sense is then answered with its status.
        lines = _record_lines(found.database, what, _piece(opened, what, None))
    headers = {"content-disposition": 'attachment; filename="usage.csv"'}
    return StreamingResponse(lines, media_type="text/csv; charset=utf-8", headers=headers)


def _piece(session: Session, what: Asked, after: Position | None) -> list[Record]:
    return records(
        session, since=what.since, until=what.until, filters=what.filters, after=after, limit=CSV_BATCH
    )


def _record_lines(database: Database, what: Asked, rows: list[Record]) -> Iterator[str]:
    """`rows` and all that follow, each piece read in a transaction of its own: a slow reader holds nothing."""
    yield usage_csv.records_head()
    while rows:
        yield "".join(usage_csv.records_csv(usage_types.UsageRecord.model_validate(row) for row in rows))
        if len(rows) < CSV_BATCH:
            return
        with database.transaction() as session:
            rows = _piece(session, what, Position(rows[-1].at, rows[-1].id))


def _group(group: usage.Group) -> usage_types.UsageGroup:
    return usage_types.UsageGroup.model_validate(group)
