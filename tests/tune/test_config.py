"""What a search may say, and what it is told when it says something else."""

from typing import Any

import pytest
from pydantic import ValidationError

from raymill.train.config import TrainConfig
from raymill.train.run_config import Validate
from raymill.tune.config import TuneConfig, find_problem, grid, measured, with_values

RATE = {"train.learning_rate": {"loguniform": [1e-5, 1e-2]}}
LORA = TrainConfig.model_validate({"lora": {"r": 16}})


def config(**fields: Any) -> TuneConfig:
    return TuneConfig.model_validate({"over": RATE} | fields)


def problem(over: dict[str, Any], train: TrainConfig = LORA, **fields: Any) -> str:
    found = find_problem(config(over=over, **fields), train)
    return f"{found.param}: {found.text}" if found else ""


def test_a_search_over_fields_that_exist_is_no_problem() -> None:
    over = {**RATE, "train.lora.r": {"choice": [8, 16]}, "train.batch": {"logintegers": [4, 64]}}
    assert problem(over) == ""
    assert config(over=over).size == 16


@pytest.mark.parametrize(
    ("over", "says"),
    [
        ({"train.learning_rat": {"choice": [1e-4]}}, "train has no field 'learning_rat': did you mean learning_rate?"),
        ({"train.lora.rank": {"choice": [8]}}, "train.lora has no field 'rank'"),
        ({"train.lora.r": {"choice": [8, 0]}}, "train.lora.r cannot be 0: Input should be greater than or equal to 1"),
        ({"train.learning_rate": {"uniform": [0.1, 2.0]}}, "train.learning_rate cannot be 2.0"),
        ({"train.batch.size": {"choice": [8]}}, "train.batch has no fields of its own"),
        ({"train.workers": {"choice": [1, 2]}}, "says where training runs"),
        ({"train.max_tokens": {"choice": [512, 1024]}}, "could not be compared"),
        ({"evaluate.tasks": {"choice": ["a"]}}, "can search train alone"),
        ({"train.lora": {"choice": [None]}, "train.lora.r": {"choice": [8]}}, "lies within train.lora"),
    ],
)  # fmt: skip
def test_a_field_or_value_that_cannot_be_is_named(over: dict[str, Any], says: str) -> None:
    assert says in problem(over)


def test_a_part_that_the_recipe_leaves_out_cannot_be_searched() -> None:
    assert problem({"train.lora.r": {"choice": [8]}}, TrainConfig()) == (
        "tune.over.train.lora.r: the recipe has no train.lora: add it"
    )


def test_every_combination_of_a_grid_is_tried_beforehand() -> None:
    train = TrainConfig.model_validate({"method": "dpo", "dpo": {"loss": "robust"}})
    over = {
        "train.dpo.loss": {"choice": ["robust", "sigmoid"]},
        "train.dpo.label_smoothing": {"choice": [0.0, 0.1]},
    }
    assert "do not go together" in problem(over, train, search="grid")


def test_a_recipe_that_ends_its_runs_early_or_on_many_workers_is_not_searched() -> None:
    over = {"train.batch": {"choice": [8]}}
    early = TrainConfig.model_validate({"validation": {"every": 10}, "early_stop": {}})
    assert problem(over, early).startswith("train.early_stop: would end trials")
    many = TrainConfig.model_validate({"workers": 2})
    assert problem(over, many).startswith("train.workers: is 2")


def test_rows_are_held_out_where_trials_are_measured_by_them() -> None:
    assert measured(LORA, config()).validation == Validate(every=LORA.checkpoint_every)
    assert measured(LORA, config(metric="final_loss")) == LORA
    own = TrainConfig.model_validate({"validation": {"rows": 9}})
    assert measured(own, config()) == own


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"search": "grid"}, "give it a choice"),
        ({"over": {"train.batch": {"choice": [1, 2]}}, "search": "grid", "trials": 3}, "2 combinations"),
        ({"over": {"train.batch": {"choice": [1], "uniform": [0, 1]}}}, "exactly one of"),
        ({"over": {"train.batch": {"integers": [9, 2]}}}, "the smaller first"),
        ({"over": {"train.learning_rate": {"loguniform": [0, 1]}}}, "begin above 0"),
        ({"over": {}}, "at least 1 item"),
        ({"scheduler": "pbt", "search": "optuna"}, "search cannot be optuna"),
        ({"scheduler": "pbt", "trials": 3}, "use 4 or more"),
        ({"scheduler": "pbt", "over": {"train.lora.r": {"choice": [1]}}}, "cannot change while"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        config(**fields)


def test_a_grid_is_every_combination_in_the_order_of_the_recipe() -> None:
    over = {"train.epochs": {"choice": [1, 2]}, "train.batch": {"choice": [4, 8]}}
    found = config(over=over, search="grid")
    assert found.size == 4
    assert [list(values.values()) for values in grid(found)] == [[1, 4], [1, 8], [2, 4], [2, 8]]


def test_what_follows_from_a_field_follows_the_value_tried() -> None:
    tried = with_values(LORA, {"train.lora.r": 8})
    assert tried.lora is not None
    assert (tried.lora.r, tried.lora.alpha) == (8, 16)
    without = with_values(LORA, {"train.lora": None})
    assert without.lora is None
    assert without.learning_rate == TrainConfig().learning_rate


def test_what_the_recipe_says_stays() -> None:
    train = TrainConfig.model_validate({"lora": {"r": 16, "alpha": 5}, "epochs": 7, "learning_rate": 1e-3})
    tried = with_values(train, {"train.lora.r": 8})
    assert tried.lora is not None
    assert (tried.lora.alpha, tried.epochs, tried.learning_rate) == (5, 7, 1e-3)
