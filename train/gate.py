"""The gate between training rows and evaluation sets: refuse what overlaps, unless it is waived by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raymill.cluster.context import JobContext, JsonObject
from raymill.policies.errors import NotFound
from raymill.registry.artifacts import sha256_file
from raymill.train.contamination import Hit, Index, Seen, kept_index
from raymill.train.dataset_config import Contamination
from raymill.train.ngrams import Words
from raymill.train.readers import InvalidDataset
from raymill.train.row_text import Row, texts_of

MOST_NAMED = 3
PIECE = 2000
"""Rows that are compared at once."""


class Contaminated(InvalidDataset):
    """Training rows hold what a model is to be measured with."""

    code = "contaminated"


def check_contamination(
    context: JobContext,
    rows: Sequence[Row],
    numbers: Sequence[int],
    config: Contamination,
    against: Sequence[JsonObject],
    *,
    own_test: Path,
) -> JsonObject:
    """Compare `rows` with the evaluation sets `against`: {"name", "number", "artifact"}.

    A set that holds exactly the rows that are held out here is the same set by another name.

    Returns:
        What was found, for the statistics.

    Raises:
        Contaminated: a set overlaps and is not waived; the message names it, rows and shares.
        NotFound: the rows of a set are gone.
    """
    own = sha256_file(own_test) if own_test.is_file() else None
    chosen: list[tuple[JsonObject, Index]] = []
    for each in against:
        artifact = context.path(each["artifact"])
        if not (artifact / "test.jsonl").is_file():
            raise NotFound(
                f"artifact {each['artifact']} of evaluation set {each['name']} is not in the store: "
                "restore it from a backup"
            )
        if own is None or sha256_file(artifact / "test.jsonl") != own:
            chosen.append((each, kept_index(artifact, config.ngram)))
    seen = Seen([index for _, index in chosen])
    words = Words()
    for start in range(0, len(rows), PIECE):
        context.check()
        piece = [
            (start + place, words.hashes(text))
            for place, row in enumerate(rows[start : start + PIECE])
            for text in texts_of(row)
        ]
        seen.feed([text for _, text in piece], [number for number, _ in piece])
    found: list[JsonObject] = []
    refused: list[str] = []
    for each, index in chosen:
        hits = seen.hits(index, config.threshold)
        if not hits:
            continue
        waived = each["name"] in config.waive
        found.append(_told(each, hits, numbers, waived=waived))
        if not waived:
            refused.append(_sentence(each, hits, numbers))
    if refused:
        names = ", ".join(each["name"] for each in found if not each["waived"])
        raise Contaminated(
            f"training rows overlap with evaluation sets: {'; '.join(refused)}. Remove these rows, or allow it with "
            f"contamination: {{waive: [{names}]}}"
        )
    return {"ngram": config.ngram, "threshold": config.threshold, "checked": len(chosen), "sets": found}


def _told(each: JsonObject, hits: Sequence[Hit], numbers: Sequence[int], *, waived: bool) -> JsonObject:
    worst: list[dict[str, Any]] = [
        {"row": hit.row, "train_row": numbers[hit.train_row - 1], "share": hit.share} for hit in hits[:100]
    ]
    return {
        "name": each["name"],
        "number": each["number"],
        "rows": len(hits),
        "worst": worst,
        "waived": waived,
    }


def _sentence(each: JsonObject, hits: Sequence[Hit], numbers: Sequence[int]) -> str:
    named = ", ".join(
        f"train row {numbers[hit.train_row - 1]} holds {hit.share:.0%} of its row {hit.row}"
        for hit in hits[:MOST_NAMED]
    )
    more = f", and {len(hits) - MOST_NAMED} more" if len(hits) > MOST_NAMED else ""
    return f"{each['name']} version {each['number']}: {named}{more}"
