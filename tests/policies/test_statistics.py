"""The statistics beside scipy's, and on simulated models whose true difference is known."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from raymill.policies import statistics
from raymill.policies.statistics import (
    EXACT_UP_TO,
    MIN_PAIRS,
    Comparison,
    Interval,
    Scores,
    bootstrap_interval,
    compare,
    mcnemar,
    score_interval,
    standard_error,
    verdict_of,
    wilson_interval,
)

SIMULATIONS = 1000


def scores(*values: float) -> Scores:
    return np.array(values, dtype=np.float64)


@pytest.mark.parametrize(
    ("only_a", "only_b"), [(0, 0), (1, 0), (5, 5), (0, 6), (12, 3), (3, 12), (400, 460), (500, 500)]
)
def test_mcnemar_is_the_exact_binomial_test(only_a: int, only_b: int) -> None:
    count = only_a + only_b
    wanted = stats.binomtest(only_a, count).pvalue if count else 1.0
    assert mcnemar(only_a, only_b) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(("only_a", "only_b"), [(501, 500), (450, 560), (3000, 3300), (9000, 6000)])
def test_mcnemar_of_many_is_the_corrected_chi_square_and_near_the_exact_one(only_a: int, only_b: int) -> None:
    count = only_a + only_b
    assert count > EXACT_UP_TO
    found = mcnemar(only_a, only_b)
    assert found == pytest.approx(stats.chi2.sf((abs(only_a - only_b) - 1) ** 2 / count, 1), rel=1e-9)
    assert found == pytest.approx(stats.binomtest(only_a, count).pvalue, rel=0.02, abs=1e-9)


def test_standard_errors_and_wilsons_interval_are_scipys() -> None:
    values = np.random.default_rng(0).normal(size=57)
    assert standard_error(values) == pytest.approx(stats.sem(values))
    assert math.isnan(standard_error(scores(1.0)))
    for right, count in [(0, 10), (10, 10), (3, 10), (195, 200)]:
        wanted = stats.binomtest(right, count).proportion_ci(method="wilson")
        assert wilson_interval(right, count) == pytest.approx((wanted.low, wanted.high))
        binary = np.repeat([1.0, 0.0], [right, count - right])
        assert score_interval(binary) == wilson_interval(right, count)


@pytest.mark.parametrize("distinct", [3, 200])
def test_the_bootstrap_interval_is_scipys_up_to_chance(distinct: int) -> None:
    rng = np.random.default_rng(1)
    values = rng.exponential(size=distinct)[rng.integers(distinct, size=200)]
    wanted = stats.bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(2))
    limits = (wanted.confidence_interval.low, wanted.confidence_interval.high)
    assert bootstrap_interval(values) == pytest.approx(limits, abs=0.1 * standard_error(values))
    assert score_interval(values) == bootstrap_interval(values)  # and the same each time


def test_resamples_are_drawn_in_parts_that_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(3).normal(size=50)
    whole = statistics.bootstrap_means(values, 1000)
    monkeypatch.setattr(statistics, "CHUNK", 50 * 7)
    assert statistics.bootstrap_means(values, 1000) == pytest.approx(whole)


def test_a_comparison_tells_sizes_and_counts() -> None:
    found = compare(scores(1, 1, 1, 0, 1, 1, 1, 1), scores(0, 0, 0, 1, 0, 0, 0, 1))
    assert (found.examples, found.wins, found.losses) == (8, 6, 1)
    assert (found.mean_a, found.mean_b, found.difference) == (0.875, 0.25, 0.625)
    assert (found.test, found.p_value, found.verdict) == ("mcnemar", 0.125, "no evidence")
    assert found.interval.low < found.difference < found.interval.high


def test_where_lower_is_better_less_is_better_and_the_difference_keeps_its_sign() -> None:
    low, high = np.linspace(0, 0.1, MIN_PAIRS), np.linspace(0.5, 0.7, MIN_PAIRS)
    found = compare(low, high, higher_is_better=False)
    assert (found.verdict, found.wins, found.losses) == ("better", MIN_PAIRS, 0)
    assert found.interval.low < found.difference < found.interval.high < 0
    assert compare(low, high).verdict == "worse"


def test_equal_scores_and_single_examples_are_no_evidence() -> None:
    for same in (scores(1, 0, 1), scores(0.5), scores(0.25, 0.5, 0.75)):
        found = compare(same, same)
        assert (found.p_value, found.verdict, found.interval) == (1.0, "no evidence", Interval(0, 0))


def test_few_real_scores_are_no_evidence_however_far_apart() -> None:
    few, enough = np.linspace(0, 0.1, MIN_PAIRS - 1), np.linspace(0, 0.1, MIN_PAIRS)
    assert compare(few + 0.5, few).verdict == "no evidence"
    assert compare(enough + 0.5, enough).verdict == "better"


@pytest.mark.parametrize(
    ("gain", "p_value", "verdict"),
    [
        (0.1, 0.049, "better"),
        (-0.1, 0.049, "worse"),
        (0.1, 0.05, "no evidence"),
        (-0.1, 1.0, "no evidence"),
        (0.0, 0.01, "no evidence"),
    ],
)
def test_the_rule(gain: float, p_value: float, verdict: str) -> None:
    assert verdict_of(gain, p_value) == verdict


@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        (scores(1), scores(1, 0), "1 and 2 scores"),
        (scores(), scores(), "0 and 0"),
        (scores(math.nan), scores(1), "not finite"),
    ],
)
def test_what_cannot_be_paired_is_refused(a: Scores, b: Scores, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        compare(a, b)


# --- simulated models --------------------------------------------------------------------------------------


def simulated(examples: int, gain: float, *, binary: bool) -> list[Comparison]:
    """Two models on examples of different difficulty; A's scores are `gain` above B's on the average.

    Binary: a coin of its own chance for each example and model. Else: skewed, the difficulty counts for both.
    """
    rng = np.random.default_rng(7)
    found = []
    for _ in range(SIMULATIONS):
        if binary:
            chance_N = rng.uniform(0.1, 0.8, size=examples)
            a_N, b_N = rng.random(examples) < chance_N + gain, rng.random(examples) < chance_N
        else:
            hard_N, noise_2N = rng.normal(size=examples), rng.exponential(size=(2, examples))
            a_N, b_N = hard_N + noise_2N[0] + gain, hard_N + noise_2N[1]
        found.append(compare(a_N.astype(np.float64), b_N.astype(np.float64), resamples=500))
    return found


CASES = [(40, True), (1500, True), (MIN_PAIRS, False), (100, False)]


@pytest.mark.parametrize(("examples", "binary"), CASES)
def test_models_that_do_not_differ_are_called_better_in_at_most_one_of_twenty(
    examples: int, binary: bool
) -> None:
    verdicts = Counter(each.verdict for each in simulated(examples, 0.0, binary=binary))
    assert verdicts["better"] <= 0.05 * SIMULATIONS
    assert verdicts["worse"] <= 0.05 * SIMULATIONS


@pytest.mark.parametrize(
    ("examples", "binary", "gain", "found_in"), [(200, True, 0.2, 0.95), (100, False, 0.6, 0.95)]
)
def test_a_difference_that_is_there_is_found_and_lies_in_the_interval(
    examples: int, binary: bool, gain: float, found_in: float
) -> None:
    found = simulated(examples, gain, binary=binary)
    verdicts = Counter(each.verdict for each in found)
    assert verdicts["better"] >= found_in * SIMULATIONS
    assert verdicts["worse"] == 0
    covered = sum(each.interval.low <= gain <= each.interval.high for each in found)
    assert 0.92 * SIMULATIONS <= covered <= 0.98 * SIMULATIONS
