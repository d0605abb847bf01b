"""Is a new version worse on live traffic than the one it shall replace? Two sides of requests, compared as a whole. Pure.

The rule for a measure:

    worse         it lies beyond the limit, and that comes by chance less often than the look's part of alpha
    anything else is no reason to go back

    error rate    Fisher's exact test, one-sided
    latency       the same test on how many of each side do not lie below the common 95th percentile, the current version's
                  latencies times the allowed ratio: Mood's median test at another quantile. It needs no distribution; what a client
                  gave up counts with the time until then
    scores        Welch's test of means, one-sided, from 30 scores on each side on

Whoever looks again and again finds something by chance in the end. So a measure is tested when a side has 1, 2, 4, ...
times the least number of requests, and look k = 0, 1, ... gets 6 / (pi (k + 1))^2 of alpha, which for ever so many looks
adds up to alpha (Bonferroni). A share of requests that failed beyond `max_error_rate` needs no test.

Sources: Fisher, Statistical Methods for Research Workers, 5th ed. (1934), section 21.02; Mood, Introduction to the Theory
of Statistics (1950), section 16.5; Conover, Practical Nonparametric Statistics, 3rd ed. (1999), section 4.3; Welch,
Biometrika 34 (1947), 28-35; DeMets and Lan, Statistics in Medicine 13 (1994), 1341-1352 (alpha by look).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist

HARD_MIN = 20
"""Requests from which `max_error_rate` holds."""

MIN_SCORES = 30
"""On each side; the normal distribution is too sure of fewer."""

LATENCY_QUANTILE = 0.95


@dataclass(frozen=True, kw_only=True)
class Side:
    """What is known of one version's requests."""

    requests: int = 0
    errors: int = 0
    broken: int = 0
    """Of the errors, those that no client made: all but refusals (4xx)."""

    answers: int = 0
    """With a latency."""

    p95_ms: float | None = None
    slow: int = 0
    """Answers that do not lie below the common percentile."""

    scores: int = 0
    """Requests that somebody scored."""

    score_mean: float | None = None
    score_variance: float = 0.0

    @property
    def error_rate(self) -> float:
        return self.errors / self.requests if self.requests else 0.0


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """The limits; null is not looked at."""

    error_rate: float | None
    max_error_rate: float
    latency_ratio: float | None
    score_drop: float | None


def alpha_of(alpha: float, look: int, parts: int) -> float:
    """What look 0, 1, ... of one of `parts` tests that are made side by side may use up."""
    return alpha / parts * 6 / (math.pi * (look + 1)) ** 2


def hopeless(canary: Side, bounds: Bounds) -> str | None:
    """Why it is taken back at once, if it is."""
    if canary.requests >= HARD_MIN and canary.broken >= bounds.max_error_rate * canary.requests:
        return (
            f"{canary.broken} of {canary.requests} requests failed, at most {bounds.max_error_rate:.0%} may"
        )
    return None


def worse(canary: Side, current: Side, bounds: Bounds, *, alpha: float, look: int) -> list[str]:
    """What the new version is worse in, with its numbers; nothing when there is no reason to go back.

    Args:
        alpha: for all looks and all measures together.
        look: how many there were before.
    """
    level = alpha_of(alpha, look, parts=3)
    return [
        f"{told} (p {p:.2g}, below {level:.2g})" for told, p in _beyond(canary, current, bounds) if p < level
    ]


def _beyond(canary: Side, current: Side, bounds: Bounds) -> Iterator[tuple[str, float]]:
    """What lies beyond its limit, and how often it does by chance."""
    if bounds.error_rate is not None and canary.error_rate - current.error_rate > bounds.error_rate:
        p = fisher_greater(canary.errors, canary.requests, current.errors, current.requests)
        yield f"error rate {canary.error_rate:.2%}, the current version's is {current.error_rate:.2%}", p
    if (
        bounds.latency_ratio is not None
        and canary.p95_ms is not None
        and current.p95_ms is not None
        and canary.p95_ms > bounds.latency_ratio * current.p95_ms
    ):
        p = fisher_greater(canary.slow, canary.answers, current.slow, current.answers)
        yield (
            f"latency p95 {canary.p95_ms:.0f} ms, the current version's is {current.p95_ms:.0f} ms "
            f"and {bounds.latency_ratio:g} times that is allowed",
            p,
        )
    if (
        bounds.score_drop is not None
        and canary.score_mean is not None
        and current.score_mean is not None
        and min(canary.scores, current.scores) >= MIN_SCORES
        and current.score_mean - canary.score_mean > bounds.score_drop
    ):
        yield (
            f"mean score {canary.score_mean:.2f}, the current version's is {current.score_mean:.2f}",
            welch_less(canary, current),
        )


def fisher_greater(hits: int, total: int, other_hits: int, other_total: int) -> float:
    """How often, by chance, at least `hits` of all hits fall on the first side: the hypergeometric tail."""
    all_hits, everything = hits + other_hits, total + other_total
    most = min(all_hits, total)
    if hits <= max(0, all_hits - other_total):
        return 1.0
    term = math.exp(
        _log_choose(total, hits) + _log_choose(other_total, other_hits) - _log_choose(everything, all_hits)
    )
    tail = 0.0
    for number in range(hits, most + 1):
        tail += term
        if term < tail * 1e-17:
            break
        left = all_hits - number
        term *= (total - number) * left / ((number + 1) * (other_total - left + 1))
    return min(1.0, tail)


def welch_less(canary: Side, current: Side) -> float:
    """How often a mean as low as the canary's comes by chance."""
    assert canary.score_mean is not None
    assert current.score_mean is not None
    error = math.sqrt(canary.score_variance / canary.scores + current.score_variance / current.scores)
    drop = current.score_mean - canary.score_mean
    if error == 0:
        return 0.0 if drop > 0 else 1.0
    return NormalDist().cdf(-drop / error)


def _log_choose(total: int, chosen: int) -> float:
    return math.lgamma(total + 1) - math.lgamma(chosen + 1) - math.lgamma(total - chosen + 1)
