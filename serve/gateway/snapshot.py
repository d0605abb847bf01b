"""What the gateway knows: keys, routes, providers, presets and served versions, in memory, replaced as a whole.

A request reads one snapshot and no database. The refresher asks its source for a new one when the source
says that something changed, and at least every `poll_s`; while the source is away the last one stands.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Protocol

from raymill.policies.errors import Unavailable
from raymill.serve.gateway.catalog import Preset, Provider, Route, Served, direct_route, served_route
from raymill.serve.gateway.limits import Limit

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who is calling. The key itself is not here, only where its digest points."""

    account: str
    key_id: uuid.UUID
    account_id: uuid.UUID
    team_id: uuid.UUID | None = None
    expires_at: float | None = None
    """When the key ends, Unix seconds."""

    limits: tuple[Limit, ...] = ()
    """Of the key, its account and its team together; all of them must have room."""

    @cached_property
    def limits_by_kind(self) -> tuple[tuple[Limit, str], ...]:
        """Each limit, and what it counts: requests, tokens, micro_usd or streams."""
        return tuple((limit, limit.kind) for limit in self.limits)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Immutable: the maps are read-only views."""

    keys: Mapping[str, Caller]
    """By sha256 of the key, hex."""

    routes: Mapping[str, Route]
    """By every name that a request may use, in the order listed; presets and unlisted models apart."""

    presets: Mapping[str, Preset]
    providers: Mapping[str, Provider]
    """Enabled ones, by name."""

    taken_at: float = field(default_factory=time.time)
    """Unix seconds."""

    @classmethod
    def of(
        cls,
        keys: Mapping[str, Caller],
        served: Iterable[Served] = (),
        *,
        routes: Iterable[Route] = (),
        presets: Iterable[Preset] = (),
        providers: Iterable[Provider] = (),
    ) -> Snapshot:
        """A snapshot of `keys` (sha256 in hex → caller) and of all that answers.

        A route's name wins over a served version's, and that over a provider's model.
        """
        enabled = {provider.name: provider for provider in providers}
        known = {route.name: route for route in routes}
        for version in served:
            for name in version.public_names:
                known.setdefault(name, served_route(name, version))
        owners: dict[str, list[Route]] = {}
        for provider in enabled.values():
            for model in provider.models:
                route = direct_route(provider, model)
                known.setdefault(route.name, route)
                owners.setdefault(model, []).append(route)
        for model, candidates in owners.items():
            # A model that is called like another provider's is that provider's.
            if len(candidates) == 1 and model.partition("/")[0] not in enabled:
                known.setdefault(model, candidates[0])
        return cls(
            keys=MappingProxyType(dict(keys)),
            routes=MappingProxyType(known),
            presets=MappingProxyType({preset.name: preset for preset in presets}),
            providers=MappingProxyType(enabled),
        )


class SnapshotSource(Protocol):
    """Where snapshots come from. Its methods are called by one task, never at the same time."""

    async def load(self) -> Snapshot:
        """The state as it is now.

        Raises:
            Unavailable: the store is away; the gateway keeps what it has and asks again.
        """
        ...

    async def changed(self) -> None:
        """Return when something may have changed; may be cancelled at any time, may wait for ever."""
        ...

    async def close(self) -> None: ...


class StaticSource:
    """One snapshot, replaced by hand: for tests and for a gateway without a registry."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._changed = asyncio.Event()

    def replace(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._changed.set()

    async def load(self) -> Snapshot:
        self._changed.clear()
        return self._snapshot

    async def changed(self) -> None:
        await self._changed.wait()

    async def close(self) -> None:
        return None


def digest_of(key: str) -> str:
    """How a key is looked up: sha256 in hex. Keys are random, so no salt is needed."""
    return hashlib.sha256(key.encode()).hexdigest()


class Refresher:
    """Keeps `current` fresh. Its task failing is fatal: `check` raises, and the replica is replaced."""

    def __init__(self, source: SnapshotSource, *, poll_s: float = 1.0) -> None:
        self._source = source
        self._poll_s = poll_s
        self._task: asyncio.Task[None] | None = None
        self.current = Snapshot.of({}, [])

    async def start(self) -> None:
        """Load the first snapshot, then keep loading in the background. A second call does nothing.

        Raises:
            Unavailable: there is no first snapshot, so there is nothing to serve by.
        """
        if self._task is not None:
            return
        self.current = await self._source.load()
        self._task = asyncio.create_task(self._refresh(), name="gateway-snapshot")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._source.close()

    def check(self) -> None:
        if self._task is not None and self._task.done() and not self._task.cancelled():
            error = self._task.exception()
            raise RuntimeError(f"the gateway no longer learns of changed keys and models: {error!r}")

    async def _refresh(self) -> None:
        away = False
        while True:
            try:
                async with asyncio.timeout(self._poll_s):
                    await self._source.changed()
            except TimeoutError:
                pass
            except Unavailable:
                await asyncio.sleep(self._poll_s)
            try:
                self.current = await self._source.load()
            except Unavailable as error:
                if not away:
                    logger.warning("Serving by the snapshot of %.0f: %s", self.current.taken_at, error)
                away = True
                await asyncio.sleep(self._poll_s)
            else:
                away = False
