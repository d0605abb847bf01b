"""Agreement beyond chance, on tables that can be counted by hand."""

from __future__ import annotations

import pytest

from raymill.policies.agreement import agreement


def test_kappa_of_a_table_that_is_known() -> None:
    # Of 50 applications two readers accept 20 together, refuse 15 together, and differ on 15: (0.7 - 0.5) / (1 - 0.5).
    one = ["yes"] * 25 + ["no"] * 25
    other = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    found = agreement(one, other, ["yes", "no"])
    assert (found.examples, found.raw) == (50, 0.7)
    assert found.kappa == pytest.approx(0.4)
    assert found.interval is not None
    assert found.interval.low == pytest.approx(0.4 - 1.96 * 0.13, abs=0.06)
    assert found.interval.high == pytest.approx(0.4 + 1.96 * 0.13, abs=0.06)


def test_a_near_miss_on_a_scale_costs_less_than_a_far_one() -> None:
    marks = [1, 2, 3, 4, 5] * 8
    near, far = ([min(5, mark + 1) for mark in marks], [6 - mark for mark in marks])
    weighted = agreement(marks, near, range(1, 6), quadratic=True).kappa
    assert weighted is not None
    # Of 40 pairs 32 are one apart; by chance 2.8 apart squared, from the two margins.
    assert weighted == pytest.approx(1 - 0.8 / 3.84, abs=0.01)
    assert agreement(marks, far, range(1, 6), quadratic=True).kappa == pytest.approx(-1.0)
    assert agreement(marks, marks, range(1, 6), quadratic=True).kappa == 1.0


def test_where_chance_agrees_always_there_is_no_kappa() -> None:
    found = agreement(["a"] * 9, ["a"] * 9, ["a", "b"])
    assert (found.raw, found.kappa, found.interval) == (1.0, None, None)
    with pytest.raises(ValueError, match="give as many, at least one"):
        agreement([], [], ["a"])
