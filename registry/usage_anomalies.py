"""What is unlike the last four weeks: requests, errors, spend and latency of each route, key or team.

The last hours (a day by default) are held against the same hours of each of the 28 days before. The
measure is the robust z: the distance from their median in units of 1.4826 x their median absolute deviation,
which is a standard deviation that single bad days do not move. What the same weekday had in those weeks is
never an anomaly, so that a quiet Sunday is none. Money is micro-dollars, times are milliseconds.
"""

from __future__ import annotations

import datetime as dt
import math
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal, NamedTuple

from sqlalchemy import text
from sqlalchemy.orm import Session

from raymill.policies.errors import Invalid
from raymill.registry.usage import DIMENSIONS, ERROR, TIMES, names_of
from raymill.registry.usage_filters import EVERYTHING, Filters

DAYS = 28
MIN_DAYS = 7
"""Of history; of what is newer nothing is said."""

LIMIT_Z = 3.5
MIN_REQUESTS = 50
"""In the last hours or in the usual ones; of what is rarer nothing is said."""

MAD_TO_DEVIATION = 1.4826
Metric = Literal["requests", "error_rate", "cost_micro_usd", "latency_p50_ms"]

# Requests by subject and day, day 0 being the last 24 hours, of each day only its last hours.
WINDOWS = """
SELECT {subject} AS subject, div(extract(epoch FROM :until - at), 86400)::int AS days_ago,
       count(*) AS requests, count(*) FILTER (WHERE {error}) AS errors, sum(cost_micro_usd)::bigint AS cost_micro_usd,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY latency_ms)
           FILTER (WHERE outcome IN ('ok', 'cached')) AS latency_p50_ms
FROM usage
WHERE {conditions} AND mod(extract(epoch FROM :until - at), 86400) < :window_s
GROUP BY 1, 2
"""


class Window(NamedTuple):
    """The same hours of one day."""

    requests: int = 0
    errors: int = 0
    cost_micro_usd: int = 0
    latency_p50_ms: float | None = None


@dataclass(frozen=True, kw_only=True)
class Anomaly:
    by: str
    subject: str
    """An id for a key, an account or a team."""

    name: str
    metric: Metric
    value: float
    usual: float
    """Median of the days before."""

    z: float
    sentence: str


class Judged(NamedTuple):
    """One metric: how it is read from a window, and from which deviation on a difference can mean something."""

    metric: Metric
    read: Callable[[Window], float | None]
    floor: Callable[[float, Window], float]
    """Of the deviation, from the median and the window that is judged."""
    falls_too: bool
    """Whether less than usual is news."""


def _requests(window: Window) -> float | None:
    return window.requests


def _cost(window: Window) -> float | None:
    return window.cost_micro_usd


def _error_rate(window: Window) -> float | None:
    return window.errors / window.requests if window.requests >= MIN_REQUESTS else None


def _latency(window: Window) -> float | None:
    return window.latency_p50_ms if window.requests >= MIN_REQUESTS else None


def _count_noise(usual: float, _: Window) -> float:
    # Counts of rare events scatter by their square root.
    return max(usual / 10, math.sqrt(usual), 1.0)


def _cost_noise(usual: float, _: Window) -> float:
    return max(usual / 10, 10_000.0)  # a cent


def _latency_noise(usual: float, _: Window) -> float:
    return max(usual / 10, 5.0)


def _rate_noise(usual: float, window: Window) -> float:
    rate = max(usual, 0.005)
    return math.sqrt(rate * (1 - min(rate, 0.5)) / max(window.requests, 1))


JUDGED = (
    Judged("requests", _requests, _count_noise, falls_too=True),
    Judged("error_rate", _error_rate, _rate_noise, falls_too=False),
    Judged("cost_micro_usd", _cost, _cost_noise, falls_too=False),
    Judged("latency_p50_ms", _latency, _latency_noise, falls_too=False),
)


def anomalies(
    session: Session,
    *,
    until: dt.datetime,
    by: str = "route",
    window_hours: int = 24,
    filters: Filters = EVERYTHING,
) -> list[Anomaly]:
    """What was unusual in the `window_hours` before `until`, the most unusual first.

    Raises:
        Invalid: no such dimension, or hours that are not those of a day.
    """
    if by not in DIMENSIONS or by in TIMES:
        known = ", ".join(name for name in DIMENSIONS if name not in TIMES)
        raise Invalid(f"cannot look for anomalies by {by!r}: take one of {known}", param="by")
    if not 1 <= window_hours <= 24:
        raise Invalid(f"window_hours is {window_hours}: give 1 to 24", param="window_hours")
    windows = _windows(session, until, by, window_hours, filters)
    names = names_of(session, by, set(windows))
    found = [
        Anomaly(
            by=by,
            subject=str(subject or ""),
            name=names.get(subject, str(subject or "none")),
            metric=odd.metric,
            value=odd.value,
            usual=odd.usual,
            z=odd.z,
            sentence=f"{by} {names.get(subject, str(subject or 'none'))}: {_tell(odd, window_hours)}",
        )
        for subject, days in windows.items()
        for odd in judge(days)
    ]
    return sorted(found, key=lambda one: -abs(one.z))


def _windows(
    session: Session, until: dt.datetime, by: str, window_hours: int, filters: Filters
) -> dict[uuid.UUID | str | None, list[Window]]:
    """For each subject its windows, the last one first, as far back as it was ever used."""
    statement = WINDOWS.format(subject=DIMENSIONS[by], error=ERROR, conditions=filters.conditions())
    values = {
        "since": until - dt.timedelta(days=DAYS + 1),
        "until": until,
        "window_s": window_hours * 3600,
        **filters.values(),
    }
    known: dict[uuid.UUID | str | None, dict[int, Window]] = defaultdict(dict)
    for row in session.execute(text(statement), values):
        known[row.subject][row.days_ago] = Window(*row[2:])
    return {
        subject: [days.get(ago, Window()) for ago in range(max(days) + 1)] for subject, days in known.items()
    }


class Odd(NamedTuple):
    metric: Metric
    value: float
    usual: float
    z: float


def judge(days: Sequence[Window]) -> Iterator[Odd]:
    """The metrics in which the first of `days` is unlike the others."""
    last, before = days[0], days[1:]
    if len(before) < MIN_DAYS:
        return
    if max(last.requests, median(window.requests for window in before)) < MIN_REQUESTS:
        return
    for metric, read, floor, falls_too in JUDGED:
        value = read(last)
        known = [number for number in map(read, before) if number is not None]
        if value is None or len(known) < MIN_DAYS:
            continue
        usual = median(known)
        spread = MAD_TO_DEVIATION * median(abs(number - usual) for number in known)
        z = (value - usual) / max(spread, floor(usual, last))
        same_weekday = [number for window in before[6::7] if (number := read(window)) is not None]
        seen = any(number >= value if z > 0 else number <= value for number in same_weekday)
        if abs(z) > LIMIT_Z and (z > 0 or falls_too) and not seen:
            yield Odd(metric, value, usual, z)


def _tell(odd: Odd, window_hours: int) -> str:
    value, usual = (SHOWN[odd.metric](number) for number in (odd.value, odd.usual))
    times = f", {odd.value / odd.usual:.2g} times as much" if odd.usual else ""
    return f"{WHAT[odd.metric]} {value} in the last {window_hours} h, usually {usual}{times} (z {odd.z:+.1f})"


WHAT: Mapping[Metric, str] = {
    "requests": "requests",
    "error_rate": "error rate",
    "cost_micro_usd": "spend",
    "latency_p50_ms": "median latency",
}
SHOWN: Mapping[Metric, Callable[[float], str]] = {
    "requests": lambda number: f"{number:,.0f}",
    "error_rate": lambda number: f"{number:.1%}",
    "cost_micro_usd": lambda number: f"${number / 1_000_000:,.2f}",
    "latency_p50_ms": lambda number: f"{number:,.0f} ms",
}
