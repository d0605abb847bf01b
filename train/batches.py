"""Which rows each worker sees at each step, laid out as arrays. Pure NumPy; knows no model and no Ray.

Everything follows from the seed and the step's number, so a run resumes by its step alone and every
worker knows the whole step without asking the others. Packing changes speed, never the loss: examples in
one row do not see each other (their positions start at 0), and the loss is a sum over counted tokens.

Shapes: B rows, T tokens in a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raymill.train.template import IGNORE, Example

Ids = NDArray[np.int64]

PACKED_TOKENS = 256
"""Shortest row that packing fills; attention costs grow with its square."""


class Batch(NamedTuple):
    """One forward pass of one worker."""

    ids_BT: Ids
    positions_BT: Ids
    labels_BT: Ids
    """The id where the loss counts, IGNORE elsewhere; not shifted."""


class Share(NamedTuple):
    """One worker's part of a step."""

    passes: list[Batch]
    """As many on each worker, since sharded weights are gathered together."""

    counted: int
    """Tokens of the whole step, over all workers, that the loss counts."""

    tokens: int
    """Tokens of the whole step, over all workers, without padding."""


class ExampleShares:
    """Steps over conversations: each epoch in a new order; the last step of an epoch may be shorter."""

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        batch: int,
        epochs: int,
        seed: int,
        pad_id: int,
        packing: bool,
        pass_tokens: int,
    ) -> None:
        self._examples = examples
        self._batch = batch
        self._seed = seed
        self._pad_id = pad_id
        self._packing = packing
        self._pass_tokens = pass_tokens
        self._steps_in_epoch = -(-len(examples) // batch)
        self.steps = self._steps_in_epoch * epochs

    def share(self, step: int, rank: int, workers: int) -> Share:
        """The part of worker `rank` in `step` (from 0)."""
        epoch, number = divmod(step, self._steps_in_epoch)
        order = np.random.default_rng((self._seed, epoch)).permutation(len(self._examples))
        chosen = [self._examples[i] for i in order[number * self._batch : (number + 1) * self._batch]]
        # Dealt out longest first, so that the workers carry about the same number of tokens.
        chosen.sort(key=lambda example: -len(example.ids))
        passes = [self._passes(chosen[worker::workers]) for worker in range(workers)]
        most = max(len(batches) for batches in passes)
        mine = passes[rank] + [blank(self._pad_id)] * (most - len(passes[rank]))
        return Share(
            passes=mine,
            counted=sum(int((batch.labels_BT != IGNORE).sum()) for batches in passes for batch in batches),
            tokens=sum(len(example.ids) for example in chosen),
        )

    def _passes(self, examples: Sequence[Example]) -> list[Batch]:
        if not examples:
            return []
        longest = max(len(example.ids) for example in examples)
        width = max(longest, PACKED_TOKENS) if self._packing else longest
        rows = first_fit(examples, width) if self._packing else [[example] for example in examples]
        # Rows are no wider than what lies in them.
        used = max(sum(len(example.ids) for example in row) for row in rows)
        height = max(1, self._pass_tokens // used)
        return [
            lay(rows[start : start + height], used, self._pad_id) for start in range(0, len(rows), height)
        ]


class WindowShares:
    """Steps over a text: windows that begin where a document does, drawn anew at each step.

    A window holds as many documents as fit, the last one cut; they do not see each other. A document longer
    than a window is read in several.
    """

    def __init__(
        self, stream: NDArray[np.int32], *, end_id: int, batch: int, steps: int, seed: int, window: int
    ) -> None:
        assert len(stream) > window, "the caller checks that the text fills one window"
        self._stream = stream
        self._starts = window_starts(stream, end_id, window)
        self._end_id = end_id
        self._batch = batch
        self._seed = seed
        self._window = window
        self.steps = steps

    def share(self, step: int, rank: int, workers: int) -> Share:
        """The part of worker `rank` in `step` (from 0)."""
        chosen = np.random.default_rng((self._seed, step)).choice(self._starts, size=self._batch)
        windows = [self._stream[start : start + self._window] for start in chosen[rank::workers]]
        # The file holds 32 bits an id; torch indexes with 64.
        ids_BT = np.stack(windows).astype(np.int64)
        batch = Batch(ids_BT, positions_within(ids_BT, self._end_id), ids_BT)
        return Share([batch], counted=self._batch * (self._window - 1), tokens=self._batch * self._window)


def window_starts(stream: NDArray[np.int32], end_id: int, window: int) -> Ids:
    """Where windows begin: at each document, and again every `window` tokens in a long one."""
    ends = np.flatnonzero(stream == end_id) + 1
    edges = np.concatenate([[0], ends[ends < len(stream)], [len(stream)]])
    starts = np.concatenate([np.arange(a, b, window) for a, b in pairwise(edges.tolist())])
    # The last ones would reach over the end; they begin earlier instead.
    begins: Ids = np.unique(np.minimum(starts, len(stream) - window))
    return begins


def positions_within(ids_BT: Ids, end_id: int) -> Ids:
    """Each token's place in its document, which ends with `end_id`."""
    places_BT = np.broadcast_to(np.arange(ids_BT.shape[1]), ids_BT.shape)
    begins_BT = np.zeros_like(ids_BT)
    begins_BT[:, 1:] = np.where(ids_BT[:, :-1] == end_id, places_BT[:, 1:], 0)
    positions_BT: Ids = places_BT - np.maximum.accumulate(begins_BT, axis=1)
    return positions_BT


def first_fit(examples: Sequence[Example], width: int) -> list[list[Example]]:
    """Lay examples into rows of at most `width` tokens: each into the first row with room."""
    rows: list[list[Example]] = []
    room: list[int] = []
    for example in examples:
        length = len(example.ids)
        index = next((i for i, free in enumerate(room) if free >= length), None)
        if index is None:
            rows.append([])
            room.append(width)
            index = len(rows) - 1
        rows[index].append(example)
        room[index] -= length
    return rows


def lay(rows: Sequence[Sequence[Example]], width: int, pad_id: int) -> Batch:
    """Arrays for rows of examples. The tail of a row is one more example, of padding, that nobody counts."""
    ids_BT = np.full((len(rows), width), pad_id, dtype=np.int64)
    positions_BT = np.zeros((len(rows), width), dtype=np.int64)
    labels_BT = np.full((len(rows), width), IGNORE, dtype=np.int64)
    for ids_T, positions_T, labels_T, row in zip(ids_BT, positions_BT, labels_BT, rows, strict=True):
        at = 0
        for example in row:
            end = at + len(example.ids)
            ids_T[at:end] = example.ids
            positions_T[at:end] = np.arange(end - at)
            labels_T[at:end] = example.labels
            # Nothing within the example comes before its first token, so nothing predicts it.
            labels_T[at] = IGNORE
            at = end
        positions_T[at:] = np.arange(width - at)
    return Batch(ids_BT, positions_BT, labels_BT)


def blank(pad_id: int) -> Batch:
    """A pass that counts nothing, for a worker that has fewer than the others."""
    return lay([[]], 8, pad_id)
