"""What must not change a method's loss does not: packing, passes, other workers' work. And what prepares a step."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.train.tiny import (
    encoded_rows,
    loss_and_gradients,
    moved,
    plain,
    rows_of,
    steps_of,
    tiny_llama,
    tiny_tokenizer,
)
from transformers import PreTrainedTokenizerBase

from raymill.train import encoded, summed_loss
from raymill.train.config import TrainConfig
from raymill.train.loop import Schedule, StepMetrics, measure, run_step, train
from raymill.train.methods import NEEDED_SHAPE
from raymill.train.models import adapters
from raymill.train.objectives import TokenLoss
from raymill.train.preferences import ReferencedShares, graft
from raymill.train.reference import REFERENCE, take_reference
from raymill.train.summed_loss import SummedLoss
from raymill.train.template import IGNORE, Example
from raymill.train.tuning import objective_of

ROWS = 9
START = tiny_llama(vocab=330)
LEARNT = moved(START)

SETTINGS: list[dict[str, Any]] = [
    {"method": "sft"},
    {"method": "pretrain"},
    {"method": "kto"},
    {"method": "kto", "kto": {"loss": "apo_zero_unpaired"}},
    {"method": "dpo", "dpo": {"loss": "sigmoid", "sft_weight": 0.5}},
    {"method": "dpo", "dpo": {"loss": "ipo"}},
    {"method": "dpo", "dpo": {"loss": {"aot": 0.5, "aot_unpaired": 0.5}, "label_smoothing": 0.1}},
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def config_of(given: dict[str, Any], **more: Any) -> TrainConfig:
    return TrainConfig.model_validate({"batch": 6, "max_tokens": 64, "epochs": 2, **given, **more})


def referenced(config: TrainConfig, tokenizer: PreTrainedTokenizerBase, directory: Path) -> Any:
    shares = steps_of(config, tokenizer, rows_of(NEEDED_SHAPE[config.method], ROWS))
    take_reference(plain(copy.deepcopy(START), TokenLoss()), shares, directory)
    return shares


@pytest.mark.parametrize("given", SETTINGS, ids=str)
def test_packing_and_smaller_passes_change_neither_loss_nor_gradient(
    given: dict[str, Any], tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    whole = config_of(given, packing=False)
    loss, gradients = loss_and_gradients(LEARNT, whole, referenced(whole, tokenizer, tmp_path).share(0, 0, 1))
    for how in (
        {"packing": True},
        {"packing": True, "micro_tokens": 64},
        {"packing": False, "micro_tokens": 64},
    ):
        config = config_of(given, **how)
        share = referenced(config, tokenizer, tmp_path).share(0, 0, 1)
        assert len(share.passes) == 1 or "micro_tokens" in how
        other, others = loss_and_gradients(LEARNT, config, share)
        assert other == pytest.approx(loss, abs=1e-5, rel=1e-5)
        for name, gradient in gradients.items():
            torch.testing.assert_close(others[name], gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_workers_share_a_steps_examples_and_keep_pairs_together(
    method: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    config = config_of({"method": method}, micro_tokens=64)
    shares = referenced(config, tokenizer, tmp_path)
    for step in range(shares.steps):
        whole = shares.share(step, 0, 1)
        parts = [shares.share(step, rank, 2) for rank in range(2)]
        assert {len(part.passes) for part in parts} == {max(len(part.passes) for part in parts)}
        for kind in ("passes", "probes"):
            dealt = sorted(
                i for part in parts for batch in getattr(part, kind) for i in batch.examples_E.tolist()
            )
            assert dealt == sorted(i for batch in getattr(whole, kind) for i in batch.examples_E.tolist())
        assert {part.counted for part in parts} == {whole.counted}
        if method == "dpo":
            for batch in whole.passes:
                numbers = batch.examples_E.tolist()
                assert sorted(numbers) == sorted(n ^ 1 for n in numbers)


def test_an_epoch_of_pairs_sees_each_once_and_one_of_answers_the_same_groups_in_another_order(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    for method, examples in (("dpo", 2 * ROWS), ("kto", ROWS)):
        shares = referenced(config_of({"method": method}, batch=2), tokenizer, tmp_path)
        (tmp_path / REFERENCE).unlink()
        half = shares.steps // 2
        seen = [
            [i for batch in shares.share(step, 0, 1).passes for i in batch.examples_E.tolist()]
            for step in range(shares.steps)
        ]
        for epoch in (seen[:half], seen[half:]):
            assert sorted(i for step in epoch for i in step) == list(range(examples))
        assert seen[:half] != seen[half:]
        if method == "kto":
            assert sorted(map(sorted, seen[:half])) == sorted(map(sorted, seen[half:]))


def test_a_grafted_example_has_one_question_and_anothers_answer() -> None:
    mixed = graft(Example([1, 2, 3], [IGNORE, IGNORE, 3]), Example([4, 5, 6], [IGNORE, 5, 6]))
    assert mixed == Example([1, 2, 5, 6], [IGNORE, IGNORE, 5, 6])


def test_the_reference_is_taken_once_and_is_the_model_with_its_adapters_off(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    from peft import get_peft_model

    config = config_of({"method": "dpo", "lora": {"r": 4, "dora": True}})
    assert config.lora is not None
    shares = steps_of(config, tokenizer, rows_of("preference", ROWS))
    assert isinstance(shares, ReferencedShares)
    adapted = get_peft_model(copy.deepcopy(START), adapters(config.lora))
    engine = plain(adapted, objective_of(config))
    assert take_reference(engine, shares, tmp_path)
    taken = shares.reference_N
    assert taken is not None
    for batch in shares.scoring(0, 1):
        with adapted.disable_adapter():
            np.testing.assert_allclose(
                engine.score(batch).numpy(), taken[batch.examples_E], rtol=1e-5, atol=1e-4
            )
    assert [path.name for path in tmp_path.iterdir()] == [REFERENCE]

    shares.reference_N = None
    assert not take_reference(plain(moved(START), objective_of(config)), shares, tmp_path)
    assert shares.reference_N is not None
    np.testing.assert_array_equal(shares.reference_N, taken)


def test_pieces_of_logits_change_neither_loss_nor_gradient(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of({"method": "sft"})
    share = steps_of(config, tokenizer, rows_of("conversation", ROWS)).share(0, 0, 1)
    whole, gradients = loss_and_gradients(START, config, share)
    monkeypatch.setitem(summed_loss.LOGITS_BYTES, "cpu", 4 * 330 * 7)
    loss, others = loss_and_gradients(START, config, share)
    assert loss == pytest.approx(whole, rel=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, atol=1e-6, rtol=1e-5)


def test_a_model_that_caps_its_logits_computes_them_itself() -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    assert SummedLoss(tiny_llama(), bf16=False)._headless
    capped = Gemma2ForCausalLM(
        Gemma2Config(
            vocab_size=330, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, head_dim=32, final_logit_softcapping=1.0,
        )
    )  # fmt: skip
    assert not SummedLoss(capped, bf16=False)._headless


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_a_comparing_run_prefers_the_better_answers_and_says_so(
    method: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    config = config_of({"method": method}, epochs=10)
    shares = referenced(config, tokenizer, tmp_path)
    told: list[StepMetrics] = []
    schedule = Schedule(peak=3e-3, steps=shares.steps, warmup_share=0.1)
    engine = plain(copy.deepcopy(START), objective_of(config))
    train(engine, shares, schedule, seed=0, tell=told.append, after=lambda *_: None)
    first, last = told[0].event(), told[-1].event()
    assert first["reward_margin"] == pytest.approx(0, abs=1e-4)
    assert last["loss"] < first["loss"]
    assert last["reward_margin"] > 0.5
    if method == "dpo":
        assert last["reward_accuracy"] == 1.0
    else:
        assert last["kl"] >= 0


def test_a_set_is_read_from_its_file_as_it_was_written(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    for method, shape in NEEDED_SHAPE.items():
        config = config_of({"method": method})
        made = encoded_rows(config, tokenizer, rows_of(shape, 4))
        encoded.write(made, tmp_path / f"{method}.npz")
        assert encoded.read(tmp_path / f"{method}.npz") == made


def test_a_step_without_anything_to_learn_is_no_division_by_zero(tokenizer: PreTrainedTokenizerBase) -> None:
    config = config_of({"method": "sft"})
    share = steps_of(config, tokenizer, rows_of("conversation", 1)).share(0, 1, 2)
    assert run_step(plain(copy.deepcopy(START), TokenLoss()), share)[0] == 0


@pytest.mark.parametrize("given", SETTINGS, ids=str)
def test_measuring_gives_the_loss_of_a_step_and_learns_nothing(
    given: dict[str, Any], tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    config = config_of(given, epochs=1, batch=ROWS)
    shares = referenced(config, tokenizer, tmp_path)
    engine = plain(copy.deepcopy(LEARNT), objective_of(config))
    measured, told = measure(engine, shares)
    assert all(p.grad is None for p in engine._model.parameters())
    loss, more = run_step(engine, shares.share(0, 0, 1))
    if config.method == "pretrain":
        return  # its steps count pieces, of which there are more than rows
    assert measured == pytest.approx(loss, rel=1e-6)
    assert told == pytest.approx(more)
