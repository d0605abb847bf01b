"""When a version is worse on live traffic, and how often one that is not is called so. Pure."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from raymill.policies.canary import Bounds, Side, alpha_of, fisher_greater, hopeless, welch_less, worse

BOUNDS = Bounds(error_rate=0.01, max_error_rate=0.5, latency_ratio=1.5, score_drop=0.1)


@pytest.mark.parametrize(
    "table",
    [
        (3, 20, 1, 180),
        (0, 10, 0, 90),
        (10, 10, 0, 90),
        (5, 200, 90, 1800),
        (40, 1000, 500, 100_000),
        (1, 1, 0, 1),
    ],
)
def test_the_exact_test_is_scipys(table: tuple[int, int, int, int]) -> None:
    hits, total, other_hits, other_total = table
    counts = [[hits, total - hits], [other_hits, other_total - other_hits]]
    assert fisher_greater(*table) == pytest.approx(
        stats.fisher_exact(counts, alternative="greater").pvalue, rel=1e-6
    )


def test_the_parts_of_all_looks_add_up_to_alpha() -> None:
    assert sum(alpha_of(0.05, look, 1) for look in range(100_000)) == pytest.approx(0.05, rel=1e-4)


def test_what_lies_beyond_a_limit_and_is_no_chance_is_worse() -> None:
    current = Side(requests=1800, errors=9, answers=1791, p95_ms=200.0, slow=90)
    same = Side(requests=200, errors=1, answers=199, p95_ms=210.0, slow=10)
    assert worse(same, current, BOUNDS, alpha=0.05, look=0) == []
    failing = Side(requests=200, errors=20, answers=180, p95_ms=210.0, slow=10)
    (told,) = worse(failing, current, BOUNDS, alpha=0.05, look=0)
    assert told.startswith("error rate 10.00%, the current version's is 0.50%")
    slow = Side(requests=200, errors=1, answers=199, p95_ms=900.0, slow=60)
    (told,) = worse(slow, current, BOUNDS, alpha=0.05, look=0)
    assert told.startswith(
        "latency p95 900 ms, the current version's is 200 ms and 1.5 times that is allowed"
    )
    few = Side(requests=20, errors=1, answers=19, p95_ms=900.0, slow=2)  # as large, and by chance
    assert worse(few, current, BOUNDS, alpha=0.05, look=0) == []
    liked, disliked = (Side(scores=40, score_mean=mean, score_variance=0.5) for mean in (0.6, -0.2))
    (told,) = worse(disliked, liked, BOUNDS, alpha=0.05, look=0)
    assert told.startswith("mean score -0.20, the current version's is 0.60")
    nothing = Bounds(error_rate=None, max_error_rate=0.5, latency_ratio=None, score_drop=None)
    assert worse(failing, current, nothing, alpha=0.05, look=0) == []
    assert welch_less(liked, liked) == 0.5


def test_twenty_requests_that_fail_need_no_test() -> None:
    assert hopeless(Side(requests=19, errors=19, broken=19), BOUNDS) is None
    assert hopeless(Side(requests=20, errors=9, broken=9), BOUNDS) is None
    assert hopeless(Side(requests=20, errors=20, broken=9), BOUNDS) is None  # refusals are compared
    assert (
        hopeless(Side(requests=20, errors=10, broken=10), BOUNDS)
        == "10 of 20 requests failed, at most 50% may"
    )


def test_looking_again_and_again_takes_a_good_version_back_no_more_often_than_alpha() -> None:
    """150 canaries of the very version that is there, each looked at 5 times; alpha 0.05 allows 7 of them."""
    random = np.random.default_rng(0)
    bounds = Bounds(error_rate=0.0, max_error_rate=1.0, latency_ratio=1.0, score_drop=None)
    taken_back = 0
    for _ in range(150):
        sizes = [200 * 2**look for look in range(5)]
        new, old = random.lognormal(6, 0.5, sizes[-1]), random.lognormal(6, 0.5, 9 * sizes[-1])
        failed_new, failed_old = random.random(sizes[-1]) < 0.02, random.random(9 * sizes[-1]) < 0.02
        for look, size in enumerate(sizes):
            bound = np.quantile(np.concatenate([new[:size], old[: 9 * size]]), 0.95, method="inverted_cdf")
            sides = [
                Side(
                    requests=count,
                    errors=int(failed[:count].sum()),
                    answers=count,
                    p95_ms=float(np.quantile(latencies[:count], 0.95)),
                    slow=int((latencies[:count] >= bound).sum()),
                )
                for count, latencies, failed in ((size, new, failed_new), (9 * size, old, failed_old))
            ]
            if worse(sides[0], sides[1], bounds, alpha=0.05, look=look):
                taken_back += 1
                break
    assert taken_back <= 7
