"""Steps over pairs (dpo) and over answers that are good or bad (kto). Pure NumPy, like `batches.py`.

Both compare the model with the one it started from: `reference_N` holds that one's log-probability of each
example's counted tokens, computed once before the first step (`reference.py`).

Units: log-probabilities are natural, summed over an example's counted tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raymill.policies.errors import Invalid
from raymill.train.batches import Batch, Share, UnitShares
from raymill.train.template import IGNORE, Example

LogProbabilities = NDArray[np.float32]


class ReferencedShares(UnitShares):
    """What pairs and answers have in common: reference values for the log-probabilities of their examples."""

    reference_N: LogProbabilities | None = None

    def scoring(self, rank: int, workers: int) -> Iterator[Batch]:
        """Passes that cover every example once, over all workers; as many on each."""
        longest_first = sorted(range(len(self.examples)), key=lambda i: -len(self.examples[i].ids))
        # Blocks bound what is laid out at once; the longest come first, so that memory runs out at once or never.
        for start in range(0, len(longest_first), 1024 * workers):
            block = longest_first[start : start + 1024 * workers]
            yield from self.dealt([(i,) for i in block], workers)[rank]

    def referenced(self, batch: Batch) -> dict[str, NDArray[np.float32]]:
        assert self.reference_N is not None, "reference log-probabilities come before the first step"
        return {"reference_E": self.reference_N[batch.examples_E]}


class PairShares(ReferencedShares):
    """Steps over pairs; examples 2p and 2p + 1 are the better and the worse answer of pair p."""

    @property
    def units(self) -> int:
        return len(self.examples) // 2

    def share(self, step: int, rank: int, workers: int) -> Share:
        """The part of worker `rank` in `step` (from 0)."""
        pairs = self.drawn(step)
        units = [(2 * pair, 2 * pair + 1) for pair in pairs]
        everyone = self.dealt(units, workers)
        better = sum(self._counted(2 * pair) for pair in pairs)
        slots = {pair: slot for slot, pair in enumerate(pairs)}
        return Share(
            passes=[self._with_facts(batch, slots, len(pairs) / max(1, better)) for batch in everyone[rank]],
            counted=len(pairs),
            tokens=self.tokens_of(units),
        )

    def _with_facts(self, batch: Batch, slots: dict[int, int], sft_scale: float) -> Batch:
        """Where pairs lie in the pass and in the step, and how many tokens count in each example."""
        place = {number: place for place, number in enumerate(batch.examples_E.tolist())}
        pairs = sorted({number // 2 for number in place})
        facts: dict[str, NDArray[Any]] = {
            **self.referenced(batch),
            "tokens_E": np.asarray([self._counted(i) for i in place], dtype=np.float32),
            "better_P": np.asarray([place[2 * pair] for pair in pairs], dtype=np.int64),
            "worse_P": np.asarray([place[2 * pair + 1] for pair in pairs], dtype=np.int64),
            "slots_P": np.asarray([slots[pair] for pair in pairs], dtype=np.int64),
            # The mean over tokens, times the number of pairs, which the step's loss is divided by.
            "sft_scale": np.asarray(sft_scale, dtype=np.float32),
        }
        return batch._replace(facts=facts)

    def _counted(self, i: int) -> int:
        return sum(label != IGNORE for label in self.examples[i].labels[1:])


class AnswerShares(ReferencedShares):
    """Steps over answers that are good or bad.

    The estimate of how far the model has moved needs answers to other questions: answer n's question with the
    answer before it in its step is example N + n. So that the reference values of these can be known before
    the first step, which answers meet in a step is drawn once; epochs change the order of the steps.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        good: Sequence[bool],
        *,
        batch: int,
        epochs: int,
        seed: int,
        pad_id: int,
        packing: bool,
        pass_tokens: int,
        estimate: bool = True,
    ) -> None:
        if len(examples) < 2:
            raise Invalid(
                f"the set has {len(examples)} row, kto compares answers with each other: give more rows"
            )
        self._good = np.asarray(good, dtype=np.float32)
        self._rows = len(examples)
        self._estimate = estimate
        order = np.random.default_rng((seed, 0)).permutation(len(examples))
        self.groups = [order[start : start + batch].tolist() for start in range(0, len(examples), batch)]
        self._seed = seed
        everything = [*examples, *self._mismatched(examples, order.tolist())] if estimate else examples
        super().__init__(
            everything,
            batch=batch,
            epochs=epochs,
            seed=seed,
            pad_id=pad_id,
            packing=packing,
            pass_tokens=pass_tokens,
        )

    @property
    def units(self) -> int:
        return self._rows

    def _mismatched(self, examples: Sequence[Example], order: Sequence[int]) -> list[Example]:
        """Each question with another's answer: that of the row before it in its group, in a circle."""
        partner: dict[int, int] = {}
        for group in self.groups:
            for place, row in enumerate(group):
                # A row that is alone in its step takes the answer of the one before its step.
                partner[row] = group[place - 1] if len(group) > 1 else order[-2]
        return [graft(examples[row], examples[partner[row]]) for row in range(len(examples))]

    def share(self, step: int, rank: int, workers: int) -> Share:
        """The part of worker `rank` in `step` (from 0)."""
        epoch, number = divmod(step, self._steps_in_epoch)
        turn = np.random.default_rng((self._seed, 1 + epoch)).permutation(len(self.groups))
        rows = self.groups[int(turn[number])]
        units = [(row,) for row in rows]
        probes = self.dealt([(self._rows + row,) for row in rows], workers)[rank] if self._estimate else []
        return Share(
            passes=[self._with_facts(batch) for batch in self.dealt(units, workers)[rank]],
            counted=len(rows),
            tokens=self.tokens_of(units),
            probes=[batch._replace(facts=self.referenced(batch)) for batch in probes],
        )

    def _with_facts(self, batch: Batch) -> Batch:
        return batch._replace(facts={**self.referenced(batch), "good_E": self._good[batch.examples_E]})


def graft(question: Example, answer: Example) -> Example:
    """The question of one example with the answer of another."""
    asked, answered = start_of_answer(question), start_of_answer(answer)
    return Example(
        [*question.ids[:asked], *answer.ids[answered:]],
        [*[IGNORE] * asked, *answer.labels[answered:]],
    )


def start_of_answer(example: Example) -> int:
    """Place of the first token that counts."""
    return next((at for at, label in enumerate(example.labels) if label != IGNORE), len(example.labels))
