"""How targets and provider keys are doing, as this replica has seen it: breaker, latency, requests in flight.

Lost with the process, and rightly so: a new replica finds out in a few requests. Times are seconds on the
monotonic clock, latencies milliseconds.

    closed ──error rate over the window──> open ──open_s, or a probe that answers──> half-open
      ^                                      ^                                          │
      └──────────────── the one request let through succeeds ───────────── fails ───────┘
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Literal

from raymill.serve.gateway.catalog import ProviderSecret, Target
from raymill.serve.gateway.config import Breaker

State = Literal["closed", "open", "half_open"]

EWMA = 0.2
"""Weight of the newest latency."""

REFUSED_KEY_S = 60.0
"""A key that the provider refused is left alone for this long."""

MAX_TARGETS = 4096

PROBE_GRACE_S = 30.0
"""A half-open target's one request that has not come back for this long is taken for lost."""


class Health:
    """One target."""

    def __init__(self) -> None:
        self.latency_ms = 0.0
        """Average of the time to the first byte, newer ones weighing more."""

        self.in_flight = 0
        self._results: deque[bool] = deque()
        self._failures = 0
        self._opened_at: float | None = None
        self._open_s = 0.0
        self._probing_since: float | None = None

    def state(self, now: float) -> State:
        if self._opened_at is None:
            return "closed"
        return "half_open" if now - self._opened_at >= self._open_s else "open"

    def admits(self, now: float) -> bool:
        """Whether a request may go there. A half-open target admits one at a time."""
        if self._opened_at is None:
            return True
        if now - self._opened_at < self._open_s:
            return False
        return self._probing_since is None or now - self._probing_since > PROBE_GRACE_S

    def begin(self, now: float) -> None:
        self.in_flight += 1
        if self._opened_at is not None:
            self._probing_since = now

    def succeeded(self, settings: Breaker, latency_ms: float) -> None:
        """The answer has begun; the request stays in flight until `ended`."""
        self.latency_ms += (latency_ms - self.latency_ms) * (EWMA if self.latency_ms else 1.0)
        if self._opened_at is not None:
            self.close()
        self._remember(True, settings)

    def failed(self, settings: Breaker, now: float) -> None:
        self.in_flight -= 1
        self._count_failure(settings, now)

    def broke(self, settings: Breaker, now: float) -> None:
        """A stream that had begun has broken; it stays in flight until `ended`.

        Its beginning was counted as a success, which it was not.
        """
        if True in self._results:
            self._results.remove(True)
        self._count_failure(settings, now)

    def _count_failure(self, settings: Breaker, now: float) -> None:
        self._remember(False, settings)
        self._probing_since = None
        if self._opened_at is not None or self._fails_too_often(settings):
            self._opened_at, self._open_s = now, settings.open_s

    def given_up(self) -> None:
        """The client went away, or was to blame: this says nothing of the target."""
        self.in_flight -= 1
        self._probing_since = None

    def ended(self) -> None:
        """A request that had succeeded is over."""
        self.in_flight -= 1

    def half_open(self) -> None:
        """An active probe was answered: let one request through now."""
        self._open_s = 0.0

    def close(self) -> None:
        self._opened_at = self._probing_since = None
        self._results.clear()
        self._failures = 0

    def _fails_too_often(self, settings: Breaker) -> bool:
        count = len(self._results)
        return count >= settings.min_requests and self._failures >= settings.error_rate * count

    def _remember(self, ok: bool, settings: Breaker) -> None:
        self._results.append(ok)
        self._failures += not ok
        while len(self._results) > settings.window:
            self._failures -= not self._results.popleft()


class HealthBook:
    """Health of every target that was asked, by its id."""

    def __init__(self) -> None:
        self._by_target: dict[str, Health] = {}
        self._keys: dict[str, float] = {}
        self._turn = 0

    def of(self, target: Target) -> Health:
        health = self._by_target.get(target.id)
        if health is None:
            if len(self._by_target) >= MAX_TARGETS:
                self._forget_one()
            health = self._by_target[target.id] = Health()
        return health

    def _forget_one(self) -> None:
        """The oldest of which nothing hangs: clients choose names behind `provider/`, so they must not add up."""
        for name, health in self._by_target.items():
            if health.in_flight == 0:
                del self._by_target[name]
                return

    def states(self) -> dict[str, State]:
        now = time.monotonic()
        return {name: health.state(now) for name, health in list(self._by_target.items())}

    def pick_secret(self, secrets: Sequence[ProviderSecret], tried: set[str]) -> ProviderSecret | None:
        """The next key in turn that was not tried and is not resting; a resting one when no other is left."""
        if len(secrets) == 1:
            return secrets[0] if secrets[0].id not in tried else None
        self._turn += 1
        count = len(secrets)
        rotated = [secrets[(self._turn + step) % count] for step in range(count)]
        fresh = [secret for secret in rotated if secret.id not in tried]
        now = time.monotonic()
        awake = [secret for secret in fresh if self._keys.get(secret.id, 0.0) <= now]
        found = awake or fresh
        return found[0] if found else None

    def rest(self, secret: ProviderSecret, seconds: float) -> None:
        """Leave a key alone for a while: the provider limits or refuses it."""
        self._keys[secret.id] = time.monotonic() + seconds
