"""Sends requests with a common beginning to the replica that has read it, as long as that is not clearly busier.

Serve runs a router in each process that calls a deployment: here in the gateway's replicas. Each remembers only what it sent
itself. `PrefixCacheAffinityRouter` of ray.serve.llm 2.60 reads attributes of a request of its own type, asks an actor with a
blocking call for each request, and forgets nothing unless told to; so this takes its place. Written against ray 2.60, whose routers
are alpha.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from typing import Any

from ray.serve._private.common import ReplicaID, RequestMetadata
from ray.serve._private.replica_result import ReplicaResult
from ray.serve._private.request_router.common import PendingRequest
from ray.serve._private.request_router.pow_2_router import PowerOfTwoChoicesRequestRouter
from ray.serve._private.request_router.replica_wrapper import RunningReplica
from ray.serve.config import RequestRouterConfig

from raymill.serve.llm.config import BALANCED
from raymill.serve.llm.prefix_memory import PrefixMemory, Prompt, best, prompt_of

logger = logging.getLogger(__name__)

MUTE_S = 1.0
"""A replica that did not tell its load in time is not waited for again for so long: each request would wait."""


class PrefixRouter(PowerOfTwoChoicesRequestRouter):  # type: ignore[misc]
    """Serve's own choice, after the replica that suits a request's beginning. All of it runs on one event loop."""

    def initialize_state(self, **kwargs: Any) -> None:
        super().initialize_state(**kwargs)
        self._memories: dict[ReplicaID, PrefixMemory] = defaultdict(PrefixMemory)
        self._on_their_way: Counter[ReplicaID] = Counter()
        self._mute_until_s: dict[ReplicaID, float] = {}

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """In the order in which they are asked to take the request."""
        others: list[list[RunningReplica]] = await super().choose_replicas(
            candidate_replicas, pending_request
        )
        if pending_request is None or len(candidate_replicas) < 2:
            return others
        prompt = _prompt(pending_request)
        if prompt is None:
            return others
        loads = await self._loads(candidate_replicas)
        pending_request.suited = bool(loads)
        if not loads:
            return others
        now_s = time.monotonic()
        known = {each: self._memories[each].known(prompt.chain, now_s) for each in loads}
        chosen = best(loads, known, prompt.opening)
        self._on_their_way[chosen] += 1
        return [[self._replicas[chosen]], *others]

    async def _loads(self, replicas: list[RunningReplica]) -> dict[ReplicaID, int]:
        """Requests at each replica that can take one more; those that do not tell in time are left out."""
        loads = {each.replica_id: self._replica_queue_len_cache.get(each.replica_id) for each in replicas}
        # Serve forgets a load after 10 s without a request of this process's own.
        now_s = time.monotonic()
        silent = [
            each
            for each in replicas
            if loads[each.replica_id] is None and self._mute_until_s.get(each.replica_id, 0.0) <= now_s
        ]
        for each, load in await self._probe_queue_lens(silent, 0):
            loads[each.replica_id] = load
            if load is None:
                self._mute_until_s[each.replica_id] = time.monotonic() + MUTE_S
        return {
            each.replica_id: load + self._on_their_way[each.replica_id]
            for each in replicas
            if (load := loads[each.replica_id]) is not None
            and load < each.max_ongoing_requests
            and each.replica_id in self._replicas  # it may have gone while others were asked
        }

    def on_send_request(self, replica_id: ReplicaID) -> None:
        """From here on Serve counts it; several requests may be routed before the first is sent."""
        super().on_send_request(replica_id)
        self._on_their_way[replica_id] = max(0, self._on_their_way[replica_id] - 1)

    def on_new_queue_len_info(self, replica_id: ReplicaID, num_ongoing_requests: int) -> None:
        super().on_new_queue_len_info(replica_id, num_ongoing_requests)
        self._on_their_way[replica_id] = 0  # so what was given up before it was sent is not counted for ever

    def on_request_routed(
        self, pending_request: PendingRequest, replica_id: ReplicaID, result: ReplicaResult
    ) -> None:
        super().on_request_routed(pending_request, replica_id, result)
        prompt = _prompt(pending_request)
        if prompt is not None and replica_id in self._replicas:
            self._memories[replica_id].add(prompt.chain, time.monotonic())

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        super().on_replica_actor_died(replica_id)
        self._forget_who_left()

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        super().update_replicas(replicas)
        self._forget_who_left()

    def _forget_who_left(self) -> None:
        for gone in self._memories.keys() - self._replicas.keys():
            del self._memories[gone]
        for gone in self._on_their_way.keys() - self._replicas.keys():
            del self._on_their_way[gone]
        for gone in self._mute_until_s.keys() - self._replicas.keys():
            del self._mute_until_s[gone]

    def _get_pending_request_matching_metadata(
        self, request_metadata: RequestMetadata | None = None
    ) -> PendingRequest | None:
        """A replica that was chosen for this request is not given to the one that waits longest, as Serve does; any other is."""
        found = self._get_pending_request_matching_internal_request_id(request_metadata)
        return found if getattr(found, "suited", False) else None


def _prompt(request: PendingRequest) -> Prompt | None:
    """None: its beginning is no matter. Kept with the request, which is routed anew until a replica takes it."""
    if not hasattr(request, "prompt"):
        request.prompt = _read(request)
    found: Prompt | None = request.prompt
    return found


def _read(request: PendingRequest) -> Prompt | None:
    if request.metadata.session_id == BALANCED or not request.args:
        return None
    body = request.args[0]
    if not isinstance(body, dict):
        return None
    try:
        return prompt_of(body)
    except Exception:  # broad: a request that Serve's router raises for is never answered
        logger.exception("A request has no beginning that could be routed by")
        return None


class _WithoutRoute(RequestRouterConfig):  # type: ignore[misc]
    """Of a deployment that only handles reach. HAProxy would pass a router by, so Serve (2.60) refuses one of the
    deployment that an application is called by, without asking whether HAProxy ever sees it; this is what it asks."""

    def is_default_request_router(self) -> bool:
        return True


def by_prefix() -> RequestRouterConfig:
    """Of `serve.deployment`, for an application without an HTTP route."""
    return _WithoutRoute(request_router_class=f"{PrefixRouter.__module__}.{PrefixRouter.__name__}")
