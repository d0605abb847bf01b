"""Limits: their names, the UTC windows they count in, and what is said when one is reached.

Knows no allowances and no database. Times are Unix seconds; amounts are requests, tokens, streams or
micro-dollars, as the meter's name says.
"""

from __future__ import annotations

import datetime as dt
import math
import time
from typing import Literal, NamedTuple, TypeAlias, assert_never

from raymill.policies.errors import RaymillError

Window: TypeAlias = Literal["minute", "day", "month", "total", "now"]
"""now: what is in use at once, such as streams; it is only ever given back, never used up."""

Delta: TypeAlias = tuple[str, int, int]
"""A meter's full name (subject/kind/window), its bucket, and how much was used."""

LOOK_AGAIN_S = 86_400.0
"""What Retry-After says where only a higher limit helps."""


class Limit(NamedTuple):
    meter: str
    """Subject and kind, such as account:<uuid>/tokens; with the window it is a meter's full name."""

    window: Window
    amount: int
    """The most that may be used in one window."""

    @property
    def name(self) -> str:
        return f"{self.meter}/{self.window}"

    @property
    def kind(self) -> str:
        return self.meter.rpartition("/")[2]


class LimitReached(RaymillError):
    """The request does not fit into a limit."""

    code = "limit_reached"

    def __init__(self, limit: Limit, message: str, *, retry_after_s: float, spent_for_good: bool) -> None:
        super().__init__(message)
        self.limit = limit
        self.retry_after_s = retry_after_s
        self.spent_for_good = spent_for_good
        """Only the next window or a higher limit helps. Otherwise requests in flight hold what is missing."""


class Clock:
    """What time it is. Tests have one that stands still."""

    def time(self) -> float:
        return time.time()


def bucket_of(window: Window, now: float) -> int:
    """When the UTC window that `now` lies in began; 0 for one that never ends."""
    match window:
        case "minute":
            return int(now // 60) * 60
        case "day":
            return int(now // 86_400) * 86_400
        case "month":
            today = dt.datetime.fromtimestamp(now, dt.UTC)
            return int(dt.datetime(today.year, today.month, 1, tzinfo=dt.UTC).timestamp())
        case "total" | "now":
            return 0
        case _:
            assert_never(window)


def end_of(window: Window, bucket: int) -> float:
    """When the window that began at `bucket` ends."""
    match window:
        case "minute":
            return bucket + 60.0
        case "day":
            return bucket + 86_400.0
        case "month":
            return float(bucket_of("month", bucket + 32 * 86_400))
        case "total" | "now":
            return math.inf
        case _:
            assert_never(window)


def too_large(limit: Limit, need: int) -> LimitReached:
    """The request alone is more than the limit."""
    message = f"this request may use {need} of {limit.name}, which allows {limit.amount}: ask for less, or raise the limit"
    return LimitReached(limit, message, retry_after_s=LOOK_AGAIN_S, spent_for_good=True)


def used_up(limit: Limit, need: int, left: int, now: float) -> LimitReached:
    """What is left of the window holds no more such request."""
    end = end_of(limit.window, bucket_of(limit.window, now))
    retry_after_s = min(LOOK_AGAIN_S, end - now)
    cure = "raise the limit" if math.isinf(end) else f"try again in {retry_after_s:.0f} s, or raise the limit"
    message = (
        f"{max(0, left)} of {limit.amount} is left of {limit.name}, and this request may use {need}: {cure}"
    )
    return LimitReached(limit, message, retry_after_s=retry_after_s, spent_for_good=True)


def held_up(limit: Limit, need: int) -> LimitReached:
    """Requests in flight hold what is missing, and none of them gave it back in time."""
    message = (
        f"this request may use {need} of {limit.name}, and requests in flight hold what is left of "
        f"{limit.amount}: try again in a second, or raise the limit"
    )
    return LimitReached(limit, message, retry_after_s=1.0, spent_for_good=False)
