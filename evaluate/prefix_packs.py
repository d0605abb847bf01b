"""Lay token sequences out so that a prefix which several of them begin with is computed once.

Sorted, the sequences are a walk through their prefix tree. The walk is cut into packs of so many new tokens; a pack
goes through the model as one row without padding, in which a token sees its own path from the root and nothing
else. What the next pack needs of the path is kept. Pure NumPy; knows nothing of models.

Shapes: P positions kept from before, N new tokens; the places of a pack are the P and then the N.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.int64]


class Wanted(NamedTuple):
    """A sequence, and from where on its outputs are needed."""

    number: int
    tokens: Places

    first: int
    """Depth of the first token whose output is needed; below the number of tokens."""


@dataclass
class Pack:
    """One row for the model."""

    kept_P: Places
    """Places in the pack before this one whose keys and values are kept, in their order."""

    tokens: list[int] = field(default_factory=list)
    """The N new ones."""

    depths: list[int] = field(default_factory=list)
    """Position of each in its sequence."""

    branches: list[tuple[int, Places]] = field(default_factory=list)
    """For each sequence that adds tokens: how many are there then, and the places that they see besides each other."""

    ends: list[tuple[Wanted, Places]] = field(default_factory=list)
    """Each sequence with the places of all its tokens."""

    outputs: int = 0
    """How many outputs are needed, a shared one counted each time."""

    def visible_NK(self) -> NDArray[np.bool_]:
        """Whether a new token sees a place; K is P + N."""
        past, new = len(self.kept_P), len(self.tokens)
        seen_NK = np.zeros((new, past + new), dtype=np.bool_)
        start = 0
        for end, path in self.branches:
            seen_NK[start:end, path] = True
            seen_NK[start:end, past + start : past + end] = np.tri(end - start, dtype=np.bool_)
            start = end
        return seen_NK


class PrefixWalk:
    """Makes packs, and remembers the path at the end of the last one.

    Args:
        new_tokens: of a pack; a sequence that adds more has a pack of its own.
        outputs: that a pack may be asked for, unless one sequence asks for more.
    """

    def __init__(self, new_tokens: int, outputs: int) -> None:
        self.new_tokens = new_tokens
        self.outputs = outputs
        self._last: Places = np.empty(0, dtype=np.int64)
        self._path: Places = np.empty(0, dtype=np.int64)

    def packs(self, wanted: Sequence[Wanted]) -> Iterator[Pack]:
        """The packs of `wanted`, which are sorted by their tokens. Take all of them before the next call."""
        pack: Pack | None = None
        for each in wanted:
            # The output of a token that an earlier pack computed is gone, so the walk goes back to before it.
            shared = self._shared(each)
            new = len(each.tokens) - shared
            if pack is not None and (
                len(pack.tokens) + new > self.new_tokens
                or pack.outputs + len(each.tokens) - each.first > self.outputs
            ):
                yield pack
                pack = None
            if pack is None:
                shared = min(shared, each.first)
                pack = Pack(kept_P=self._path[:shared])
                self._path = np.arange(shared)
            elif each.first < len(pack.kept_P):
                shared = min(shared, each.first)
            self._add(pack, each, shared)
        if pack is not None:
            yield pack

    def _shared(self, each: Wanted) -> int:
        length = min(len(self._last), len(each.tokens))
        different = np.flatnonzero(self._last[:length] != each.tokens[:length])
        return int(different[0]) if different.size else length

    def _add(self, pack: Pack, each: Wanted, shared: int) -> None:
        start = len(pack.kept_P) + len(pack.tokens)
        new = each.tokens[shared:]
        path = self._path[:shared]
        if new.size:
            pack.tokens += new.tolist()
            pack.depths += range(shared, len(each.tokens))
            pack.branches.append((len(pack.tokens), path))
        pack.outputs += len(each.tokens) - each.first
        self._path = np.concatenate([path, np.arange(start, start + len(new))])
        self._last = each.tokens
        pack.ends.append((each, self._path))
