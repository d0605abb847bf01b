"""What an engine hands to the gateway: the one seam between them, whatever the engine.

An engine is a Serve deployment with four methods that take the request as a dict of the OpenAI wire:

    chat, completions                  -> Reply               the whole answer
    chat_stream, completions_stream    -> stream of Reply     pieces of it

Bytes are JSON on the OpenAI wire. A piece of a stream holds one or more chunks, each ended by a line
feed, so the gateway frames them without parsing. A `Failure` ends what it appears in. It is a value and
not an exception because Ray would wrap, log and count an exception as a crash of the replica.
"""

from __future__ import annotations

import json
from typing import NamedTuple, TypeAlias

Body: TypeAlias = dict[str, object]


class Failure(NamedTuple):
    """The engine refuses, or breaks off."""

    status: int
    """As an HTTP status: 4xx when the request is to blame."""

    code: str
    message: str
    param: str | None = None


Reply: TypeAlias = bytes | Failure


def encode(value: object) -> bytes:
    """Compact JSON on one line."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
