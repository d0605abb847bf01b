"""When to try again, and after how long. Pure."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from raymill.policies.errors import Unavailable

RETRIED_STATUSES = frozenset({502, 503, 504})


@dataclass(frozen=True, kw_only=True)
class Retry:
    """Full jitter: many clients that lost the same server do not come back at the same moment."""

    attempts: int = 5
    """Tries in all; 1 means no retry."""

    base_s: float = 0.2
    """The first pause is at most this long, and each next one at most twice as long."""

    cap_s: float = 5.0
    """No pause is longer."""

    patience_s: float = 300.0
    """How long an event stream or a `wait` looks for a service that is away before it gives up."""

    def pause_s(self, failures: int) -> float:
        """How long to wait after this many failures in a row (1 or more)."""
        # 2**30 is far above any cap; the bound keeps the power small after hours of failures.
        return random.uniform(0, min(self.cap_s, self.base_s * 2 ** min(failures - 1, 30)))


@dataclass
class Outage:
    """Counts failures in a row, and says when to give up."""

    retry: Retry
    failures: int = 0
    since_s: float = 0.0
    """Monotonic time of the first failure in the row."""

    def over(self) -> None:
        """Something arrived."""
        self.failures = 0

    def pause_s(self, error: Unavailable) -> float:
        """How long to wait before the next try.

        Raises:
            Unavailable: `error` itself, once the service was away for longer than `patience_s`.
        """
        now = time.monotonic()
        if self.failures == 0:
            self.since_s = now
        self.failures += 1
        if now - self.since_s > self.retry.patience_s:
            raise error
        return self.retry.pause_s(self.failures)
