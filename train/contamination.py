"""Whether training rows hold what a model is to be measured with: overlap of runs of words with evaluation sets.

The measure is the share of an evaluation row's n-grams that stand in the training rows (after Brown et al. 2020,
Language Models are Few-Shot Learners, appendix C): of the whole row or, where that is more, of one of its longer
texts, so that a question is found that was trained on with another answer. A text of fewer words than n counts as
one run, unless it has fewer than 8. Runs that many rows of the evaluation set share, such as the words of a
template, tell nothing of one and are left out.

An evaluation set's runs are kept beside its artifact, so that the next comparison does not read its rows.

Shapes: G runs of an evaluation set, in the order of its texts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raymill.train.ngrams import Hashes, Words, runs_of_many
from raymill.train.row_text import Row, texts_of

Numbers = NDArray[np.int64]

LEAST_WORDS = 8
COMMON_ROWS = 10
"""A run that stands in more rows of the evaluation set is its template's."""

LONG_RUNS = 8
"""A text with so many runs is looked at by itself."""

FILTER_BITS = 22


@dataclass(frozen=True, kw_only=True)
class Index:
    """The runs of one evaluation set."""

    runs_G: Hashes
    text_G: Numbers
    """Which text a run is of."""

    row_of_text: Numbers
    sizes_G: NDArray[np.uint8]
    """How many words a run has: n, or all of a short text."""


class Hit(NamedTuple):
    """An evaluation row that lies in the training rows."""

    row: int
    """Of the evaluation set, from 1."""

    share: float
    train_row: int
    """The training row that holds most of it, from 1."""


def build(rows: Sequence[Row], n: int, words: Words) -> Index:
    """The runs of an evaluation set's rows."""
    texts = [(number, words.hashes(text)) for number, row in enumerate(rows) for text in texts_of(row)]
    runs_parts, text_parts, size_parts = [], [], []
    for size in range(LEAST_WORDS if n >= LEAST_WORDS else n, n + 1):
        chosen = [
            place for place, (_, text) in enumerate(texts) if len(text) == size or (size == n < len(text))
        ]
        found, owner = runs_of_many([texts[place][1] for place in chosen], size)
        runs_parts.append(found)
        text_parts.append(np.asarray(chosen, dtype=np.int64)[owner] if chosen else owner)
        size_parts.append(np.full(len(found), size, dtype=np.uint8))
    row_of_text = np.asarray([number for number, _ in texts], dtype=np.int64)
    runs_G, text_G = np.concatenate(runs_parts), np.concatenate(text_parts)
    kept = ~_common(runs_G, row_of_text[text_G] if len(text_G) else text_G)
    return Index(
        runs_G=runs_G[kept],
        text_G=text_G[kept],
        row_of_text=row_of_text,
        sizes_G=np.concatenate(size_parts)[kept],
    )


def _common(runs_G: Hashes, row_G: Numbers) -> NDArray[np.bool_]:
    """Which runs stand in more than COMMON_ROWS rows."""
    if not len(runs_G):
        return np.zeros(0, dtype=np.bool_)
    _, which_G = np.unique(runs_G, return_inverse=True)
    pairs = np.unique(np.stack([which_G, row_G]), axis=1)
    rows_of_run = np.bincount(pairs[0])
    common: NDArray[np.bool_] = rows_of_run[which_G] > COMMON_ROWS
    return common


def kept_index(artifact: Path, n: int) -> Index:
    """The runs of a published evaluation set: read from beside its artifact, or made and kept there."""
    path = artifact.with_name(f".{artifact.name}.runs-{n}.npz")
    if path.is_file():
        with np.load(path) as arrays:
            return Index(**{name: arrays[name] for name in Index.__dataclass_fields__})
    with (artifact / "test.jsonl").open(encoding="utf-8") as file:
        index = build([json.loads(line) for line in file], n, Words())
    partial = path.with_name(f"{path.name}.{id(index)}.npz")
    np.savez_compressed(partial, **{name: getattr(index, name) for name in Index.__dataclass_fields__})
    partial.rename(path)
    return index


class Seen:
    """Which runs of several evaluation sets stand in the training rows. Fed in pieces, then asked."""

    def __init__(self, indexes: Sequence[Index]) -> None:
        self._indexes = indexes
        self._known: Hashes = np.unique(
            np.concatenate([np.empty(0, np.uint64), *(i.runs_G for i in indexes)])
        )
        self._train_row = np.full(len(self._known), -1, dtype=np.int64)
        self._sizes = sorted({int(size) for index in indexes for size in np.unique(index.sizes_G)})
        # Most runs of the training rows are of no evaluation set: a bit for each bucket tells without a search.
        self._filter = np.zeros(1 << FILTER_BITS, dtype=np.bool_)
        self._filter[_bucket(self._known)] = True

    def feed(self, texts: Sequence[Hashes], rows: Sequence[int]) -> None:
        """Words of training texts, and which row (from 0) each is of."""
        if not len(self._known):
            return
        row_of = np.asarray(rows, dtype=np.int64)
        for size in self._sizes:
            found, owner = runs_of_many(texts, size)
            maybe = self._filter[_bucket(found)]
            found, owner = found[maybe], owner[maybe]
            place = np.searchsorted(self._known, found)
            place[place == len(self._known)] = 0
            same = self._known[place] == found
            place, train_row = place[same], row_of[owner[same]]
            fresh = self._train_row[place] < 0
            # Backwards, so that of several rows the first one is kept.
            self._train_row[place[fresh][::-1]] = train_row[fresh][::-1]

    def hits(self, index: Index, threshold: float) -> list[Hit]:
        """Rows of one evaluation set whose share is at least `threshold`, the greatest first."""
        if not len(index.runs_G):
            return []
        train_row_G = self._train_row[np.searchsorted(self._known, index.runs_G)]
        hit_G = train_row_G >= 0
        row_G = index.row_of_text[index.text_G]
        rows = int(index.row_of_text.max()) + 1
        share = _share(row_G, hit_G, rows, least=1)
        by_text = _share(index.text_G, hit_G, len(index.row_of_text), least=LONG_RUNS)
        np.maximum.at(share, index.row_of_text, by_text)
        order = np.argsort(row_G[hit_G], kind="stable")
        rows_hit, of_train = row_G[hit_G][order], train_row_G[hit_G][order]
        found: list[Hit] = []
        for row in np.flatnonzero(share >= threshold).tolist():
            start, end = np.searchsorted(rows_hit, [row, row + 1])
            most, counts = np.unique(of_train[start:end], return_counts=True)
            found.append(Hit(row + 1, round(float(share[row]), 4), int(most[counts.argmax()]) + 1))
        return sorted(found, key=lambda hit: (-hit.share, hit.row))


def _share(owner_G: Numbers, hit_G: NDArray[np.bool_], count: int, *, least: int) -> NDArray[np.float64]:
    """Share of each owner's runs that are hit; 0 for one with fewer than `least`."""
    total = np.bincount(owner_G, minlength=count)
    hit = np.bincount(owner_G, weights=hit_G, minlength=count)
    shares: NDArray[np.float64] = np.where(total >= least, hit / np.maximum(total, 1), 0.0)
    return shares


def _bucket(runs_G: Hashes) -> NDArray[np.int64]:
    buckets: NDArray[np.int64] = (runs_G >> np.uint64(64 - FILTER_BITS)).astype(np.int64)
    return buckets
