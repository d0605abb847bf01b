"""Requests that begin alike go to one replica, whose KV cache holds their beginning already.

Rendezvous hashing (Thaler and Ravishankar, 1998, IEEE/ACM Transactions on Networking 6): a beginning's replica is the
one whose hash with it is greatest. It needs no state, so all replicas of the gateway agree without asking, and when
replicas come or go only the beginnings of those move. A replica that takes no more requests is passed over for the
next. Ray's PrefixCacheAffinityRouter keeps a tree in an actor, which it asks with calls that block the event loop.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import Any

from ray.serve.request_router import LocalityMixin, PendingRequest, RequestRouter, RunningReplica

HEAD_CHARS = 512
"""Of a prompt of /v1/completions: what counts as its beginning."""


class PrefixRouter(LocalityMixin, RequestRouter):  # type: ignore[misc]
    """Ranks the replicas for each request; Serve takes the first that accepts it."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        body = pending_request.args[0] if pending_request is not None and pending_request.args else {}
        by_id = {str(replica.replica_id.unique_id): replica for replica in candidate_replicas}
        head = beginning(body) or str(random.random())
        return [[by_id[name]] for name in ranked(head, list(by_id))]


def beginning(body: Any) -> str:
    """What turns of one conversation share: all up to the first message of the user. Empty where nothing tells."""
    if not isinstance(body, dict):
        return ""
    messages = body.get("messages")
    if not isinstance(messages, list):
        return str(body.get("prompt", ""))[:HEAD_CHARS]
    shared = []
    for message in messages:
        shared.append(str(message))
        if isinstance(message, dict) and message.get("role") == "user":
            break
    return "\n".join(shared)


def ranked(head: str, names: Sequence[str]) -> list[str]:
    """`names`, the best for `head` first."""
    return sorted(names, key=lambda name: hashlib.blake2b(f"{name}\n{head}".encode()).digest(), reverse=True)
