"""Decoding for many sequences that begin alike: attention that reads the shared beginning once for all of them.

Each step's queries meet the shared keys in one matrix product and each sequence's own keys in a batched one; one
softmax goes over both. Memory and reads of the shared part do not grow with the number of sequences.

Source: Juravsky et al., Hydragen: High-Throughput LLM Inference with Shared Prefixes, 2024, arXiv:2402.05099.

Shapes: B sequences, H heads, G key-value heads, R = H / G, D of a head; S shared tokens, T own ones, 1 new.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache
from transformers.modeling_utils import AttentionInterface

NAME = "raymill_shared"


class SharedCache(DynamicCache):  # type: ignore[misc]  # transformers has no types
    """Keys and values of B sequences behind one shared beginning.

    Args:
        shared: of each layer, keys_1GSD and values_1GSD.
        own: of each layer, keys_BGTD and values_BGTD; a sequence's own tokens stand at the right.
        lengths_B: how many of the T are a sequence's own.
        room: how many tokens each may get in all.
    """

    def __init__(
        self,
        shared: list[tuple[Tensor, Tensor]],
        own: list[tuple[Tensor, Tensor]],
        lengths_B: Tensor,
        room: int,
    ) -> None:
        super().__init__()
        self.shared = shared
        self.filled = own[0][0].shape[2]
        self.own = [tuple(_with_room(part, room) for part in layer) for layer in own]
        first_B = self.filled - lengths_B
        self.seen_BT = torch.arange(self.filled + room, device=first_B.device)[None] >= first_B[:, None]

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Take in one new token of each sequence; gives back their own keys and values."""
        keys_BGTD, values_BGTD = self.own[layer_idx]
        keys_BGTD[:, :, self.filled] = key_states[:, :, 0]
        values_BGTD[:, :, self.filled] = value_states[:, :, 0]
        end = self.filled + 1
        return keys_BGTD[:, :, :end], values_BGTD[:, :, :end]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        del layer_idx
        return int(self.shared[0][0].shape[2]) + self.filled

    def step(self) -> None:
        """The new token is in every layer."""
        self.filled += 1

    def mask_B11T(self) -> Tensor:
        """Which own tokens the next one sees; itself too."""
        return self.seen_BT[:, None, None, : self.filled + 1]

    def keep(self, rows: Tensor) -> None:
        """Go on with these sequences only."""
        self.own = [tuple(part[rows] for part in layer) for layer in self.own]
        self.seen_BT = self.seen_BT[rows]


def _with_room(part_BGTD: Tensor, room: int) -> Tensor:
    rows, heads, filled, width = part_BGTD.shape
    wide = part_BGTD.new_empty((rows, heads, filled + room, width))
    wide[:, :, :filled] = part_BGTD
    return wide


def shared_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    shared_cache: SharedCache | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Transformers' attention function for one step. The model hands `shared_cache` through to it."""
    del dropout
    assert shared_cache is not None
    assert attention_mask is not None
    rows, heads, _one, width = query.shape
    groups = key.shape[1]
    keys_1GSD, values_1GSD = shared_cache.shared[module.layer_idx]  # type: ignore[index]
    shared = keys_1GSD.shape[2]
    query_BGRD = query.reshape(rows, groups, heads // groups, width) * (
        width**-0.5 if scaling is None else scaling
    )
    query_GMD = query_BGRD.transpose(0, 1).reshape(groups, -1, width)  # M is B times R
    common_BGRS = (
        (query_GMD @ keys_1GSD[0].transpose(1, 2))
        .reshape(groups, rows, heads // groups, shared)
        .transpose(0, 1)
    )
    own_BGRT = (query_BGRD @ key.transpose(2, 3)).masked_fill(~attention_mask, float("-inf"))
    weights = torch.cat([common_BGRS, own_BGRT], dim=-1).softmax(dim=-1, dtype=torch.float32).to(value.dtype)
    common_GMS = weights[..., :shared].transpose(0, 1).reshape(groups, -1, shared)
    out_BGRD = (common_GMS @ values_1GSD[0]).reshape(groups, rows, heads // groups, width).transpose(0, 1)
    out_BGRD = out_BGRD + weights[..., shared:] @ value
    return out_BGRD.reshape(rows, 1, heads, width), None


AttentionInterface.register(NAME, shared_attention)
