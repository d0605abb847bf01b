"""Token-overlap F1 of an answer and its reference, as SQuAD's official script counts it.

Both are normalised: lower case, without ASCII punctuation, without the articles a, an and the, white space as one
blank. Words are then counted with their repetitions.

Source: Rajpurkar et al., SQuAD: 100,000+ Questions for Machine Comprehension of Text, 2016, arXiv:1606.05250, and the
evaluation script of SQuAD 2.0 (arXiv:1806.03822), whose rule for an empty side is taken.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from typing import NamedTuple

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


class Overlap(NamedTuple):
    """Each between 0 and 1."""

    f1: float
    precision: float
    """Share of the answer's words that the reference has."""

    recall: float
    """Share of the reference's words that the answer has."""


def normalised(text: str) -> list[str]:
    """The words that are compared."""
    return ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split()


def token_f1(answer: str, reference: str) -> Overlap:
    """Where one of the two has no word left, 1 if the other has none either, else 0."""
    said, wanted = normalised(answer), normalised(reference)
    if not said or not wanted:
        same = float(said == wanted)
        return Overlap(same, same, same)
    shared = sum((Counter(said) & Counter(wanted)).values())
    if not shared:
        return Overlap(0.0, 0.0, 0.0)
    precision, recall = shared / len(said), shared / len(wanted)
    return Overlap(2 * precision * recall / (precision + recall), precision, recall)
