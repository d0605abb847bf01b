"""Resource of the asyncio client for drift: what `sync_drift.py` has, awaiting."""

from __future__ import annotations

from collections.abc import AsyncIterator

from raymill.client import drift_endpoints as endpoints
from raymill.client import drift_types as types
from raymill.client.aio_control import Resource
from raymill.client.trigger_types import Switch
from raymill.client.types import JsonObject
from raymill.client.validation import checked


class Drift(Resource):
    """Watches over served models and what routes are asked, and what they found."""

    def list(self, *, limit: int | None = None) -> AsyncIterator[types.DriftWatch]:
        """Newest first."""
        return self._http.items(endpoints.watches(), limit)

    async def get(self, name: str) -> types.DriftWatch:
        return await self._http.send(endpoints.watch(name))

    async def add(self, name: str, config: JsonObject, *, enabled: bool = True) -> types.DriftWatch:
        """A new watch; `config` as docs/drift.md has it."""
        body = checked(types.DriftRequest, {"name": name, "config": config, "enabled": enabled})
        return await self._http.send(endpoints.add_watch(body))

    async def enable(self, name: str, *, enabled: bool = True) -> types.DriftWatch:
        return await self._http.send(endpoints.enable_watch(name, Switch(enabled=enabled)))

    async def remove(self, name: str) -> types.DriftWatch:
        return await self._http.send(endpoints.remove_watch(name))

    async def run(self, name: str, *, baseline: bool = False) -> types.Look:
        """Have it look now. Later canary scores are held against those of a look that is the `baseline`."""
        return await self._http.send(endpoints.look(name, types.LookRequest(baseline=baseline)))

    def runs(self, name: str, *, limit: int | None = None) -> AsyncIterator[types.DriftRun]:
        """What each look found, newest first."""
        return self._http.items(endpoints.runs(name), limit)

    def events(self, name: str | None = None, *, limit: int | None = None) -> AsyncIterator[types.DriftRun]:
        """Looks that found drift, of one watch or of all, newest first."""
        return self._http.items(endpoints.events(name), limit)
