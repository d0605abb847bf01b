"""Which rows each worker sees at each step, laid out as arrays. Pure NumPy; knows no model and no Ray.

Everything follows from the seed and the step's number, so a run resumes by its step alone and every
worker knows the whole step without asking the others. Packing changes speed, never the loss: examples in
one row do not see each other (their positions start at 0), and the loss is a sum over counted tokens.

Shapes: B rows, T tokens in a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from raymill.train.template import IGNORE, Example

Ids = NDArray[np.int64]

PACKED_TOKENS = 256
"""Shortest row that packing fills; attention costs grow with its square."""


class Batch(NamedTuple):
    """One forward pass of one worker: E examples in B rows."""

    ids_BT: Ids
    positions_BT: Ids
    labels_BT: Ids
    """The id where the loss counts, IGNORE elsewhere; not shifted."""

    owners_BT: Ids
    """Which of the pass's examples, from 0 to E - 1, a token belongs to; 0 for padding, where nothing counts."""

    examples_E: Ids
    """Numbers of the pass's examples in the data set."""

    facts: Mapping[str, NDArray[Any]]
    """What else the objective must know, by its names for it."""


class Share(NamedTuple):
    """One worker's part of a step."""

    passes: list[Batch]
    """As many on each worker, since sharded weights are gathered together."""

    counted: int
    """What the summed loss of the whole step, over all workers, is divided by: tokens, pairs or answers."""

    tokens: int
    """Tokens of the whole step, over all workers, without padding."""

    probes: Sequence[Batch] = ()
    """Passes without a gradient that the objective asks for before the others; as many on each worker."""


class UnitShares:
    """Steps over units, each an example or several that must meet in one pass: each epoch in a new order; the last
    step of an epoch may be shorter. What a unit is, and what a step counts, a subclass says."""

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
        self.examples = examples
        self._batch = batch
        self._seed = seed
        self._pad_id = pad_id
        self._packing = packing
        self._pass_tokens = pass_tokens
        self._steps_in_epoch = -(-self.units // batch)
        self.steps = self._steps_in_epoch * epochs

    @property
    def units(self) -> int:
        """How many there are."""
        raise NotImplementedError

    def drawn(self, step: int) -> list[int]:
        """Numbers of the units of `step` (from 0)."""
        epoch, number = divmod(step, self._steps_in_epoch)
        order = np.random.default_rng((self._seed, epoch)).permutation(self.units)
        chosen: list[int] = order[number * self._batch : (number + 1) * self._batch].tolist()
        return chosen

    def dealt(self, units: Sequence[Sequence[int]], workers: int) -> list[list[Batch]]:
        """The passes of each worker. Units go round longest first, so that all carry about as many tokens."""
        ordered = sorted(units, key=lambda unit: -self.tokens_of([unit]))
        passes = [
            lay_passes(
                ordered[worker::workers],
                self.examples,
                pad_id=self._pad_id,
                packing=self._packing,
                pass_tokens=self._pass_tokens,
            )
            for worker in range(workers)
        ]
        return level(passes, self._pad_id)

    def tokens_of(self, units: Sequence[Sequence[int]]) -> int:
        return sum(len(self.examples[i].ids) for unit in units for i in unit)


class ExampleShares(UnitShares):
    """Steps over conversations or texts, whose tokens are what a step counts."""

    @property
    def units(self) -> int:
        return len(self.examples)

    def share(self, step: int, rank: int, workers: int) -> Share:
        """The part of worker `rank` in `step` (from 0)."""
        units = [(i,) for i in self.drawn(step)]
        everyone = self.dealt(units, workers)
        return Share(
            passes=everyone[rank],
            counted=sum(counted_in(batch) for batches in everyone for batch in batches),
            tokens=self.tokens_of(units),
        )


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
        labels_BT = ids_BT.copy()
        # Nothing in the window comes before its first token, so nothing predicts it.
        labels_BT[:, 0] = IGNORE
        nobody_BT = np.zeros_like(ids_BT)
        positions_BT = positions_within(ids_BT, self._end_id)
        batch = Batch(ids_BT, positions_BT, labels_BT, nobody_BT, nobody_BT[:1, 0], {})
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


def lay_passes(
    units: Sequence[Sequence[int]],
    examples: Sequence[Example],
    *,
    pad_id: int,
    packing: bool,
    pass_tokens: int,
) -> list[Batch]:
    """Passes of about `pass_tokens` over units, which are numbers of examples that share a pass.

    A single example goes into the first row with room anywhere; a unit of several goes where its pass is.
    """
    if not units:
        return []
    lengths = {i: len(examples[i].ids) for unit in units for i in unit}
    longest = max(lengths.values())
    width = max(longest, PACKED_TOKENS) if packing else longest
    if all(len(unit) == 1 for unit in units):
        rows = fill([i for (i,) in units], lengths, width, packing=packing)
        height = max(1, pass_tokens // widest(rows, lengths))
        passes = [rows[start : start + height] for start in range(0, len(rows), height)]
    else:
        passes = []
        for unit in units:
            grown = [*(i for row in passes[-1] for i in row), *unit] if passes else list(unit)
            rows = fill(sorted(grown, key=lambda i: -lengths[i]), lengths, width, packing=packing)
            if passes and len(rows) * widest(rows, lengths) <= pass_tokens:
                passes[-1] = rows
            else:
                passes.append(fill(unit, lengths, width, packing=packing))
    # Rows are no wider than what lies in them.
    return [lay(rows, examples, widest(rows, lengths), pad_id) for rows in passes]


def fill(chosen: Sequence[int], lengths: Mapping[int, int], width: int, *, packing: bool) -> list[list[int]]:
    """Rows of example numbers: several in each, or one."""
    return first_fit(chosen, lengths, width) if packing else [[i] for i in chosen]


def widest(rows: Sequence[Sequence[int]], lengths: Mapping[int, int]) -> int:
    """Tokens in the fullest row."""
    return max(sum(lengths[i] for i in row) for row in rows)


def first_fit(chosen: Sequence[int], lengths: Mapping[int, int], width: int) -> list[list[int]]:
    """Lay examples, by their numbers, into rows of at most `width` tokens: each into the first row with room."""
    rows: list[list[int]] = []
    room: list[int] = []
    for i in chosen:
        index = next((row for row, free in enumerate(room) if free >= lengths[i]), None)
        if index is None:
            rows.append([])
            room.append(width)
            index = len(rows) - 1
        rows[index].append(i)
        room[index] -= lengths[i]
    return rows


def lay(rows: Sequence[Sequence[int]], examples: Sequence[Example], width: int, pad_id: int) -> Batch:
    """Arrays for rows of examples. The tail of a row is one more example, of padding, that nobody counts."""
    ids_BT = np.full((len(rows), width), pad_id, dtype=np.int64)
    positions_BT = np.zeros((len(rows), width), dtype=np.int64)
    labels_BT = np.full((len(rows), width), IGNORE, dtype=np.int64)
    owners_BT = np.zeros((len(rows), width), dtype=np.int64)
    laid: list[int] = []
    for row, held in enumerate(rows):
        at = 0
        for i in held:
            end = at + len(examples[i].ids)
            ids_BT[row, at:end] = examples[i].ids
            positions_BT[row, at:end] = np.arange(end - at)
            labels_BT[row, at:end] = examples[i].labels
            # Nothing within the example comes before its first token, so nothing predicts it.
            labels_BT[row, at] = IGNORE
            owners_BT[row, at:end] = len(laid)
            laid.append(i)
            at = end
        positions_BT[row, at:] = np.arange(width - at)
    return Batch(ids_BT, positions_BT, labels_BT, owners_BT, np.asarray(laid, dtype=np.int64), {})


def counted_in(batch: Batch) -> int:
    """Tokens that the loss counts."""
    return int((batch.labels_BT != IGNORE).sum())


def level(passes: Sequence[list[Batch]], pad_id: int) -> list[list[Batch]]:
    """The same number of passes for each worker: blank ones are added."""
    most = max(len(batches) for batches in passes)
    return [batches + [blank(pad_id)] * (most - len(batches)) for batches in passes]


def blank(pad_id: int) -> Batch:
    """A pass that counts nothing, for a worker that has fewer than the others."""
    return lay([[]], [], 8, pad_id)
