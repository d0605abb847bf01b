"""Adapters on the CPU: what is added to a layer equals what vLLM's own operations add to it."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

from raymill.serve.llm.cpu_adapters import GroupedAdapters, groups_of

IDS = [7, 3, 9]
"""Adapters by place; a fourth place is free. 0 is no adapter."""

INPUTS, RANK = 24, 8
TYPES = [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)]
BATCHES = {
    "one token": [3],
    "one adapter": [9] * 6,
    "runs": [7, 7, 3, 3, 3, 9],
    "mixed": [7, 3, 7, 9, 3, 7],
    "some without": [0, 3, 3, 0, 9, 3, 0],
    "none": [0, 0, 0],
}


def told(kind: type[Any], tokens: Sequence[int]) -> Any:
    """vLLM's seam, told of a batch whose tokens have these adapters, and which samples every second one."""
    wrapper = kind(64, 16, "cpu")
    # As vllm.lora.layers.LoRAMapping, whose module brings all of vLLM.
    batch = SimpleNamespace(index_mapping=tokens, prompt_mapping=tokens[::2], is_prefill=True)
    wrapper.update_metadata(batch, [*IDS, None], 5, 400)
    return wrapper


def stacked(rows: int, columns: int, dtype: torch.dtype, ranks: Sequence[int] = (RANK,) * 3) -> Tensor:
    """Matrices of three adapters; what is beyond an adapter's rank is 0, as vLLM fills it, and so is the free place."""
    weights = torch.zeros(4, 1, rows, columns)
    for place, rank in enumerate(ranks):
        shape = (rank, columns) if rows == RANK else (rows, rank)
        weights[place, 0, : shape[0], : shape[1]] = torch.randn(shape) / 4
    return weights.to(dtype)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(5)


@pytest.mark.parametrize(("dtype", "close"), TYPES)
@pytest.mark.parametrize("widths", [(20,), (16, 4, 4)])
@pytest.mark.parametrize("tokens", BATCHES.values(), ids=BATCHES.keys())
def test_a_layer_gets_what_vllm_adds_to_it(
    tokens: list[int], widths: tuple[int, ...], dtype: torch.dtype, close: float
) -> None:
    ranks = (8, 4, 2)
    a = tuple(stacked(RANK, INPUTS, dtype, ranks) for _ in widths)
    b = tuple(stacked(width, RANK, dtype, ranks) for width in widths)
    x = torch.randn(len(tokens), INPUTS).to(dtype)
    base = torch.randn(len(tokens), sum(widths)).to(dtype)
    theirs, ours = base.clone(), base.clone()
    told(PunicaWrapperCPU, tokens).add_lora_linear(theirs, x, a, b, 0.5, widths)
    told(GroupedAdapters, tokens).add_lora_linear(ours, x, a, b, 0.5, widths)
    torch.testing.assert_close(ours, theirs, rtol=close, atol=close)
    changed = (ours != base).any(dim=1)
    assert changed.tolist() == [adapter != 0 for adapter in tokens]


@pytest.mark.parametrize(("dtype", "close"), TYPES)
@pytest.mark.parametrize("columns", [28, 40])
@pytest.mark.parametrize("tokens", BATCHES.values(), ids=BATCHES.keys())
def test_logits_and_embeddings_get_what_vllm_adds_to_them(
    tokens: list[int], columns: int, dtype: torch.dtype, close: float
) -> None:
    a, b = stacked(RANK, INPUTS, dtype), stacked(32, RANK, dtype)  # the layer has fewer columns, or more
    sampled = len(tokens[::2])
    x, logits = torch.randn(sampled, INPUTS).to(dtype), torch.randn(sampled, columns)
    first, embedded = torch.randn(len(tokens), RANK).to(dtype), torch.randn(len(tokens), 32).to(dtype)
    got = []
    for kind in (PunicaWrapperCPU, GroupedAdapters):
        wrapper, y, z = told(kind, tokens), logits.clone(), embedded.clone()
        wrapper.add_lora_logits(y, x, a, b, 1.0)
        wrapper.add_lora_embedding(z, first, b, add_input=True)
        got.append((y, z))
    torch.testing.assert_close(got[1], got[0], rtol=close, atol=close)


def test_a_token_without_an_adapter_stays_as_it_is_where_vllm_adds_the_last_place_to_it() -> None:
    a, b = (stacked(RANK, INPUTS, torch.float32),), (stacked(20, RANK, torch.float32),)
    for weights in (*a, *b):
        weights[3] = weights[0]  # the last place is taken
    x, base = torch.randn(2, INPUTS), torch.randn(2, 20)
    theirs, ours = base.clone(), base.clone()
    told(PunicaWrapperCPU, [3, 0]).add_lora_linear(theirs, x, a, b, 1.0, (20,))
    told(GroupedAdapters, [3, 0]).add_lora_linear(ours, x, a, b, 1.0, (20,))
    torch.testing.assert_close(ours[0], theirs[0])
    assert torch.equal(ours[1], base[1])
    assert not torch.equal(theirs[1], base[1])


def test_an_adapter_that_takes_the_place_of_another_is_the_one_that_is_added() -> None:
    a, b = (stacked(RANK, INPUTS, torch.float32),), (stacked(20, RANK, torch.float32),)
    x = torch.randn(1, INPUTS)
    wrapper = told(GroupedAdapters, [3])
    wrapper.add_lora_linear(torch.zeros(1, 20), x, a, b, 1.0, (20,))
    for weights in (*a, *b):
        weights[1].copy_(weights[2])
    y = torch.zeros(1, 20)
    wrapper.add_lora_linear(y, x, a, b, 1.0, (20,))
    torch.testing.assert_close(y, x @ a[0][2, 0].T @ b[0][2, 0].T)


def test_tokens_are_put_together_by_adapter_without_copies_where_they_stand_together() -> None:
    whole, runs, mixed = groups_of([2, 2]), groups_of([-1, 1, 1, 0]), groups_of([1, -1, 1])
    assert [(group.place, group.rows) for group in whole] == [(2, None)]
    assert [(group.place, group.rows) for group in runs] == [(1, slice(1, 3)), (0, slice(3, 4))]
    (scattered,) = mixed
    assert isinstance(scattered.rows, Tensor)
    assert (scattered.place, scattered.rows.tolist()) == (1, [0, 2])
    assert groups_of([-1, -1]) == []
