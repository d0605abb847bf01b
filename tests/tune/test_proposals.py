"""What trials try: within the ranges, the same again after a restart, and better as Optuna learns."""

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from raymill.tune.config import TuneConfig, Values
from raymill.tune.proposals import TpeProposals, proposals
from raymill.tune.space import draw, explore, rng_of

OVER = {
    "train.learning_rate": {"loguniform": [1e-5, 1e-2]},
    "train.warmup_share": {"uniform": [0.0, 0.2]},
    "train.batch": {"logintegers": [2, 64]},
    "train.epochs": {"integers": [1, 3]},
    "train.lora": {"choice": [None, {"r": 8}]},
}


def config(**fields: Any) -> TuneConfig:
    return TuneConfig.model_validate({"over": OVER} | fields)


def is_within(values: Values) -> bool:
    return (
        1e-5 <= values["train.learning_rate"] <= 1e-2
        and 0 <= values["train.warmup_share"] <= 0.2
        and values["train.batch"] in range(2, 65)
        and values["train.epochs"] in range(1, 4)
        and values["train.lora"] in (None, {"r": 8})
    )


@given(seed=st.integers(0, 1000), number=st.integers(1, 100))
def test_draws_and_what_is_near_them_lie_within_the_ranges(seed: int, number: int) -> None:
    found = config(seed=seed)
    values = draw(found, number)
    assert is_within(values)
    assert is_within(explore(found, values, rng_of(seed, number)))
    assert draw(found, number) == values


def test_draws_reach_every_whole_number_and_choice() -> None:
    drawn = [draw(config(), number) for number in range(1, 400)]
    assert {values["train.epochs"] for values in drawn} == {1, 2, 3}
    assert {str(values["train.lora"]) for values in drawn} == {"None", "{'r': 8}"}
    assert {2, 64} <= {values["train.batch"] for values in drawn}


def loss(values: Values) -> float:
    """Smallest at a learning rate of 1e-3 with adapters."""
    return abs(math.log10(values["train.learning_rate"]) + 3) + (values["train.lora"] is None)


def run(on: TpeProposals, numbers: range) -> list[Values]:
    tried = []
    for number in numbers:
        tried.append(on.next(number))
        on.reported(number, 1, 2 * loss(tried[-1]))
        on.ended(number, loss(tried[-1]), stopped=number % 3 == 0)
    return tried


def test_optuna_learns_from_what_it_is_told() -> None:
    tried = run(TpeProposals(config(search="optuna")), range(1, 41))
    assert all(is_within(values) for values in tried)
    late = sum(loss(values) for values in tried[30:]) / 10
    assert late < 0.5 * sum(loss(values) for values in tried[:10]) / 10


def test_optuna_goes_on_from_trials_that_another_process_ran() -> None:
    before = run(TpeProposals(config(search="optuna")), range(1, 31))
    again = TpeProposals(config(search="optuna"))
    for number, values in enumerate(before, start=1):
        again.known(number, values)
        again.reported(number, 1, 2 * loss(values))
        again.ended(number, loss(values), stopped=number % 3 == 0)
    after = run(again, range(31, 41))
    assert sum(loss(values) for values in after) < 0.5 * sum(loss(values) for values in before[:10])


def test_a_trial_that_failed_or_is_told_of_twice_disturbs_nobody() -> None:
    on = proposals(config(search="optuna"))
    on.next(1)
    on.reported(1, 5, 1.0)
    on.reported(1, 5, 1.0)
    on.ended(1, None, stopped=False)
    on.ended(1, None, stopped=False)
    assert is_within(on.next(2))
