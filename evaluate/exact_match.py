"""Held-out exact match: the share of answers that equal the reference, letter for letter.

White space around both is ignored, nothing else. Knows nothing of how the answers came to be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raymill.evaluate.prompts import Answer, Row


def batches_of(rows: Sequence[Row], batch: int) -> list[list[Row]]:
    """Rows of like length together: a batch takes as long as its longest row."""
    by_length = sorted(
        rows, key=lambda row: (sum(len(str(turn["content"])) for turn in row.messages), row.index)
    )
    return [by_length[start : start + batch] for start in range(0, len(by_length), batch)]


def record_of(row: Row, answer: Answer) -> dict[str, Any]:
    """One line of the published samples."""
    return {
        "index": row.index,
        "prompt": answer["prompt"],
        "reference": row.reference,
        "answer": answer["text"],
        "score": float(answer["text"].strip() == row.reference.strip()),
        "prompt_tokens": answer["prompt_tokens"],
        "answer_tokens": len(answer["tokens"]),
        "finished": answer["finished"],
    }


def exact_match(records: Sequence[dict[str, Any]]) -> float:
    """Mean score of the records."""
    return sum(float(record["score"]) for record in records) / len(records)
