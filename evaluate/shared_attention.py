"""Decoding for many sequences that begin alike: attention that reads the shared beginning once for all of them.

Each pass's queries meet the shared keys in one matrix product and each sequence's own keys in a batched one; one
softmax goes over both. Memory and reads of the shared part do not grow with the number of sequences. A pass may have
several tokens of a sequence and few of another; they stand one behind the other.

Source: Juravsky et al., Hydragen: High-Throughput LLM Inference with Shared Prefixes, 2024, arXiv:2402.05099.

Shapes: B sequences, H heads, G key-value heads, R = H / G, D of a head; S shared tokens, T own ones; N new tokens of all
sequences, at most K of one.
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
        room: how many tokens each may get in all, those that are not kept too.
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
        self.own = [tuple(_with_room(part, room) for part in layer) for layer in own]
        self.filled_B = torch.full_like(lengths_B, own[0][0].shape[2])
        self.first_B = self.filled_B - lengths_B

    def begin(self, counts_B: Tensor) -> None:
        """A pass with so many new tokens of each sequence, at least one, comes next."""
        steps_K = torch.arange(int(counts_B.max()), device=counts_B.device)
        self.rows_N, self.steps_N = (steps_K < counts_B[:, None]).nonzero(as_tuple=True)
        self.columns_N = self.filled_B[self.rows_N] + self.steps_N
        self.steps = len(steps_K)
        self.end = int(self.columns_N.max()) + 1
        columns_T = torch.arange(self.end, device=counts_B.device)
        last_BK = self.filled_B[:, None] + steps_K
        self.seen_BKT = (columns_T >= self.first_B[:, None, None]) & (columns_T <= last_BK[:, :, None])

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Take in the new tokens of all sequences, 1 x G x N x D; gives back their own keys and values."""
        keys_BGTD, values_BGTD = self.own[layer_idx]
        keys_BGTD[self.rows_N, :, self.columns_N] = key_states[0].transpose(0, 1)
        values_BGTD[self.rows_N, :, self.columns_N] = value_states[0].transpose(0, 1)
        return keys_BGTD[:, :, : self.end], values_BGTD[:, :, : self.end]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        del layer_idx
        return int(self.shared[0][0].shape[2]) + int(self.filled_B.max())

    def accept(self, counts_B: Tensor) -> None:
        """Keep so many of the new tokens of each sequence; the next ones are written over the others."""
        self.filled_B = self.filled_B + counts_B

    def keep(self, rows: Tensor) -> None:
        """Go on with these sequences only."""
        self.own = [tuple(part[rows] for part in layer) for layer in self.own]
        self.filled_B, self.first_B = self.filled_B[rows], self.first_B[rows]

    def apart(self, values_N: Tensor) -> Tensor:
        """N x ... as B x K x ..., with zeros where a sequence has fewer new tokens."""
        apart_BK = values_N.new_zeros((len(self.filled_B), self.steps, *values_N.shape[1:]))
        apart_BK[self.rows_N, self.steps_N] = values_N
        return apart_BK


def _with_room(part_BGTD: Tensor, room: int) -> Tensor:
    rows, heads, filled, width = part_BGTD.shape
    # Zeros, not whatever lies there: what a mask hides is multiplied with nothing, and nan would stay nan.
    wide = part_BGTD.new_zeros((rows, heads, filled + room, width))
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
    """Transformers' attention function for one pass; `query` is 1 x H x N x D, `key` and `value` are B x G x T x D.

    The model hands `shared_cache` through to it, which knows what each token sees.
    """
    del dropout, attention_mask
    assert shared_cache is not None
    cache = shared_cache
    heads, new, width = query.shape[1:]
    rows, groups, _own, _width = key.shape
    queries = heads // groups
    keys_1GSD, values_1GSD = cache.shared[module.layer_idx]  # type: ignore[index]
    shared = keys_1GSD.shape[2]
    query_GNRD = query[0].reshape(groups, queries, new, width).transpose(1, 2) * (
        width**-0.5 if scaling is None else scaling
    )
    query_GMD = query_GNRD.reshape(groups, new * queries, width)  # M is N times R
    common_GNRS = (query_GMD @ keys_1GSD[0].transpose(1, 2)).reshape(groups, new, queries, shared)

    query_BKGRD = cache.apart(query_GNRD.transpose(0, 1))
    query_BGMD = query_BKGRD.transpose(1, 2).reshape(rows, groups, cache.steps * queries, width)
    own_BGKRT = (query_BGMD @ key.transpose(2, 3)).reshape(rows, groups, cache.steps, queries, -1)
    own_BGKRT = own_BGKRT.masked_fill(~cache.seen_BKT[:, None, :, None], float("-inf"))
    own_GNRT = own_BGKRT[cache.rows_N, :, cache.steps_N].transpose(0, 1)

    weights = torch.cat([common_GNRS, own_GNRT], dim=-1).softmax(dim=-1, dtype=torch.float32).to(value.dtype)
    common_GMS = weights[..., :shared].reshape(groups, new * queries, shared)
    out_GNRD = (common_GMS @ values_1GSD[0]).reshape(groups, new, queries, width)
    own_BKGRT = cache.apart(weights[..., shared:].transpose(0, 1))
    own_BGMT = own_BKGRT.transpose(1, 2).reshape(rows, groups, cache.steps * queries, -1)
    out_BGKRD = (own_BGMT @ value).reshape(rows, groups, cache.steps, queries, width)
    out_NGRD = out_GNRD.transpose(0, 1) + out_BGKRD[cache.rows_N, :, cache.steps_N]
    return out_NGRD.reshape(1, new, heads, width), None


AttentionInterface.register(NAME, shared_attention)
