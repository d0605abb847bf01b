"""Shifts of distributions, against SciPy and against chance."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from raymill.policies.drift import (
    Levels,
    bin_edges,
    chi_square_quantile,
    ks_distance,
    ks_p,
    psi,
    severity_of_drop,
    shift_of_categories,
    shift_of_numbers,
    worst,
)
from raymill.policies.statistics import compare

LEVELS = Levels(alpha=0.01)


@pytest.mark.parametrize(
    ("n", "m", "apart"), [(40, 60, 0.0), (200, 300, 0.2), (1000, 500, 0.1), (50, 50, 2.0)]
)
def test_kolmogorov_smirnov_is_scipys(n: int, m: int, apart: float) -> None:
    rng = np.random.default_rng(n)
    a, b = rng.normal(size=n).round(1), (rng.normal(size=m) + apart).round(1)  # with ties
    theirs = stats.ks_2samp(a, b, method="asymp")
    distance = ks_distance(a, b)
    assert distance == pytest.approx(theirs.statistic, abs=1e-12)
    assert ks_p(distance, n, m) == pytest.approx(theirs.pvalue, abs=0.02)
    assert (ks_p(distance, n, m) < 0.01) == (theirs.pvalue < 0.01)


def test_psi_is_the_sum_of_both_kullback_leibler_divergences() -> None:
    reference, recent = np.array([400, 300, 200, 100]), np.array([100, 200, 300, 400])
    p, q = ((counts + 0.5) / (counts.sum() + 2) for counts in (reference, recent))
    assert psi(reference, recent) == pytest.approx(stats.entropy(p, q) + stats.entropy(q, p))
    assert psi(reference, reference) == 0
    assert np.isfinite(psi(np.array([10, 0]), np.array([0, 10])))


@pytest.mark.parametrize("degrees", [1, 2, 5, 9, 19])
def test_quantiles_of_chi_square_are_scipys_to_two_percent(degrees: int) -> None:
    for level in (0.95, 0.99, 0.999):
        assert chi_square_quantile(level, degrees) == pytest.approx(stats.chi2.ppf(level, degrees), rel=0.02)


def test_bins_are_deciles_and_few_values_have_a_bin_each() -> None:
    assert bin_edges(np.arange(101, dtype=float)) == pytest.approx(np.arange(10, 100, 10))
    (below, five) = bin_edges(np.full(50, 5.0))
    assert below < five == 5.0


def test_without_a_shift_there_is_rarely_an_alarm_and_a_real_one_is_found() -> None:
    rng = np.random.default_rng(0)
    alarms = found = usual = 0
    for _ in range(200):
        same = [rng.lognormal(4, 1, size).round() for size in (150, 120)]
        shift = shift_of_numbers("length", *same, levels=LEVELS)
        alarms += shift.severity != "none"
        usual += shift.psi >= 0.1  # what PSI alone would call drift
        moved = shift_of_numbers("length", same[0], rng.lognormal(5, 1, 120).round(), levels=LEVELS)
        found += moved.severity == "major"
        kinds = [list(rng.choice(["stop", "length"], size, p=[0.9, 0.1])) for size in (150, 120)]
        alarms += shift_of_categories("reason", *kinds, levels=LEVELS).severity != "none"
    assert alarms <= 8  # 400 comparisons at 1 %
    assert usual > 50
    assert found >= 195


def test_one_value_that_becomes_another_is_a_major_shift_and_rare_kinds_are_one() -> None:
    shift = shift_of_numbers("length", np.full(60, 5.0), np.full(60, 4.0), levels=LEVELS)
    assert (shift.severity, shift.ks) == ("major", 1.0)
    few = shift_of_categories("language", ["en"] * 95 + ["de"] * 5, ["en"] * 30 + ["de"] * 70, levels=LEVELS)
    assert few.severity == "major"
    assert few.recent_shares == {"en": 0.3, "de": 0.7}
    many = shift_of_categories("kind", [str(n) for n in range(60)], ["0"] * 60, levels=LEVELS)
    assert many.reference_shares is not None
    assert len(many.reference_shares) == 20
    with pytest.raises(ValueError, match="length has 0 reference and 3 recent values"):
        shift_of_numbers("length", np.array([]), np.ones(3), levels=LEVELS)


def test_a_drop_counts_by_its_size_once_it_is_no_chance() -> None:
    before = np.ones(200)
    worse = np.array([0.0] * 30 + [1.0] * 170)
    assert severity_of_drop(compare(worse, before), minor=0.02, major=0.1) == "major"
    assert severity_of_drop(compare(worse, before), minor=0.02, major=0.2) == "minor"
    assert severity_of_drop(compare(worse, before), minor=0.2, major=0.3) == "none"
    assert severity_of_drop(compare(before, worse), minor=0.02, major=0.1) == "none"
    assert severity_of_drop(compare(np.append(0.0, before[1:]), before), minor=0, major=1) == "none"
    assert worst(["none", "major", "minor"]) == "major"
    assert worst([]) == "none"
