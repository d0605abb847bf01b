"""What was asked of the gateway, what it cost, and how long it took: read from the records of usage.

Money is integer micro-dollars, times are milliseconds, days and hours are UTC. A request is an error when
its client did not get a whole answer and did not give up itself. Latencies are of answers that were given
(`ok`, `cached`), exact percentiles, interpolated between neighbours.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from raymill.policies.errors import Invalid
from raymill.registry.tables import Account, ApiKey, Team
from raymill.registry.usage_filters import EVERYTHING, Filters, span

DIMENSIONS: dict[str, str] = {
    "day": "date_trunc('day', at, 'UTC')",
    "hour": "date_trunc('hour', at, 'UTC')",
    "account": "account_id",
    "team": "team_id",
    "key": "key_id",
    "route": "route",
    "provider": "provider",
    "model": "model",
    "operation": "operation",
}
"""What requests can be grouped by -> its column or expression."""

TIMES = ("day", "hour")
MAX_GROUPS = 10_000

ERROR = "outcome IN ('error', 'broken', 'lost')"

# What was asked, what it cost and how long it took, by the dimensions; the row of `whole` is all of it.
# OFFSET 0 keeps the planner from reading the whole table in an index's order to spare a sort: of a million rows several times as slow.
SUMMARIZE = """
SELECT {dimensions} {whole} AS whole,
       count(*) AS requests,
       count(*) FILTER (WHERE {error}) AS errors,
       count(*) FILTER (WHERE outcome = 'cached') AS cache_hits,
       coalesce(sum(prompt_tokens), 0)::bigint AS prompt_tokens,
       coalesce(sum(cached_tokens), 0)::bigint AS cached_tokens,
       coalesce(sum(completion_tokens), 0)::bigint AS completion_tokens,
       coalesce(sum(cost_micro_usd), 0)::bigint AS cost_micro_usd,
       count(*) FILTER (WHERE NOT priced) AS unpriced,
       percentile_cont(ARRAY[0.5, 0.9, 0.99]) WITHIN GROUP (ORDER BY latency_ms)
           FILTER (WHERE outcome IN ('ok', 'cached')) AS latencies_ms,
       percentile_cont(ARRAY[0.5, 0.99]) WITHIN GROUP (ORDER BY first_token_ms) AS first_tokens_ms
FROM (
    SELECT at, account_id, team_id, key_id, route, provider, model, operation, outcome, prompt_tokens,
           cached_tokens, completion_tokens, cost_micro_usd, priced, latency_ms, first_token_ms
    FROM usage WHERE {conditions} OFFSET 0
) AS chosen
GROUP BY GROUPING SETS ({sets})
ORDER BY whole {order}, cost_micro_usd DESC, requests DESC
LIMIT :most
"""

# What was spent.
SPEND = "SELECT coalesce(sum(cost_micro_usd), 0)::bigint FROM usage WHERE {conditions}"


@dataclass(frozen=True, kw_only=True)
class Group:
    """Requests that have the dimensions' values in common."""

    by: Mapping[str, str]
    """Dimension -> value, as text; a key has also `key_name`, for its id says nothing to people."""

    requests: int
    errors: int
    cache_hits: int
    prompt_tokens: int
    cached_tokens: int
    """Of the prompt tokens, those that the provider had in its cache."""
    completion_tokens: int
    cost_micro_usd: int
    unpriced: int
    """Requests whose price nobody knows; they count as 0 in the cost."""
    latency_p50_ms: float | None
    latency_p90_ms: float | None
    latency_p99_ms: float | None
    first_token_p50_ms: float | None
    first_token_p99_ms: float | None

    @property
    def error_rate(self) -> float:
        return self.errors / self.requests if self.requests else 0.0


class Summary(NamedTuple):
    groups: list[Group]
    """By time, and within it the dearest first."""
    total: Group


def summarize(
    session: Session,
    *,
    since: dt.datetime,
    until: dt.datetime,
    group_by: Sequence[str] = (),
    filters: Filters = EVERYTHING,
) -> Summary:
    """Requests from `since` up to, not including, `until`, grouped and as a whole.

    Raises:
        Invalid: no such dimension, a wrong time span, or more than 10,000 groups.
    """
    dimensions = checked_dimensions(group_by)
    columns = [f"{DIMENSIONS[name]} AS {name}_" for name in dimensions]
    numbers = ", ".join(str(place + 1) for place in range(len(dimensions)))
    statement = SUMMARIZE.format(
        dimensions="".join(f"{column}, " for column in columns),
        whole=f"GROUPING({DIMENSIONS[dimensions[0]]}) = 1" if dimensions else "true",
        sets=f"({numbers}), ()" if dimensions else "()",
        order="".join(f", {name}_" for name in dimensions if name in TIMES),
        error=ERROR,
        conditions=filters.conditions(),
    )
    values = {**span(since, until), **filters.values(), "most": MAX_GROUPS + 2}
    rows = [dict(row._mapping) for row in session.execute(text(statement), values)]
    groups = [row for row in rows if not row["whole"]]
    if len(groups) > MAX_GROUPS:
        raise Invalid(
            f"grouping by {', '.join(dimensions)} gives more than {MAX_GROUPS} rows: "
            "take a shorter time, fewer dimensions, or a filter",
            param="group_by",
        )
    names = {name: names_of(session, name, {row[f"{name}_"] for row in groups}) for name in dimensions}
    total = next(row for row in rows if row["whole"])
    return Summary([_group(row, dimensions, names) for row in groups], _group(total, (), {}))


def spend(session: Session, *, since: dt.datetime, until: dt.datetime, filters: Filters = EVERYTHING) -> int:
    """Micro-dollars that were spent from `since` up to, not including, `until`."""
    statement = SPEND.format(conditions=filters.conditions())
    found: int = session.execute(text(statement), {**span(since, until), **filters.values()}).scalar_one()
    return found


def checked_dimensions(group_by: Collection[str]) -> tuple[str, ...]:
    """Without repetitions. Raises Invalid."""
    for name in group_by:
        if name not in DIMENSIONS:
            raise Invalid(
                f"cannot group by {name!r}: the dimensions are {', '.join(DIMENSIONS)}", param="group_by"
            )
    return tuple(dict.fromkeys(group_by))


def names_of(session: Session, dimension: str, values: Collection[Any]) -> dict[Any, str]:
    """The names of accounts, teams or keys with these ids; for any other dimension none."""
    match dimension:
        case "account":
            rows = session.execute(select(Account.id, Account.name).where(Account.id.in_(_known(values))))
        case "team":
            rows = session.execute(select(Team.id, Team.name).where(Team.id.in_(_known(values))))
        case "key":
            rows = session.execute(
                select(ApiKey.id, func.concat(Account.name, "/", ApiKey.name))
                .join(Account, Account.id == ApiKey.account_id)
                .where(ApiKey.id.in_(_known(values)))
            )
        case _:
            return {}
    return {row_id: name for row_id, name in rows}  # noqa: C416 (a row is no pair to the type checker)


def _known(ids: Collection[Any]) -> set[Any]:
    return set(ids) - {None}


def _group(
    row: Mapping[str, Any], dimensions: Sequence[str], names: Mapping[str, Mapping[Any, str]]
) -> Group:
    by: dict[str, str] = {}
    for dimension in dimensions:
        value = row[f"{dimension}_"]
        if dimension in TIMES:
            moment = value.astimezone(dt.UTC)
            by[dimension] = moment.strftime("%Y-%m-%d" if dimension == "day" else "%Y-%m-%dT%H:00Z")
        elif dimension == "key":
            by |= {"key": str(value), "key_name": names["key"].get(value, "")}
        else:
            by[dimension] = names[dimension].get(value, str(value or ""))
    p50, p90, p99 = row["latencies_ms"] or (None, None, None)
    first_p50, first_p99 = row["first_tokens_ms"] or (None, None)
    return Group(
        by=by,
        requests=row["requests"],
        errors=row["errors"],
        cache_hits=row["cache_hits"],
        prompt_tokens=row["prompt_tokens"],
        cached_tokens=row["cached_tokens"],
        completion_tokens=row["completion_tokens"],
        cost_micro_usd=row["cost_micro_usd"],
        unpriced=row["unpriced"],
        latency_p50_ms=p50,
        latency_p90_ms=p90,
        latency_p99_ms=p99,
        first_token_p50_ms=first_p50,
        first_token_p99_ms=first_p99,
    )
