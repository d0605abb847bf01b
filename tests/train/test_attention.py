"""Attention within examples: what a mask gives, by kernels that need none. For the GPU's, one in torch stands in."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.tiny import loss_and_gradients, plain, rows_of, steps_of, tiny_llama, tiny_tokenizer
from torch import Tensor
from torch.nn.attention import varlen

from raymill.train import attention
from raymill.train.attention import agrees_with_masks, attend_within_examples, attends_within_examples
from raymill.train.batches import Share
from raymill.train.config import ClusterUse, TrainConfig
from raymill.train.layouts import prepare
from raymill.train.objectives import TokenLoss
from raymill.train.summed_loss import logits_bytes, starts_of

CPU = torch.device("cpu")
CONFIG = TrainConfig.model_validate({"batch": 5, "max_tokens": 128, "micro_tokens": 128})


def shares_of_others(query: Tensor, key: Tensor, starts_S: Tensor, scale: float) -> Tensor:
    """How much of each token every token takes, by heads."""
    owners = torch.searchsorted(starts_S[1:], torch.arange(len(query)), right=True)
    mask = (owners[:, None] == owners[None, :]).tril()
    scores = torch.einsum("qhd,khd->hqk", query, grouped(key, query)) * scale
    return scores.masked_fill(~mask, float("-inf")).softmax(-1)


def grouped(few: Tensor, query: Tensor) -> Tensor:
    """A head of keys or values for each of the queries'."""
    return few.repeat_interleave(query.shape[1] // few.shape[1], dim=1)


def forward(
    query: Tensor, key: Tensor, value: Tensor, starts_S: Tensor, *more: Any
) -> tuple[Tensor, Tensor, Tensor]:
    shares = shares_of_others(query, key, starts_S, more[4] or query.shape[-1] ** -0.5)
    out = torch.einsum("hqk,khd->qhd", shares, grouped(value, query)).contiguous()
    return out, out.new_zeros(query.shape[1], len(query)), torch.zeros(2, dtype=torch.uint64)


def backward(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *more: Any) -> tuple[Tensor, ...]:
    # Written out: within an operator nothing is recorded.
    scale = more[8] or query.shape[-1] ** -0.5
    shares = shares_of_others(query, key, more[2], scale)
    of_shares = torch.einsum("qhd,khd->hqk", grad, grouped(value, query))
    of_scores = shares * (of_shares - (of_shares * shares).sum(-1, keepdim=True)) * scale
    of_query = torch.einsum("hqk,khd->qhd", of_scores, grouped(key, query))
    of_key = torch.einsum("hqk,qhd->khd", of_scores, query)
    of_value = torch.einsum("hqk,qhd->khd", shares, grad)
    few = (len(key), key.shape[1], -1, key.shape[2])
    return of_query.contiguous(), of_key.reshape(few).sum(2), of_value.reshape(few).sum(2)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The operators of torch's FlashAttention, on the CPU and in fp32, in place of what a CPU does."""
    ops: Any = varlen
    ops._varlen_attn.register_kernel("cpu")(forward)
    ops._varlen_attn_backward.register_kernel("cpu")(backward)
    monkeypatch.setattr(attention, "in_turn", attention.at_once)
    yield
    for op in (ops._varlen_attn, ops._varlen_attn_backward):
        op._backend_fns["cpu"] = op._init_fn


@pytest.fixture
def share(tmp_path: Path) -> Share:
    return steps_of(CONFIG, tiny_tokenizer(tmp_path), rows_of("conversation", 9)).share(0, 0, 1)


def with_adapters() -> Any:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    return get_peft_model(tiny_llama(vocab=330), LoraConfig(target_modules=["q_proj"]))


@pytest.mark.parametrize("build", [lambda: tiny_llama(vocab=330), with_adapters])
@pytest.mark.parametrize("how", ["at once", "in turn"])
def test_it_gives_the_loss_and_gradients_of_a_mask(
    build: Any, how: str, share: Share, request: pytest.FixtureRequest
) -> None:
    if how == "at once":
        request.getfixturevalue("kernel")
    expected, gradients = loss_and_gradients(build(), CONFIG, share)
    model = build()
    assert attend_within_examples(model, CPU)
    loss, others = loss_and_gradients(model, CONFIG, share)
    assert loss == pytest.approx(expected, rel=1e-6)
    assert gradients
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.usefixtures("kernel")
def test_scores_of_examples_are_those_of_a_mask(share: Share) -> None:
    model = tiny_llama(vocab=330)
    expected = plain(copy.deepcopy(model), TokenLoss()).score(share.passes[0])
    attend_within_examples(model, CPU)
    engine = plain(model, TokenLoss())
    assert engine._model._headless  # no logits of tokens that do not count
    torch.testing.assert_close(engine.score(share.passes[0]), expected)


@pytest.mark.filterwarnings("default")  # torch's compiler hides its own, which would be errors before that
@pytest.mark.slow
@pytest.mark.usefixtures("kernel")
def test_compiled_it_computes_the_same(share: Share) -> None:
    expected, gradients = loss_and_gradients(tiny_llama(vocab=330), CONFIG, share)
    model = tiny_llama(vocab=330)
    attend_within_examples(model, CPU)
    prepare(model, ClusterUse(compile=True))
    loss, others = loss_and_gradients(model, CONFIG, share)
    assert loss == pytest.approx(expected, rel=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, atol=1e-5, rtol=1e-4)


def test_a_device_without_the_kernel_keeps_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "in_turn", attention.at_once)  # which no CPU has
    model = tiny_llama()
    assert not attend_within_examples(model, CPU)
    assert not attends_within_examples(model)


@pytest.mark.gpu
def test_on_a_gpu_the_kernel_gives_the_gradients_of_a_mask() -> None:
    assert agrees_with_masks(torch.device("cuda"), 32, 8, 64)
    assert agrees_with_masks(torch.device("cuda"), 32, 8, 128)


@pytest.mark.usefixtures("kernel")
def test_a_kernel_that_computes_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert agrees_with_masks(CPU, 2, 1, 32)
    right = attention.attend
    monkeypatch.setattr(attention, "attend", lambda *given: right(*given) * 1.1)
    assert not agrees_with_masks(CPU, 2, 1, 32)


@pytest.mark.usefixtures("kernel")
def test_a_model_that_does_more_to_its_scores_keeps_its_own_attention() -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM, MistralConfig, MistralForCausalLM

    small: Any = {
        "vocab_size": 64,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    assert not attend_within_examples(Gemma2ForCausalLM(Gemma2Config(**small, head_dim=32)), CPU)
    assert not attend_within_examples(MistralForCausalLM(MistralConfig(**small, sliding_window=8)), CPU)
    assert attend_within_examples(MistralForCausalLM(MistralConfig(**small, sliding_window=None)), CPU)
    assert not attend_within_examples(tiny_llama(attention_dropout=0.1), CPU)


def test_compiled_losses_hold_more_logits_on_a_large_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    device: Any = type("Device", (), {"total_memory": 140 << 30})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: device)
    assert logits_bytes(torch.device("cuda"), compiled=False) == 2 << 30
    assert logits_bytes(torch.device("cuda"), compiled=True) == 35 << 28
    assert logits_bytes(CPU, compiled=True) == 256 << 20


def test_sequences_of_a_pass_begin_where_positions_do(share: Share) -> None:
    batch = share.passes[0]
    starts = starts_of(batch)
    assert starts[0] == 0
    assert starts[-1] == batch.ids_BT.size
    assert (batch.positions_BT.reshape(-1)[starts[:-1]] == 0).all()
    assert len(starts) > len(batch.examples_E)
