"""Is one version better than another? Scores of the same examples, compared example by example. Pure NumPy.

Knows no files and no database. The one rule for a verdict on A against B:

    better        p < ALPHA and the mean difference A - B is above 0
    worse         p < ALPHA and it is below 0
    no evidence   anything else

p is two-sided, so of versions that do not differ at most ALPHA / 2 are called better by chance (real scores of some 30
examples: 4 %). It is McNemar's where every score is 0 or 1 and the paired bootstrap's elsewhere. The interval is the
paired bootstrap's in both cases: it tells how large the difference may be, p decides.

Where lower scores are better, the signs in this rule are turned round.

Shapes: N examples, R resamples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]
Verdict = Literal["better", "worse", "no evidence"]

ALPHA = 0.05
"""A difference as large as the one seen is called chance when it comes by chance more often than this."""

RESAMPLES = 10_000
SEED = 0
"""The same scores always give the same interval."""

MIN_PAIRS = 30
"""The percentile bootstrap is too sure of fewer examples: they are no evidence."""

EXACT_UP_TO = 1000
"""Examples on which the two disagree; above, the chi-square approximation is equal to three digits."""

FEW_VALUES = 16
CHUNK = 1 << 22
"""Indices in memory at once."""


class Interval(NamedTuple):
    """Ends of a confidence interval at level 1 - alpha."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A against B on the same examples."""

    examples: int
    mean_a: float
    mean_b: float
    difference: float
    """mean_a - mean_b."""

    standard_error: float
    """Of the difference; NaN for one example."""

    interval: Interval
    """Of the difference."""

    wins: int
    """Examples on which A does better."""

    losses: int
    test: Literal["mcnemar", "paired bootstrap"]
    p_value: float
    verdict: Verdict


def compare(
    a_N: Scores,
    b_N: Scores,
    *,
    higher_is_better: bool = True,
    alpha: float = ALPHA,
    resamples: int = RESAMPLES,
) -> Comparison:
    """A verdict on A against B.

    Args:
        a_N, b_N: scores of the same examples in the same order.

    Raises:
        ValueError: there is no example, the lengths differ, or a score is not finite.
    """
    if len(a_N) != len(b_N) or not len(a_N):
        raise ValueError(f"{len(a_N)} and {len(b_N)} scores cannot be paired: give as many, at least one")
    difference_N = a_N - b_N
    if not np.isfinite(difference_N).all():
        raise ValueError("a score is not finite: leave such examples out")
    gain_N = difference_N if higher_is_better else -difference_N
    wins, losses = int((gain_N > 0).sum()), int((gain_N < 0).sum())
    means_R = bootstrap_means(difference_N, resamples)
    binary = is_binary(a_N) and is_binary(b_N)
    p_value = mcnemar(wins, losses) if binary else bootstrap_p(means_R)
    enough = binary or len(a_N) >= MIN_PAIRS
    return Comparison(
        examples=len(a_N),
        mean_a=float(a_N.mean()),
        mean_b=float(b_N.mean()),
        difference=float(difference_N.mean()),
        standard_error=standard_error(difference_N),
        interval=percentiles(means_R, alpha),
        wins=wins,
        losses=losses,
        test="mcnemar" if binary else "paired bootstrap",
        p_value=p_value,
        verdict=verdict_of(float(gain_N.mean()), p_value, alpha) if enough else "no evidence",
    )


def verdict_of(gain: float, p_value: float, alpha: float = ALPHA) -> Verdict:
    """The rule at the top of this module; `gain` is above 0 where A does better."""
    if p_value >= alpha or gain == 0:
        return "no evidence"
    return "better" if gain > 0 else "worse"


def standard_error(scores_N: Scores) -> float:
    """Of the mean: the sample's standard deviation (N - 1 degrees of freedom) over the root of N; NaN for N = 1."""
    count = len(scores_N)
    return float(scores_N.std(ddof=1) / math.sqrt(count)) if count > 1 else math.nan


def score_interval(scores_N: Scores, alpha: float = ALPHA) -> Interval:
    """Of a mean score: Wilson's where all scores are 0 or 1, the bootstrap's elsewhere.

    The bootstrap of scores that are all 1 would be sure of 1, however few there are.
    """
    if is_binary(scores_N):
        return wilson_interval(int(scores_N.sum()), len(scores_N), alpha)
    return bootstrap_interval(scores_N, alpha)


def bootstrap_interval(scores_N: Scores, alpha: float = ALPHA, resamples: int = RESAMPLES) -> Interval:
    """Percentile bootstrap interval of the mean.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    return percentiles(bootstrap_means(scores_N, resamples), alpha)


def wilson_interval(successes: int, count: int, alpha: float = ALPHA) -> Interval:
    """Score interval of a share. Source: Wilson, JASA 22 (1927), 209-212."""
    z = NormalDist().inv_cdf(1 - alpha / 2)
    share = successes / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    # The share lies within, to the last digit: of 10 right answers in 10 the upper end is 1.
    return Interval(max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half)))


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided p that A and B are right equally often, from the examples that only one of them gets right.

    Up to `EXACT_UP_TO` of these the exact binomial test, above the chi-square with continuity correction.

    Sources: McNemar, Psychometrika 12 (1947), 153-157; Edwards, Psychometrika 13 (1948), 185-187.
    """
    count, fewer = only_a + only_b, min(only_a, only_b)
    if count == 0:
        return 1.0
    if count <= EXACT_UP_TO:
        return min(1.0, 2 * binomials_up_to(count, fewer) / (1 << count))
    apart = max(0, abs(only_a - only_b) - 1)
    return math.erfc(math.sqrt(apart * apart / count / 2))  # the upper tail of chi-square with one degree


def binomials_up_to(count: int, most: int) -> int:
    """How many subsets of `count` things have at most `most` members."""
    total = term = 1
    for k in range(most):
        term = term * (count - k) // (k + 1)
        total += term
    return total


def bootstrap_means(scores_N: Scores, resamples: int = RESAMPLES, seed: int = SEED) -> Scores:
    """means_R of `resamples` samples of N, drawn with replacement."""
    rng, count = np.random.default_rng(seed), len(scores_N)
    values, counts = np.unique(scores_N, return_counts=True)
    if len(values) <= FEW_VALUES:
        # How often each value is drawn is multinomial: the same law, without drawing N examples R times.
        drawn = rng.multinomial(count, counts / count, size=resamples)
        return np.asarray(drawn @ values / count, dtype=np.float64)
    rows = max(1, CHUNK // count)
    sizes = [min(rows, resamples - start) for start in range(0, resamples, rows)]
    return np.concatenate([scores_N[rng.integers(count, size=(size, count))].mean(axis=1) for size in sizes])


def bootstrap_p(means_R: Scores) -> float:
    """Two-sided p that the mean is 0: twice the share of resampled means on the other side of 0, at most 1.

    One is added to both counts, so that p is never 0. It is below alpha where 0 lies outside the percentile interval.

    Source: Davison and Hinkley, Bootstrap Methods and their Application (1997), section 4.2.
    """
    fewer = min(int((means_R <= 0).sum()), int((means_R >= 0).sum()))
    return min(1.0, 2 * (fewer + 1) / (len(means_R) + 1))


def percentiles(means_R: Scores, alpha: float) -> Interval:
    low, high = np.quantile(means_R, [alpha / 2, 1 - alpha / 2])
    return Interval(float(low), float(high))


def is_binary(scores_N: Scores) -> bool:
    """Every score is 0 or 1."""
    return bool(((scores_N == 0) | (scores_N == 1)).all())
