"""A provider for the stage, on loopback: three models that answer a word at a time, and one that reviews code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from tests.serve.code_lab import GOOD, table
from tests.serve.scripted_upstream import DONE, ROLE, USAGE_CHUNK, Act, Script, chunk, says, scripted, streams

WORD_S = 0.12
ANSWERS = {
    "small": "The parcel is late because the depot was closed over the holiday and nobody told the carrier.",
    "medium": "Sorry for the wait. The depot was closed, so the parcel leaves today and should arrive on Thursday.",
    "large": "Your parcel waits at the depot. We have asked the carrier to bring it first thing tomorrow morning.",
}
REVIEWER = "reviewer"


def word_by_word(text: str) -> Act:
    words = [chunk(f"{word} ") for word in text.split()]
    return streams(ROLE, *words, chunk(None, "stop"), USAGE_CHUNK, DONE, delay_s=WORD_S)


@contextmanager
def provider() -> Iterator[Script]:
    """Answers below `url`/v1 until the block ends."""
    models = {"object": "list", "data": [{"id": name, "object": "model"} for name in ANSWERS]}
    with scripted() as script:
        script.on("/v1/models", says(200, json.dumps(models).encode()))
        for name, text in ANSWERS.items():
            script.on(name, word_by_word(text))
        script.on(REVIEWER, table(GOOD))
        yield script
