"""Rows that are there twice: word for word, or nearly so.

Nearly: the Jaccard similarity of their runs of five words is at least 0.8. Candidates come from MinHash with
locality-sensitive hashing (Broder 1997; Leskovec et al., Mining of Massive Datasets, chapter 3) and are then
compared exactly, so that no row is dropped by chance. A pair at 0.8 is missed about once in 18, one at 0.9 once
in 10,000.

Shapes: R rows, S shingles of a row, H hash functions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raymill.train.ngrams import Hashes, mixed, runs
from raymill.train.row_text import Row, digest

SHINGLE_WORDS = 5
SIMILAR = 0.8
BANDS, ROWS_IN_BAND = 16, 8
HASHES = BANDS * ROWS_IN_BAND
FEW = 8
"""Rows of one bucket that each is compared with, the first ones; more are of the same text most likely."""


class Duplicates(NamedTuple):
    """Rows that are there already, by number from 0."""

    exact: NDArray[np.bool_]
    near: NDArray[np.bool_]
    """Like an earlier row that is not dropped itself; the exact ones are not counted again."""


def find_duplicates(rows: Sequence[Row], words: Sequence[Hashes]) -> Duplicates:
    """
    Args:
        words: of each row, the hashes of its words (`ngrams.Words`).
    """
    seen: set[bytes] = set()
    exact = np.zeros(len(rows), dtype=np.bool_)
    for number, row in enumerate(rows):
        key = digest(row)
        exact[number] = key in seen
        seen.add(key)
    near = np.zeros(len(rows), dtype=np.bool_)
    for later, earlier in sorted(_pairs(words, exact)):
        if not near[earlier]:
            near[later] = True
    return Duplicates(exact, near)


def shingles(words_W: Hashes) -> Hashes:
    """shingles_S of a text, sorted, each once; a short text is one."""
    if not len(words_W):
        return words_W
    found: Hashes = np.unique(runs(words_W, min(SHINGLE_WORDS, len(words_W))))
    return found


def signature(shingles_S: Hashes, seeds_H: Hashes) -> Hashes:
    """The least hash of the shingles under each of H functions."""
    least = np.full(len(seeds_H), np.iinfo(np.uint64).max, dtype=np.uint64)
    # In pieces: a row of a million words must not need a gigabyte.
    for start in range(0, len(shingles_S), 4096):
        piece = shingles_S[start : start + 4096, None]
        np.minimum(least, ((piece ^ seeds_H) * MULTIPLIER).min(axis=0), out=least)
    return least


MULTIPLIER = np.uint64(0xD6E8FEB86659FD93)


def similarity(a_S: Hashes, b_S: Hashes) -> float:
    """Jaccard: what both have, of what either has."""
    both = len(np.intersect1d(a_S, b_S, assume_unique=True))
    return both / (len(a_S) + len(b_S) - both) if both else 0.0


def _pairs(words: Sequence[Hashes], skip: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """(later, earlier) for rows that are alike."""
    numbers = [number for number in range(len(words)) if not skip[number] and len(words[number])]
    if len(numbers) < 2:
        return
    sets = [shingles(words[number]) for number in numbers]
    seeds_H = mixed(np.arange(1, HASHES + 1, dtype=np.uint64))
    signatures_RH = np.stack([signature(each, seeds_H) for each in sets])
    compared: set[tuple[int, int]] = set()
    for band in range(BANDS):
        part = np.ascontiguousarray(signatures_RH[:, band * ROWS_IN_BAND : (band + 1) * ROWS_IN_BAND])
        keys = part.view(np.dtype((np.void, part.shape[1] * 8))).ravel()
        order = np.argsort(keys, kind="stable")
        edges = np.flatnonzero(keys[order][1:] != keys[order][:-1]) + 1
        for bucket in np.split(order, edges):
            if len(bucket) > 1:
                yield from _alike(bucket.tolist(), sets, numbers, compared)


def _alike(
    bucket: list[int], sets: Sequence[Hashes], numbers: Sequence[int], compared: set[tuple[int, int]]
) -> Iterator[tuple[int, int]]:
    for place, later in enumerate(bucket[1:], start=1):
        for earlier in bucket[: min(place, FEW)]:
            if (later, earlier) in compared:
                continue
            compared.add((later, earlier))
            if similarity(sets[later], sets[earlier]) >= SIMILAR:
                yield numbers[later], numbers[earlier]
                break
