"""Settings that do not go together are refused where the recipe is parsed, and the documentation says the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from raymill.train.compatibility import (
    COMBINATIONS,
    GIVEN,
    NEEDS_GPU,
    Machine,
    Rule,
    as_markdown,
    missing_on,
)
from raymill.train.config import TrainConfig
from raymill.train.methods import DpoConfig, KtoConfig, LoraConfig
from raymill.train.run_config import EarlyStop, Validate

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "training.md"


def recipe_of(rule: Rule) -> dict[str, Any]:
    """A `train` section that the rule refuses."""
    section: dict[str, Any] = {}
    for key, values in rule.when.items():
        *path, last = key.split(".")
        inner = section
        for part in path:
            inner = inner.setdefault(part, {})
        given = 1 if last == "min_workers" else 0.1
        inner[last] = given if values[-1] is GIVEN else values[-1]
    return section


@pytest.mark.parametrize("rule", COMBINATIONS, ids=Rule.words)
def test_each_bad_combination_is_refused_with_its_cure(rule: Rule) -> None:
    with pytest.raises(ValidationError) as caught:
        TrainConfig.model_validate(recipe_of(rule))
    told = str(caught.value)
    assert "do not go together" in told
    assert rule.reason in told
    assert rule.cure in told


def test_the_error_names_the_values_that_were_given() -> None:
    with pytest.raises(ValidationError, match="compile: true, zero: 3 do not go together"):
        TrainConfig.model_validate({"compile": True, "zero": 3, "workers": 2})


@pytest.mark.parametrize("rule", NEEDS_GPU, ids=Rule.words)
def test_what_needs_a_gpu_is_refused_without_one(rule: Rule) -> None:
    given = {"zero": 3, **recipe_of(rule)} if "offload" in rule.when else recipe_of(rule)
    config = TrainConfig.model_validate(given).model_dump()
    reason = missing_on(Machine(gpus=0), config)
    assert reason is not None
    assert "needs a GPU" in reason
    assert rule.cure in reason
    assert missing_on(Machine(gpus=1), config) is None
    with pytest.raises(ValidationError, match="use_gpu is false, but"):
        TrainConfig.model_validate({**given, "use_gpu": False})


def test_usual_settings_go_together() -> None:
    for given in (
        {},
        {"lora": {"dora": True, "rslora": True}, "zero": 2, "workers": 2},
        {"sharding": "fsdp", "compile": True, "gradient_checkpointing": True, "workers": 2},
        {"zero": 3, "offload": "all", "workers": 4},
        {"method": "dpo", "lora": {"quantize": "nf4"}, "zero": 2},
    ):
        TrainConfig.model_validate(given)


def test_the_documentation_has_the_same_tables() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert as_markdown(COMBINATIONS) in text
    assert as_markdown(NEEDS_GPU) in text


@pytest.mark.parametrize("section", [TrainConfig, LoraConfig, DpoConfig, KtoConfig, Validate, EarlyStop])
def test_the_documentation_tells_of_every_field(section: type[Any]) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert [name for name in section.model_fields if f"`{name}`" not in text] == []
