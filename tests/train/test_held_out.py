"""Rows that are held out are measured by the method's own objective, and training never sees them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.lines import write_lines
from tests.train.tiny import moved, rows_of, tiny_llama, tiny_tokenizer

from raymill.train.config import TrainConfig
from raymill.train.dataset_rows import write_jsonl
from raymill.train.encoded import encode_lines, lines_of
from raymill.train.holdout import held_out
from raymill.train.loop import measure
from raymill.train.methods import NEEDED_SHAPE, Method
from raymill.train.reference import HELD_OUT_REFERENCE, take_reference
from raymill.train.tuning import objective_of, shares_of
from raymill.train.worker import Task, measuring_engine


def settings(method: str) -> TrainConfig:
    given = {"method": method, "batch": 4, "max_tokens": 16, "validation": {"rows": 5}}
    if method != "pretrain":
        given["max_tokens"] = 64
    return TrainConfig.model_validate(given)


def task_of(config: TrainConfig, **more: Any) -> Task:
    return Task(
        build=lambda: tiny_llama(vocab=330),
        export=lambda _: None,
        objective=objective_of(config),
        use=config.model_copy(update={"precision": "fp32"}),
        learning_rate=0.01,
        warmup_share=0.1,
        weight_decay=0.0,
        max_grad_norm=1.0,
        seed=0,
        **more,
    )


@pytest.mark.parametrize(
    ("method", "at_first"), [("sft", None), ("pretrain", None), ("dpo", math.log(2)), ("kto", 0.5)]
)
def test_a_methods_held_out_loss_is_that_of_its_own_objective(
    method: Method, at_first: float | None, tmp_path: Path
) -> None:
    config, tokenizer = settings(method), tiny_tokenizer(tmp_path / "tokenizer")
    rows = rows_of(NEEDED_SHAPE[method], 20)
    file = tmp_path / "train.jsonl"
    write_lines(file, rows)
    assert config.validation is not None
    lines = lines_of(file)
    data, apart = encode_lines(config, tokenizer, lines), held_out(lines, config.validation)
    held, left = data.of_rows(apart), data.of_rows(set(range(20)) - apart)
    assert (held.rows, left.rows) == (5, 15)
    seen = {tuple(example.ids) for example in left.examples}
    assert len(held.examples) + len(left.examples) == len(data.examples)
    if method == "sft":
        assert not any(tuple(example.ids) in seen for example in held.examples)
    assert len(held.good) == (5 if method == "kto" else 0)

    shares = shares_of(config, held, tokenizer.pad_token_id, epochs=1)
    assert shares.steps == 2 or method == "pretrain"
    task = task_of(config, shares=shares)
    engine = measuring_engine(task, torch.device("cpu"))
    assert take_reference(engine, shares, tmp_path, HELD_OUT_REFERENCE) is (method in ("dpo", "kto"))
    before, _ = measure(engine, shares)
    if at_first is not None:
        assert before == pytest.approx(at_first, abs=1e-6)
    learnt = {name: weight.detach() for name, weight in moved(tiny_llama(vocab=330)).named_parameters()}
    engine.put(learnt)
    after, more = measure(engine, shares)
    assert after != before
    assert bool(more) is (method in ("dpo", "kto"))
    # The actor may die and begin again: the reference is the starting model's all the same.
    again = shares_of(config, held, tokenizer.pad_token_id, epochs=1)
    assert take_reference(engine, again, tmp_path, HELD_OUT_REFERENCE) is False
    assert measure(engine, again)[0] == after


def test_a_row_with_a_line_separator_in_its_text_is_one_row(tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    write_jsonl([{"text": "one\u2028still one\x85 and here"}, {"text": "two"}], file)
    assert [json.loads(line)["text"] for line in lines_of(file)] == ["one\u2028still one\x85 and here", "two"]
