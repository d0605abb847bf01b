"""Rows that are held out, and what losses on them decide."""

import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from raymill.policies.errors import Invalid
from raymill.train.holdout import held_out
from raymill.train.run_config import EarlyStop, Validate
from raymill.train.validation import Snapshots, Verdict, verdict_of

ROWS = [f'{{"text": "row {number}"}}\n' for number in range(1000)]


def test_a_row_is_held_out_by_itself_whatever_else_is_there() -> None:
    chosen = held_out(ROWS, Validate(share=0.1))
    assert 60 < len(chosen) < 140
    rows = {ROWS[number] for number in chosen}
    fewer = ROWS[:500]
    assert {fewer[number] for number in held_out(fewer, Validate(share=0.1))} == rows & set(fewer)
    assert {ROWS[::-1][number] for number in held_out(ROWS[::-1], Validate(share=0.1))} == rows


def test_a_number_of_rows_may_be_given_and_twins_stay_together() -> None:
    assert len(held_out(ROWS, Validate(rows=7))) == 7
    twice = [*ROWS[:20], *ROWS[:20]]
    chosen = held_out(twice, Validate(rows=3))
    assert {number % 20 for number in chosen} == {number for number in chosen if number < 20}


@pytest.mark.parametrize(("rows", "config"), [(ROWS[:2], Validate(share=1e-9)), (ROWS[:2], Validate(rows=5))])
def test_a_part_without_rows_is_refused(rows: list[str], config: Validate) -> None:
    with pytest.raises(Invalid, match="validation"):
        held_out(rows, config)


@pytest.mark.parametrize(
    ("losses", "early", "verdict"),
    [
        ([3.0, 2.0, 1.0], EarlyStop(patience=1), Verdict(3, 1.0, False, 0)),
        ([3.0, 2.0, 2.1, 2.2, 1.0], EarlyStop(patience=2), Verdict(2, 2.0, True, 4)),
        ([3.0, 2.95, 2.9], EarlyStop(patience=2, min_delta=0.2), Verdict(1, 3.0, True, 3)),
        ([3.0, 4.0, 5.0], None, Verdict(1, 3.0, False, 0)),
    ],
)
def test_a_run_stops_when_nothing_better_came_for_long_enough(
    losses: list[float], early: EarlyStop | None, verdict: Verdict
) -> None:
    assert verdict_of(dict(enumerate(losses, start=1)), early) == verdict


def test_only_weights_that_may_be_needed_are_kept(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path / "validation")
    told = threading.Event()
    weights = {"w": torch.zeros(3)}
    for step in (10, 20, 30):
        snapshots.write(step, weights, told.set)
        weights["w"] += 1  # the copy must not see it
    snapshots.wait()
    assert told.is_set()
    assert load_file(snapshots.path(30))["w"].tolist() == [2.0, 2.0, 2.0]
    assert snapshots.begin(after=30) == [10, 20, 30]
    assert snapshots.measured(10, 3.0, None).best_step == 10
    assert snapshots.measured(20, 2.0, None).best_step == 20
    assert snapshots.measured(30, 4.0, None).best_step == 20
    assert snapshots.steps() == [20]
    # The run goes on from step 25: what came later is done again.
    assert snapshots.begin(after=25) == []
    assert snapshots.losses() == {10: 3.0, 20: 2.0}
