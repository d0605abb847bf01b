"""Every method on public data: rows of the real files, a tiny model of its own tokenizer, and a loss that falls."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import SHARED_DATA
from tests.train.tiny import plain, steps_of, tiny_llama
from transformers import PreTrainedTokenizerBase

from raymill.train.config import TrainConfig
from raymill.train.loop import Schedule, StepMetrics, train
from raymill.train.models import adapters
from raymill.train.readers import read_file
from raymill.train.reference import take_reference
from raymill.train.tokenizer import load_tokenizer, train_tokenizer
from raymill.train.tuning import objective_of

pytestmark = pytest.mark.real_data

VOCABULARY = 1024
ROWS = 48
PAIRS = 16

Row = dict[str, Any]


@pytest.fixture(scope="module")
def sets() -> dict[str, list[Row]]:
    """Rows in normal form, by file; those that are short enough for a test."""
    found: dict[str, list[Row]] = {}
    for name in ("alpaca_en_demo", "dpo_en_demo", "glaive_toolcall_en_demo"):
        rows = list(read_file(SHARED_DATA / "finetune" / f"{name}.json").rows)
        found[name] = [row for row in rows if len(json.dumps(row)) < 3000][:ROWS]
        assert len(found[name]) > 12, name
    return found


@pytest.fixture(scope="module")
def tokenizer(
    sets: dict[str, list[Row]], tmp_path_factory: pytest.TempPathFactory
) -> PreTrainedTokenizerBase:
    directory = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(
        [json.dumps(row, ensure_ascii=False) for rows in sets.values() for row in rows], VOCABULARY, directory
    )
    return load_tokenizer(directory)


def judged(rows: list[Row]) -> list[Row]:
    """Pairs as answers that are good or bad."""
    return [
        {"prompt": row["prompt"], "completion": row[key], "label": key == "chosen"}
        for row in rows
        for key in ("chosen", "rejected")
    ]


def texts(rows: list[Row]) -> list[Row]:
    return [{"text": row["messages"][-1]["content"]} for row in rows]


METHODS: dict[str, tuple[str, Callable[[list[Row]], list[Row]]]] = {
    "pretrain": ("alpaca_en_demo", texts),
    "sft": ("alpaca_en_demo", list),
    "tool": ("glaive_toolcall_en_demo", list),
    "dpo": ("dpo_en_demo", lambda rows: rows[:PAIRS]),
    "kto": ("dpo_en_demo", lambda rows: judged(rows[:PAIRS])),
}


@pytest.mark.parametrize(
    "lora",
    [
        pytest.param(None, id="full"),
        pytest.param({"r": 8, "rslora": True}, id="lora", marks=pytest.mark.slow),
        pytest.param({"r": 8, "dora": True}, id="dora", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_each_method_learns_from_real_rows(
    method: str,
    lora: Row | None,
    sets: dict[str, list[Row]],
    tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
) -> None:
    name, made = METHODS[method]
    rows = made(sets[name])
    config = TrainConfig.model_validate(
        {"method": method, "lora": lora, "batch": 8, "epochs": 3, "max_tokens": 1024, "learning_rate": 5e-3}
    )
    model: Any = tiny_llama(vocab=VOCABULARY)
    if config.lora is not None:
        from peft import get_peft_model

        torch.manual_seed(0)
        model = get_peft_model(model, adapters(config.lora))
    engine = plain(model, objective_of(config))
    shares = steps_of(config, tokenizer, rows)
    take_reference(engine, shares, tmp_path)
    told: list[StepMetrics] = []
    schedule = Schedule(peak=config.learning_rate, steps=shares.steps, warmup_share=0.1)
    train(engine, shares, schedule, seed=0, tell=told.append, after=lambda *_: None)
    epoch = shares.steps // config.epochs
    first, last = (sum(step.loss for step in steps) / epoch for steps in (told[:epoch], told[-epoch:]))
    assert last < first
