"""The texts in a row, whatever its shape, and the row's own digest. Pure.

Rows in normal form (`train/formats.py`) are known by their keys; of any other JSON every text is taken.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

Row = Mapping[str, Any]
Turn = Mapping[str, Any]

NOT_TEXT = frozenset({"role", "id", "type", "tool_call_id"})
"""Keys of a turn whose values nobody wrote."""

TURNS = ("messages", "prompt", "chosen", "rejected", "completion")


def canonical(row: Row) -> bytes:
    """The same bytes for the same row, in whatever order its keys stand."""
    return json.dumps(row, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(
        "utf-8", "surrogatepass"
    )


def digest(row: Row) -> bytes:
    """16 bytes that tell rows apart."""
    return hashlib.blake2b(canonical(row), digest_size=16).digest()


def turns_of(row: Row) -> list[Turn]:
    """Every turn in the row, in the order of reading; none in a row that is a plain text."""
    found: list[Turn] = []
    for key in TURNS:
        turns = row.get(key)
        if isinstance(turns, list):
            found += [turn for turn in turns if isinstance(turn, Mapping)]
    return found


def texts_of(row: Row) -> list[str]:
    """What people or models wrote in the row, one text for each turn. What all rows share tells nothing of one: system
    turns and lists of tools are left out."""
    turns = turns_of(row)
    if turns:
        parts = [turn for turn in turns if turn.get("role") != "system"]
        return [text for turn in parts if (text := "\n".join(_leaves(turn)))]
    return [text for text in _leaves(row) if text]


def characters_of(row: Row) -> int:
    """How long the row is, system turns included."""
    turns = turns_of(row)
    return sum(len(text) for part in (turns or [row]) for text in _leaves(part))


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            if key not in NOT_TEXT:
                yield from _leaves(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _leaves(each)
