"""Texts as numbers: words, and runs of n words, as 64-bit hashes. The same on every machine and in every process.

Words are what stands between spaces and punctuation, in small letters; of scripts that are written without spaces
(Chinese, Japanese) each character is a word. Two different runs share a hash once in 2^64.

Shapes: W words of a text, W - n + 1 runs.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

# Kana and the unified ideographs; Korean is written with spaces.
ALONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
WORD = re.compile(rf"[{ALONE}]|[^\W{ALONE}]+")
BASE = np.uint64(0x9E3779B97F4A7C15)
"""Odd, so that multiplying by it loses nothing."""


class Words(dict[str, int]):
    """Word -> its hash. Each is hashed once, for a text repeats itself."""

    def __missing__(self, word: str) -> int:
        digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        number = int.from_bytes(digest, "little")
        self[word] = number
        return number

    def hashes(self, text: str) -> Hashes:
        """hashes_W of a text's words."""
        folded = text if text.isascii() else unicodedata.normalize("NFKC", text)
        return np.array([self[word] for word in WORD.findall(folded.lower())], dtype=np.uint64)


def runs(words_W: Hashes, n: int) -> Hashes:
    """The hash of every `n` words in a row; none when there are fewer. `n` is part of the hash."""
    count = len(words_W) - n + 1
    if count < 1:
        return np.empty(0, dtype=np.uint64)
    total = np.full(count, n, dtype=np.uint64)
    for start in range(n):
        total *= BASE
        total += words_W[start : start + count]
    return mixed(total)


def runs_of_many(texts: Sequence[Hashes], n: int) -> tuple[Hashes, NDArray[np.int64]]:
    """The runs of many texts, none of which reaches over the end of its text, and which text each is of."""
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    if not len(texts) or lengths.max() < n:
        return np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64)
    owner_W = np.repeat(np.arange(len(texts)), lengths)
    found = runs(np.concatenate(texts), n)
    whole = owner_W[: len(found)] == owner_W[n - 1 :]
    return found[whole], owner_W[: len(found)][whole]


def mixed(numbers: Hashes) -> Hashes:
    """Spread the bits (the finalizer of SplitMix64, Steele et al. 2014), in a new array."""
    x = numbers.copy()
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x
