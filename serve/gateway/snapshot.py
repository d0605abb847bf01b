"""What the gateway knows: keys and served models, held in memory and replaced as a whole.

A request reads one snapshot and no database. The refresher asks its source for a new one when the source
says that something changed, and at least every `poll_s`; while the source is away the last one stands.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from raymill.policies.errors import Unavailable

logger = logging.getLogger(__name__)

PRODUCTION = "production"


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """Who is calling. The key itself is not here, only where its digest points."""

    key_id: str
    user: str


@dataclass(frozen=True, kw_only=True)
class Served:
    """One version that is deployed and ready, and the aliases that point to it."""

    name: str
    version: int
    application: str
    """Name of its Serve application (`DeploySpec.application`)."""

    aliases: tuple[str, ...] = ()
    created: int = 0
    """Unix seconds, for /v1/models."""

    @property
    def exact_name(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def public_names(self) -> tuple[str, ...]:
        """Every name a request may use: name@3, name@production, and the bare name for production."""
        names = [f"{self.name}@{alias}" for alias in self.aliases]
        if PRODUCTION in self.aliases:
            names.insert(0, self.name)
        return (*names, self.exact_name)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Immutable: the maps are read-only views."""

    keys: Mapping[str, ApiKey]
    """By sha256 of the key, hex."""

    models: Mapping[str, Served]
    """By every public name, in the order listed."""

    taken_at: float = field(default_factory=time.time)
    """Unix seconds."""

    @classmethod
    def of(cls, keys: Mapping[str, ApiKey], served: Iterable[Served]) -> Snapshot:
        """A snapshot of `keys` (sha256 in hex → key) and every served version."""
        models = {name: version for version in served for name in version.public_names}
        return cls(keys=MappingProxyType(dict(keys)), models=MappingProxyType(models))


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
