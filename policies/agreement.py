"""How far two raters agree beyond chance. Pure NumPy.

Cohen's kappa of nominal ratings, and with quadratic weights of ratings on a scale, with a percentile bootstrap interval over
examples.

Sources: Cohen, Educational and Psychological Measurement 20 (1960), 37-46; weighted: Cohen, Psychological Bulletin 70
(1968), 213-220; bootstrap: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.

Shapes: N examples, K categories, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raymill.policies.statistics import ALPHA, RESAMPLES, SEED, Interval, percentiles

Counts = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Agreement:
    examples: int
    raw: float
    """Share of examples on which both say the same."""

    kappa: float | None
    """1: always; 0: as often as chance would have it. None: both name one category alone, and chance agrees always."""

    interval: Interval | None
    """Of kappa; None where a resample in twenty or more has no kappa: there are too few examples of a category."""


def agreement(
    one: Sequence[str | int],
    other: Sequence[str | int],
    categories: Sequence[str | int],
    *,
    quadratic: bool = False,
    alpha: float = ALPHA,
    resamples: int = RESAMPLES,
) -> Agreement:
    """Of two raters of the same examples.

    Args:
        categories: in their order; with `quadratic`, a disagreement counts by the square of its distance in it.

    Raises:
        ValueError: there is no example, or the lengths differ.
    """
    if len(one) != len(other) or not one:
        raise ValueError(f"{len(one)} and {len(other)} ratings cannot be paired: give as many, at least one")
    place = {each: number for number, each in enumerate(categories)}
    counts_KK = np.zeros((len(place), len(place)))
    np.add.at(counts_KK, ([place[each] for each in one], [place[each] for each in other]), 1)
    total = int(counts_KK.sum())
    whole = float(kappas(counts_KK[None], quadratic)[0])
    drawn_RKK = np.random.default_rng(SEED).multinomial(total, counts_KK.ravel() / total, size=resamples)
    found_R = kappas(drawn_RKK.reshape(resamples, *counts_KK.shape).astype(np.float64), quadratic)
    known_R = found_R[np.isfinite(found_R)]
    sure = len(known_R) > resamples * (1 - alpha)
    return Agreement(
        examples=total,
        raw=float(np.trace(counts_KK) / total),
        kappa=whole if math.isfinite(whole) else None,
        interval=percentiles(known_R, alpha) if sure and math.isfinite(whole) else None,
    )


def kappas(counts_RKK: Counts, quadratic: bool) -> Counts:
    """Of each table of counts; NaN where chance agrees always."""
    size = counts_RKK.shape[1]
    apart_KK = np.abs(np.subtract.outer(np.arange(size), np.arange(size))).astype(np.float64)
    cost_KK = apart_KK**2 if quadratic else (apart_KK > 0).astype(np.float64)
    total_R = counts_RKK.sum(axis=(1, 2))
    by_chance_RKK = (
        counts_RKK.sum(axis=2)[:, :, None] * counts_RKK.sum(axis=1)[:, None, :] / total_R[:, None, None]
    )
    seen_R, expected_R = (np.tensordot(each, cost_KK, axes=2) for each in (counts_RKK, by_chance_RKK))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(expected_R > 0, 1 - seen_R / expected_R, np.nan), dtype=np.float64)
