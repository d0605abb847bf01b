"""LoRA adapters on vLLM's CPU engine: one matrix product for each adapter that a batch has.

vLLM (0.29, `vllm/lora/ops/torch_ops`) copies the adapter's matrices once for every token of the batch, and multiplies
the copies by einsum; it works out which token has which adapter anew for each matrix. That added 9 % of CPU time to
tokens and 69 % to prompts on layers as wide as those of a model of 3 billion weights. Also it reads -1, the sign of a
token without an adapter, as the last place for adapters: what lies there was added to such a token in a batch that has
adapters, and to the logits of every one.

Here tokens are put together by adapter once a batch, `y += (x @ A.T) @ B.T` is computed in the weights' own type for
those rows alone, and a token without an adapter costs nothing.

`cpu_worker.py` puts it in force. Imports vLLM's part for adapters alone. It can go when vLLM's PunicaWrapperCPU no
longer copies weights for each token (`bgmv_shrink` and `bgmv_expand` index them by token).

Shapes: N tokens, I inputs, O outputs, R highest rank, L places for adapters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU


class Group(NamedTuple):
    """The tokens of a batch that have one adapter."""

    place: int
    """Of the adapter, in 0..L-1."""

    rows: slice | Tensor | None
    """Which tokens: one run of them, their indices, or all (None)."""


def groups_of(places: Sequence[int]) -> list[Group]:
    """Tokens by adapter.

    Args:
        places: of each token's adapter; -1 where there is none.
    """
    tokens: dict[int, list[int]] = {}
    for token, place in enumerate(places):
        if place >= 0:
            tokens.setdefault(place, []).append(token)
    return [Group(place, _rows(found, len(places))) for place, found in tokens.items()]


def _rows(tokens: list[int], of: int) -> slice | Tensor | None:
    first, last = tokens[0], tokens[-1]
    if len(tokens) == of:
        return None
    return slice(first, last + 1) if last - first + 1 == len(tokens) else torch.tensor(tokens)


class GroupedAdapters(PunicaWrapperCPU):  # type: ignore[misc]
    """vLLM's seam for adapters: it is told of each batch, and called by each layer that adapters may change."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._tokens: list[Group] = []
        self._sampled: list[Group] = []
        self._places = Places()

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        """A batch begins that differs from the last one in its adapters."""
        super().update_metadata(*args, **kwargs)
        self._tokens = groups_of(self.token_lora_indices.tolist())
        self._sampled = groups_of(self.sampler_indices.tolist())

    def add_lora_linear(
        self,
        y: Tensor,
        x: Tensor,
        lora_a_stacked: tuple[Tensor, ...],
        lora_b_stacked: tuple[Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **_: Any,
    ) -> None:
        """Of one layer, whose outputs may be several side by side (queries, keys, values).

        Args:
            y: NO, changed in place. O is the sum of `output_slices`.
            x: NI.
            lora_a_stacked: L1RI for each slice.
            lora_b_stacked: L1OR for each slice.
        """
        for place, rows in self._tokens:
            x_rows = x if rows is None else x[rows]
            start = 0
            a_views = self._places.views(lora_a_stacked, place)
            b_views = self._places.views(lora_b_stacked, place)
            for a_RI, b_OR, width in zip(a_views, b_views, output_slices, strict=True):
                part = y if width == y.shape[1] else y.narrow(1, start, width)
                add_product(part, linear(x_rows, a_RI), rows, b_OR, scale)
                start += width

    def add_lora_logits(
        self, y: Tensor, x: Tensor, lora_a_stacked: Tensor, lora_b_stacked: Tensor, scale: float, **_: Any
    ) -> None:
        """Of the logits of the N tokens that are sampled. `y` may have fewer columns than the adapter, or more."""
        y, x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        width = min(y.shape[1], lora_b_stacked.shape[2])
        for place, rows in self._sampled:
            shrunk = linear(x if rows is None else x[rows], lora_a_stacked[place, 0])
            add_product(y.narrow(1, 0, width), shrunk, rows, lora_b_stacked[place, 0, :width], scale)

    def add_lora_embedding(self, y: Tensor, x: Tensor, lora_b_stacked: Tensor, **_: Any) -> None:
        """Of the embeddings: `x` (NR) is what the adapter's first matrix has for each token."""
        for place, rows in self._tokens:
            add_product(y, x if rows is None else x[rows], rows, lora_b_stacked[place, 0], 1.0)


class Places:
    """Of the stacked weights of a layer those of one adapter, as views: to make one takes as long as a small product.

    vLLM writes an adapter into the same tensors for as long as the engine lives.
    """

    def __init__(self) -> None:
        self._views: dict[tuple[int, int], tuple[tuple[Tensor, ...], list[Tensor]]] = {}

    def views(self, stacked: tuple[Tensor, ...], place: int) -> list[Tensor]:
        """Of each of `stacked` (L1..) what is at `place`."""
        known = self._views.get((id(stacked), place))
        if known is None:
            # The tuple is kept, so that no other one takes its id.
            known = stacked, [each[place, 0] for each in stacked]
            self._views[id(stacked), place] = known
        return known[1]


def add_product(
    y_NO: Tensor, x: Tensor, rows: slice | Tensor | None, weights_OR: Tensor, scale: float
) -> None:
    """Add `scale * x @ weights.T` to `rows` of `y`, in place. `x` has those rows alone."""
    if isinstance(rows, Tensor):
        y_NO.index_add_(0, rows, linear(x, weights_OR).to(y_NO.dtype), alpha=scale)
        return
    y = y_NO if rows is None else y_NO[rows]
    if y.dtype == weights_OR.dtype:
        y.addmm_(x, weights_OR.t(), alpha=scale)
    else:
        y.add_(linear(x, weights_OR), alpha=scale)
