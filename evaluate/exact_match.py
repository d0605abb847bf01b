"""What is kept of an answer to a held-out row, and the strictest measure of it: equal to the reference, letter for letter.

White space around both is ignored, nothing else. Knows nothing of how the answers came to be.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from raymill.evaluate.prompts import Answer, Row
from raymill.evaluate.samples import Record
from raymill.registry.artifacts import canonical_json


def batches_of(rows: Sequence[Row], batch: int) -> list[list[Row]]:
    """Rows of like length together: a batch takes as long as its longest row."""
    by_length = sorted(
        rows, key=lambda row: (sum(len(str(turn["content"])) for turn in row.messages), row.index)
    )
    return [by_length[start : start + batch] for start in range(0, len(by_length), batch)]


def record_of(row: Row, answer: Answer) -> Record:
    """One line of the samples; a measure adds its `score`. `doc_hash` is what paired tests join on."""
    return {
        "index": row.index,
        "doc_hash": doc_hash(row),
        "prompt": answer["prompt"],
        "reference": row.reference,
        "answer": answer["text"],
        "prompt_tokens": answer["prompt_tokens"],
        "answer_tokens": len(answer["tokens"]),
        "finished": answer["finished"],
    }


def doc_hash(row: Row) -> str:
    """sha256, hex, of what is asked and what should be answered; the model's template has no part in it."""
    content = {"messages": row.messages, "tools": row.tools, "reference": row.reference}
    return hashlib.sha256(canonical_json(content)).hexdigest()


def is_exact(answer: str, reference: str) -> bool:
    return answer.strip() == reference.strip()
