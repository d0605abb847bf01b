"""Does the GGUF file say what the model says? The same prompts, both greedy, answers compared.

Both sides get the very token ids of the prompt that Hugging Face's tokenizer gives; whether llama.cpp's
own tokenizer agrees is reported apart, because a server renders and tokenizes by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raymill.evaluate.actors import ActorPool
from raymill.evaluate.prompts import Answer, Row

BATCH = 25
"""Prompts in one call to an actor."""


def compare(theirs: Sequence[Answer], ours: Sequence[Answer], same_tokens: Sequence[bool]) -> dict[str, Any]:
    """`theirs` by Hugging Face and `ours` by llama.cpp, prompt by prompt.

    Returns:
        prompts, same (answers with equal token ids), agreement (their share), same_first_token,
        template_identical (every prompt has the same ids by both tokenizers).
    """
    pairs = list(zip(theirs, ours, strict=True))
    same = sum(one["tokens"] == other["tokens"] for one, other in pairs)
    return {
        "prompts": len(pairs),
        "same": same,
        "agreement": same / len(pairs),
        "same_first_token": sum(one["tokens"][:1] == other["tokens"][:1] for one, other in pairs),
        "template_identical": all(same_tokens),
    }


def answers_of_model(pool: ActorPool, rows: Sequence[Row], max_new_tokens: int) -> list[Answer]:
    """Greedy answers of a pool of `HfModel`s, in the order of the rows."""
    parts = in_order(pool, calls_for(rows, max_new_tokens))
    return [answer for part in parts for answer in part]


def parity_of_file(
    pool: ActorPool, file: Path, rows: Sequence[Row], theirs: Sequence[Answer], max_new_tokens: int
) -> dict[str, Any]:
    """Compare `theirs` with the answers of `file` by a pool of `GgufModel`s."""
    parts = in_order(pool, [(str(file), *call) for call in calls_for(rows, max_new_tokens)])
    ours = [answer for part in parts for answer in part["answers"]]
    return compare(theirs, ours, [same for part in parts for same in part["same_tokens"]])


def calls_for(rows: Sequence[Row], max_new_tokens: int) -> list[tuple[Any, ...]]:
    batches = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    return [
        ([row.messages for row in batch], max_new_tokens, [row.tools for row in batch]) for batch in batches
    ]


def in_order(pool: ActorPool, calls: list[tuple[Any, ...]]) -> list[Any]:
    """Results of `generate`, in the order of the calls."""
    parts: dict[int, Any] = {}
    pool.map("generate", calls, parts.__setitem__)
    return [parts[position] for position in range(len(calls))]
