"""Which replica has seen which beginning of a prompt, and which of them should answer the next request.

vLLM keeps the keys and values of prompts that it has read, so a prompt that begins like an earlier one is read only from
where they part. Each replica has a cache of its own: the next turn of a conversation is answered soonest where the last one
was. What replicas hold is not asked of them but guessed from what was sent there; a wrong guess costs reading a prompt
anew. Knows nothing of Ray, and takes no locks: whoever uses it does so from one thread.

A block is 256 bytes of a request's text as JSON, about 64 tokens. It is known by a hash of everything up to its end, so a
chain of blocks that two requests share is a beginning that they share.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec

Replica = TypeVar("Replica", bound=Hashable)

BLOCK_BYTES = 256
MOST_BLOCKS = 1024
"""Of one request; what comes after them is not looked at."""

MOST_REMEMBERED = 16_384
"""Blocks that are remembered of each replica, about a million tokens and 3 MiB; those used least recently go first."""

FORGOTTEN_AFTER_S = 1800.0
"""Since a block was last sent to a replica. A cache knows no time, but other requests have used its room by then."""

BLOCKS_PER_REQUEST = 4
"""A request that a replica is answering weighs as much as so many blocks to be read: 1 KiB of text."""

MOST_AHEAD = 2
"""Whatever it has read, no replica is given a request when it has more than so many, and half, more than the least busy."""


class Prompt(NamedTuple):
    """What routing looks at in a request."""

    chain: tuple[int, ...]
    """Of each whole block, a hash of everything up to its end. Of this process: other processes have other hashes."""

    opening: bytes
    """Names the conversation, in every process: a hash of what comes up to the end of the first user's message."""


def prompt_of(body: Mapping[str, Any]) -> Prompt:
    """Of a request on the OpenAI wire, chat or completions. The model's name is part of it: each adapter of a base has keys
    and values of its own."""
    asked = body.get("messages", body.get("prompt"))
    parts = asked if isinstance(asked, list) else [asked]
    text = bytearray(msgspec.json.encode((body.get("model"), body.get("tools"))))
    opening = 0
    for part in parts:
        text += msgspec.json.encode(part)
        if not opening and isinstance(part, dict) and part.get("role") == "user":
            opening = len(text)
        if opening and len(text) >= MOST_BLOCKS * BLOCK_BYTES:
            break
    chain, before = [], 0
    for start in range(0, min(len(text), MOST_BLOCKS * BLOCK_BYTES) - BLOCK_BYTES + 1, BLOCK_BYTES):
        before = hash((before, bytes(text[start : start + BLOCK_BYTES])))
        chain.append(before)
    # Completions have no messages to tell where a conversation begins.
    named = bytes(text[: opening or 4 * BLOCK_BYTES])
    return Prompt(tuple(chain), hashlib.blake2b(named, digest_size=16).digest())


class PrefixMemory:
    """Blocks that one replica was sent. Bounded in number and time."""

    def __init__(self) -> None:
        self._sent_at: OrderedDict[int, float] = OrderedDict()  # least recent first

    def __len__(self) -> int:
        return len(self._sent_at)

    def add(self, chain: Sequence[int], now_s: float) -> None:
        for block in reversed(chain):  # a beginning outlives what follows it: alone that would be of no use
            self._sent_at[block] = now_s
            self._sent_at.move_to_end(block)
        self._forget(now_s)

    def known(self, chain: Sequence[int], now_s: float) -> int:
        """How many blocks from the beginning it has."""
        self._forget(now_s)
        return bisect_left(chain, True, key=lambda block: block not in self._sent_at)

    def _forget(self, now_s: float) -> None:
        while self._sent_at:
            sent_at = next(iter(self._sent_at.values()))
            if len(self._sent_at) <= MOST_REMEMBERED and now_s - sent_at <= FORGOTTEN_AFTER_S:
                return
            self._sent_at.popitem(last=False)


def best(loads: Mapping[Replica, int], known: Mapping[Replica, int], opening: bytes) -> Replica:
    """Who answers soonest: has read much of the prompt, and has little else to do.

    Never one that has more than `MOST_AHEAD`, and half, more requests than the least busy.

    Args:
        loads: requests that each replica is answering; at least one replica.
        known: blocks of the prompt that it has seen.
    """
    least = min(loads.values())

    def cost(replica: Replica) -> tuple[float, bytes]:
        # Among equals the same for a conversation everywhere: gateways that know nothing of each other agree.
        draw = hashlib.blake2b(opening + str(replica).encode(), digest_size=8).digest()
        return loads[replica] - known[replica] / BLOCKS_PER_REQUEST, draw

    return min((each for each in loads if loads[each] <= MOST_AHEAD + 1.5 * least), key=cost)
