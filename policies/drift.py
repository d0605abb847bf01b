"""Has a distribution shifted? Two samples of one feature, a reference and a recent one. Pure NumPy.

The rule for a feature:

    major   PSI is at least `major`                 and the difference is no chance
    minor   PSI is at least `minor`                 and the difference is no chance
    none    anything else

PSI tells how large a shift is, but of small samples of the same distribution it is large as well: of 2 x 100 numbers in
10 bins 0.18 on the average. So it must also lie above what comes by chance (`psi_by_chance`), and of numbers the
two-sample Kolmogorov-Smirnov test must reject that they have one distribution. Of several features each is held to a
level that is as many times smaller (Bonferroni).

Shapes: N reference values, M recent ones, B bins.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from raymill.policies.statistics import Comparison

Numbers = NDArray[np.float64]
Severity = Literal["none", "minor", "major"]

RANK: dict[Severity, int] = {"none": 0, "minor": 1, "major": 2}
BINS = 10
PSEUDO_COUNT = 0.5
"""Added to each bin, so that one that only one sample has is no infinite shift."""

KS_TERMS = 100
MAX_CATEGORIES = 20
"""The rarest beyond these are one category."""


@dataclass(frozen=True, kw_only=True)
class Levels:
    """From where on a shift counts. The usual ones: below 0.1 none, from 0.25 on a large one.

    Source: Siddiqi, Credit Risk Scorecards (2006), chapter 8.
    """

    minor: float = 0.1
    major: float = 0.25
    alpha: float = 0.01
    """A shift as large as the one seen is called chance when it comes by chance more often than this."""


@dataclass(frozen=True, kw_only=True)
class Shift:
    """How a feature's recent values differ from the reference."""

    feature: str
    reference: int
    """Values."""

    recent: int
    psi: float
    psi_by_chance: float
    """What 1 - alpha of the comparisons of samples of this size from one distribution stay below."""

    ks: float | None
    """Largest distance of the two distribution functions; null for categories."""

    p_value: float | None
    """Of `ks`."""

    reference_mean: float | None
    recent_mean: float | None
    reference_shares: dict[str, float] | None
    """Of each category; null for numbers."""

    recent_shares: dict[str, float] | None
    severity: Severity


def shift_of_numbers(feature: str, reference_N: Numbers, recent_M: Numbers, *, levels: Levels) -> Shift:
    """Lengths, counts. Raises ValueError when either sample is empty."""
    _check(feature, len(reference_N), len(recent_M))
    edges = bin_edges(reference_N)
    counts = [
        np.bincount(np.searchsorted(edges, x), minlength=len(edges) + 1) for x in (reference_N, recent_M)
    ]
    value, chance = _psi(*counts, alpha=levels.alpha)
    distance = ks_distance(reference_N, recent_M)
    p_value = ks_p(distance, len(reference_N), len(recent_M))
    certain = value > chance and p_value < levels.alpha
    return Shift(
        feature=feature,
        reference=len(reference_N),
        recent=len(recent_M),
        psi=value,
        psi_by_chance=chance,
        ks=distance,
        p_value=p_value,
        reference_mean=float(reference_N.mean()),
        recent_mean=float(recent_M.mean()),
        reference_shares=None,
        recent_shares=None,
        severity=_severity(value, levels) if certain else "none",
    )


def shift_of_categories(
    feature: str, reference: Sequence[str], recent: Sequence[str], *, levels: Levels
) -> Shift:
    """Languages, reasons. Raises ValueError when either sample is empty."""
    _check(feature, len(reference), len(recent))
    kinds = [kind for kind, _ in (Counter(reference) + Counter(recent)).most_common()]
    named = kinds if len(kinds) <= MAX_CATEGORIES else [*kinds[: MAX_CATEGORIES - 1], "other kinds"]
    place = {kind: min(number, len(named) - 1) for number, kind in enumerate(kinds)}
    counts = [
        np.bincount([place[kind] for kind in sample], minlength=len(named)) for sample in (reference, recent)
    ]
    value, chance = _psi(*counts, alpha=levels.alpha)
    shares = [{kind: float(count / of.sum()) for kind, count in zip(named, of, strict=True)} for of in counts]
    return Shift(
        feature=feature,
        reference=len(reference),
        recent=len(recent),
        psi=value,
        psi_by_chance=chance,
        ks=None,
        p_value=None,
        reference_mean=None,
        recent_mean=None,
        reference_shares=shares[0],
        recent_shares=shares[1],
        severity=_severity(value, levels) if value > chance else "none",
    )


def severity_of_drop(comparison: Comparison, *, minor: float, major: float) -> Severity:
    """Of a score, A being the recent one: it must be worse by the rule of `statistics.py`, and by that much."""
    if comparison.verdict != "worse":
        return "none"
    drop = abs(comparison.difference)
    return "major" if drop >= major else "minor" if drop >= minor else "none"


def worst(severities: Sequence[Severity]) -> Severity:
    return max(severities, key=RANK.__getitem__, default="none")


def psi(reference_B: NDArray[np.int64], recent_B: NDArray[np.int64]) -> float:
    """Population stability index of counts in the same bins: sum (q - p) ln(q / p), with q recent and p reference.

    It is the sum of the two Kullback-Leibler divergences (Jeffreys' divergence).

    Source: Lewis, An Introduction to Credit Scoring (1994); Siddiqi (2006).
    """
    p_B, q_B = (
        (counts + PSEUDO_COUNT) / (counts.sum() + PSEUDO_COUNT * len(counts))
        for counts in (reference_B, recent_B)
    )
    return float(((q_B - p_B) * np.log(q_B / p_B)).sum())


def psi_by_chance(bins: int, reference: int, recent: int, alpha: float) -> float:
    """The 1 - alpha quantile of the PSI of two samples of one distribution: (1/N + 1/M) times that of chi-square with
    B - 1 degrees of freedom.

    Source: Yurdakul and Naranjo, Journal of Risk Model Validation 14(4) (2020), Statistical properties of the population
    stability index.
    """
    return (1 / reference + 1 / recent) * chi_square_quantile(1 - alpha, max(1, bins - 1))


def chi_square_quantile(level: float, degrees: int) -> float:
    """Exact for one degree and two, else to 2 %. Source: Wilson and Hilferty, PNAS 17 (1931), 684-688."""
    if degrees == 1:
        return NormalDist().inv_cdf((1 + level) / 2) ** 2
    if degrees == 2:
        return -2 * math.log(1 - level)
    z = NormalDist().inv_cdf(level)
    part = 2 / (9 * degrees)
    return degrees * max(0.0, 1 - part + z * math.sqrt(part)) ** 3


def bin_edges(reference_N: Numbers) -> Numbers:
    """Upper edges of all bins but the last: the reference's deciles. Where it has few values, each is a bin."""
    edges = np.unique(np.quantile(reference_N, np.linspace(0, 1, BINS + 1)[1:-1]))
    if len(edges) < BINS - 1:
        edges = np.unique(np.concatenate([np.nextafter(edges, -np.inf), edges]))
    return np.asarray(edges, dtype=np.float64)


def ks_distance(a_N: Numbers, b_M: Numbers) -> float:
    """Largest distance of the empirical distribution functions.

    Source: Smirnov, Annals of Mathematical Statistics 19 (1948), 279-281.
    """
    a_N, b_M = np.sort(a_N), np.sort(b_M)
    values = np.concatenate([a_N, b_M])
    of_a = np.searchsorted(a_N, values, side="right") / len(a_N)
    of_b = np.searchsorted(b_M, values, side="right") / len(b_M)
    return float(np.abs(of_a - of_b).max())


def ks_p(distance: float, count_a: int, count_b: int) -> float:
    """Two-sided p of a distance: Kolmogorov's limit, with Stephens's correction for finite samples.

    Sources: Stephens, JRSS B 32 (1970), 115-122; Press et al., Numerical Recipes (2007), section 14.3.3.
    """
    root = math.sqrt(count_a * count_b / (count_a + count_b))
    x = (root + 0.12 + 0.11 / root) * distance
    if x < 0.2:  # the series converges slowly there, and its sum is 1 to 12 digits
        return 1.0
    total = sum(math.exp(-2 * k * k * x * x) * (1 if k % 2 else -1) for k in range(1, KS_TERMS + 1))
    return min(1.0, max(0.0, 2 * total))


def _psi(reference_B: NDArray[np.int64], recent_B: NDArray[np.int64], *, alpha: float) -> tuple[float, float]:
    seen = (reference_B + recent_B) > 0
    reference_B, recent_B = reference_B[seen], recent_B[seen]
    chance = psi_by_chance(len(reference_B), int(reference_B.sum()), int(recent_B.sum()), alpha)
    return psi(reference_B, recent_B), chance


def _severity(value: float, levels: Levels) -> Severity:
    return "major" if value >= levels.major else "minor" if value >= levels.minor else "none"


def _check(feature: str, reference: int, recent: int) -> None:
    if not reference or not recent:
        raise ValueError(f"{feature} has {reference} reference and {recent} recent values: give both some")
