"""What a data set is like: lengths, languages, roles and turns. Pure; knows no files.

Lengths are characters, or tokens where a base was named. Buckets of a histogram are half open: from, up to but
without `to`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from raymill.train.languages import language_of
from raymill.train.row_text import Row, characters_of, texts_of, turns_of

JsonObject = dict[str, Any]

LANGUAGE_ROWS = 5000
"""Rows whose language is looked at, evenly spread over the set."""

MOST_BUCKETS = 16
STEPS = (1, 2, 5)


def part_stats(rows: Sequence[Row]) -> JsonObject:
    """Of the training rows, or of the held-out ones."""
    lengths = [characters_of(row) for row in rows]
    turns = [turns_of(row) for row in rows]
    roles = Counter(str(turn.get("role")) for each in turns for turn in each)
    return {
        "rows": len(rows),
        "characters": sum(lengths),
        "length_characters": lengths_stats(lengths),
        "languages": languages(rows),
        "roles": dict(sorted(roles.items(), key=lambda role: -role[1])),
        "turns": {str(count): rows for count, rows in sorted(Counter(map(len, turns)).items())},
        "with_tools": sum(bool(row.get("tools")) for row in rows),
    }


def languages(rows: Sequence[Row]) -> dict[str, float]:
    """Language -> share of the rows, the greatest first."""
    if not rows:
        return {}
    sample = rows[:: -(-len(rows) // LANGUAGE_ROWS)]
    found = Counter(language_of("\n".join(texts_of(row))) for row in sample)
    return {language: round(count / len(sample), 4) for language, count in found.most_common()}


def lengths_stats(lengths: Sequence[int]) -> JsonObject:
    """The middle, the ends, and a histogram."""
    if not lengths:
        return {"histogram": []}
    values = np.asarray(lengths)
    p50, p90, p99 = np.percentile(values, [50, 90, 99], method="nearest")
    return {
        "min": int(values.min()),
        "median": int(p50),
        "p90": int(p90),
        "p99": int(p99),
        "max": int(values.max()),
        "mean": round(float(values.mean()), 1),
        "histogram": histogram(values.tolist()),
    }


def histogram(values: Sequence[int]) -> list[dict[str, int]]:
    """At most 16 buckets of a round width; what lies beyond the 99th in a hundred is in the last one."""
    top = int(np.percentile(np.asarray(values), 99, method="nearest"))
    width = bucket_width(top)
    last = top // width
    counts = Counter(min(value // width, last) for value in values)
    buckets = [
        {"from": place * width, "to": (place + 1) * width, "rows": counts[place]} for place in range(last + 1)
    ]
    buckets[-1]["to"] = max(buckets[-1]["to"], max(values) + 1)
    return buckets


def bucket_width(top: int) -> int:
    """1, 2, 5, 10, 20, 50…: the least that needs few enough buckets."""
    scale = 1
    while True:
        for step in STEPS:
            if top // (step * scale) < MOST_BUCKETS:
                return step * scale
        scale *= 10
