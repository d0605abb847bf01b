"""What a sequence is likely to go on with: what followed when its newest tokens stood in it before.

A model checks a whole draft in one pass, so each token of it that is right saves a pass; which tokens are written does not
change. Sums, code and quotations repeat what stands in their prompts.

Source: Yang et al., Inference with Reference: Lossless Acceleration of Large Language Models, 2023, arXiv:2304.04487.
"""

from __future__ import annotations

from collections.abc import Sequence

LONGEST = 12
"""Tokens of a draft. A pass over more costs about as many passes of one token."""

NEWEST = 3
"""Tokens that must have stood in the sequence before."""

LONGEST_REST = 32
"""Passes without a draft, at the most, for a sequence whose drafts are wrong."""


class Lookahead:
    """Drafts for one sequence, as long as its earlier ones were right.

    Args:
        tokens: of the prompt.
    """

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens: list[int] = []
        self._behind: dict[tuple[int, ...], int] = {}
        self._length = 2
        self._rest = 0
        self._wait = 1
        self.add(tokens)

    def add(self, tokens: Sequence[int]) -> None:
        """The sequence goes on with these. The newest ones may yet go on otherwise than before, so they are not noted."""
        start = len(self._tokens)
        self._tokens.extend(tokens)
        for place in range(max(start, NEWEST), len(self._tokens)):
            self._behind[tuple(self._tokens[place - NEWEST : place])] = place

    def draft(self, most: int) -> list[int]:
        """At most so many tokens; none where nothing is known. What repeats itself is taken to go on so."""
        if self._rest:
            self._rest -= 1
            return []
        place = self._behind.get(tuple(self._tokens[-NEWEST:]))
        if place is None:
            return []
        known = self._tokens[place:]
        count = max(0, min(self._length, most))
        return (known * (count // len(known) + 1))[:count]

    def learn(self, drafted: int, right: int) -> None:
        """How many of the tokens of the last draft were right: longer drafts next, shorter ones, or none for a while."""
        if not drafted:
            return
        if right:
            self._length = min(LONGEST, 2 * self._length if right == drafted else max(2, right))
            self._wait = 1
        else:
            self._length = 2
            self._rest, self._wait = self._wait, min(LONGEST_REST, 2 * self._wait)
