"""Attention that stays within an example, over rows of several.

Without it a row's examples are kept apart by a mask: each token is multiplied with all of its row, and no fast kernel
takes a mask. On a GPU it is torch's FlashAttention for sequences of any length, on a CPU one example after the other.
Used where it is known to compute the same, and where the device shows that it does; knows no rows.

Shapes: B rows, T tokens in a row, Q heads, K heads of keys and values, D a head's width, S the sequences of a pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

NAME = "raymill_examples"
"""Of this attention among transformers'."""

PLAIN_CAUSAL = ("llama", "mistral", "qwen2", "qwen3")
"""Types of models whose layers attend to all that came before and do nothing else to the scores."""

PROBED_LENGTHS = (5, 130, 61)
PROBE_ERROR = 0.03
"""Share of the gradient's length by which two kernels in bf16 may differ."""


def attend_within_examples(model: nn.Module, device: torch.device) -> bool:
    """Have `model` attend so, if it can and `device` does it right. In place; whether it was done."""
    whole: Any = base_of(model)
    config = whole.config
    plain = (
        config.model_type in PLAIN_CAUSAL
        and config._attn_implementation == "sdpa"
        and not getattr(config, "sliding_window", None)
        and not config.attention_dropout
    )
    if not plain:
        return False
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if not agrees_with_masks(device, config.num_attention_heads, config.num_key_value_heads, width):
        return False
    from transformers import AttentionInterface  # seconds, and who holds a model has paid them

    AttentionInterface.register(NAME, within_examples)
    whole.set_attn_implementation(NAME)
    return True


def attends_within_examples(model: nn.Module) -> bool:
    """Whether `model` must be told where its examples begin, as `cu_seq_lens_q`."""
    config = getattr(base_of(model), "config", None)
    return getattr(config, "_attn_implementation", None) == NAME


def base_of(model: Any) -> Any:
    """The model without the wrapper that adapters bring."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def within_examples(
    module: nn.Module,  # noqa: ARG001
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001
    **more: Any,
) -> tuple[Tensor, None]:
    """What transformers asks of an attention: heads before tokens in, tokens before heads out.

    `cu_seq_lens_q` holds where each example begins in the flattened rows, and their end (S + 1). Without it a row is
    one example.
    """
    starts, scale = more.get("cu_seq_lens_q"), more.get("scaling")
    if starts is None:
        whole = functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scale, enable_gqa=True
        )
        return whole.transpose(1, 2), None
    rows, heads, tokens, _ = query.shape
    # Rotary positions may have made fp32 of 16 bits; values have none.
    flat_query, flat_key, flat_value = (flat(part).to(value.dtype) for part in (query, key, value))
    # No example is longer than its row; a bound that is too high costs next to nothing.
    attended = attend(flat_query, flat_key, flat_value, starts, tokens, scale)
    return attended.view(rows, tokens, heads, -1), None


def flat(part: Tensor) -> Tensor:
    """Rows end to end, as kernels take them."""
    return part.transpose(1, 2).flatten(0, 1)


def attend(
    query: Tensor, key: Tensor, value: Tensor, starts_S: Tensor, longest: int, scale: float | None
) -> Tensor:
    """Each token to those before it in its sequence, and itself; heads of keys are shared by groups of queries."""
    kernel = in_turn if query.device.type == "cpu" else at_once
    return kernel(query, key, value, starts_S, longest, scale)


def at_once(
    query: Tensor, key: Tensor, value: Tensor, starts_S: Tensor, longest: int, scale: float | None
) -> Tensor:
    """All sequences in one kernel, which takes 16 bits."""
    from torch.nn.attention.varlen import varlen_attn  # brings torch.compile: seconds, and no CPU needs it

    attended: Any = varlen_attn(
        query,
        key,
        value,
        starts_S,
        starts_S,
        longest,
        longest,
        scale=scale,
        window_size=(-1, 0),
        enable_gqa=True,
    )
    return attended  # type: ignore[no-any-return]


def in_turn(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts_S: Tensor,
    longest: int,  # noqa: ARG001
    scale: float | None,
) -> Tensor:
    """A kernel for each sequence: where one computes as fast alone as many do together."""
    lengths = starts_S.diff().tolist()
    queries, keys, values = (
        torch.split(part.transpose(0, 1).unsqueeze(0), lengths, dim=2) for part in (query, key, value)
    )
    attended = [
        functional.scaled_dot_product_attention(a, b, c, is_causal=True, scale=scale, enable_gqa=True)
        for a, b, c in zip(queries, keys, values, strict=True)
    ]
    return torch.cat(attended, dim=2).squeeze(0).transpose(0, 1)


def agrees_with_masks(device: torch.device, heads: int, kv_heads: int, width: int) -> bool:
    """Whether the kernel is there for these heads and gives the gradients that a mask gives. Takes milliseconds."""
    total = sum(PROBED_LENGTHS)
    dice = torch.Generator().manual_seed(0)
    precision = torch.float32 if device.type == "cpu" else torch.bfloat16

    def drawn(count: int) -> Tensor:
        return torch.randn(total, count, width, generator=dice).to(device, precision).requires_grad_()

    parts = (drawn(heads), drawn(kv_heads), drawn(kv_heads))
    weight = drawn(heads).detach()
    lengths = torch.tensor(PROBED_LENGTHS, device=device)
    starts = functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    try:
        ours = torch.autograd.grad(attend(*parts, starts, total, None), parts, weight)
    except (RuntimeError, NotImplementedError):
        return False  # this device, or this torch, has no such kernel
    theirs = torch.autograd.grad(masked(*parts, lengths), parts, weight)
    return all(
        torch.linalg.vector_norm((one - other).float())
        <= PROBE_ERROR * torch.linalg.vector_norm(other.float())
        for one, other in zip(ours, theirs, strict=True)
    )


def masked(query: Tensor, key: Tensor, value: Tensor, lengths_S: Tensor) -> Tensor:
    """The same as `attend`, by a mask."""
    owners = torch.repeat_interleave(torch.arange(len(lengths_S), device=lengths_S.device), lengths_S)
    mask = (owners[:, None] == owners[None, :]).tril()
    group = query.shape[1] // key.shape[1]
    keys, values = (part.repeat_interleave(group, dim=1).transpose(0, 1) for part in (key, value))
    attended = functional.scaled_dot_product_attention(query.transpose(0, 1), keys, values, attn_mask=mask)
    return attended.transpose(0, 1)
