"""Which requests for an alias go to its canary: a share of the callers' conversations, always the same ones.

The hash of the canary's id and the key of a request is a number from 0 to 1, and what lies below the share goes to the
canary. So one key stays on one side, whichever replica it meets, and one that is there at 10 % is still there at 50 %.
Another canary takes others. The key is the account with the request's `user` (on Anthropic's wire `metadata.user_id`);
without one its conversation, as `balance.conversation_of` tells it.

A canary's request that it does not answer is answered by the current version, for the client is no part of the trial; the
record says who was to answer.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from raymill.serve.gateway.balance import conversation_of
from raymill.serve.gateway.catalog import Canary, Target

Arm = Literal["canary", "current"]
BITS = 64


class Met(NamedTuple):
    """On which side of a canary a request is."""

    canary_id: uuid.UUID
    arm: Arm


def split(targets: Sequence[Target], key: str) -> tuple[list[Target], Met | None]:
    """Put canaries in front of the targets whose share they take.

    Returns:
        The targets in order, and the side of the first one, when that has a canary.
    """
    ordered: list[Target] = []
    for target in targets:
        canary = target.canary
        if canary is not None and takes(canary, key):
            ordered.append(canary.target)
        ordered.append(target)
    first = targets[0]
    if first.canary is None:
        return ordered, None
    return ordered, Met(first.canary.id, "canary" if ordered[0] is not first else "current")


def takes(canary: Canary, key: str) -> bool:
    digest = hashlib.blake2b(
        f"{canary.id}\0{key}".encode(errors="surrogatepass"), digest_size=BITS // 8
    ).digest()
    return int.from_bytes(digest, "big") < canary.share * (1 << BITS)


def key_of(account_id: uuid.UUID, body: dict[str, Any]) -> str:
    """What stays on one side."""
    metadata = body.get("metadata")
    user = body.get("user") or (metadata.get("user_id") if isinstance(metadata, dict) else None)
    return f"{account_id}\0{user or conversation_of(body)}"
