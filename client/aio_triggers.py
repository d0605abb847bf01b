"""Resources of the asyncio client for triggers and hooks: what `sync_triggers.py` has, awaiting."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from raymill.client import trigger_endpoints as endpoints
from raymill.client import trigger_types as types
from raymill.client.aio_control import Resource
from raymill.client.types import Job, JsonObject
from raymill.client.validation import checked


class Triggers(Resource):
    """Pipelines that start when something happens."""

    def list(
        self, *, on: types.TriggerKind | None = None, limit: int | None = None
    ) -> AsyncIterator[types.Trigger]:
        """Newest first."""
        return self._http.items(endpoints.triggers(on), limit)

    async def get(self, name: str) -> types.Trigger:
        return await self._http.send(endpoints.trigger(name))

    async def add(
        self,
        name: str,
        *,
        on: types.TriggerKind,
        recipe: JsonObject,
        config: JsonObject | None = None,
        recipe_dir: str | None = None,
        enabled: bool = True,
    ) -> types.NewTrigger:
        """A new trigger, and the secret of a webhook, which is shown this once.

        Args:
            config: what `on` needs: cron schedule and timezone, dataset name, promotion model and alias.
            recipe_dir: what the recipe's relative paths start at.
        """
        data = {"name": name, "on": on, "config": config or {}, "recipe": recipe, "recipe_dir": recipe_dir}
        body = checked(types.TriggerRequest, {**data, "enabled": enabled})
        return await self._http.send(endpoints.add_trigger(body))

    async def enable(self, name: str, *, enabled: bool = True) -> types.Trigger:
        return await self._http.send(endpoints.enable_trigger(name, types.Switch(enabled=enabled)))

    async def remove(self, name: str) -> types.Trigger:
        return await self._http.send(endpoints.remove_trigger(name))

    async def fire(self, name: str, *, idempotency_key: str | None = None) -> types.Trigger:
        """Start it now, whatever it waits for."""
        return await self._http.send(endpoints.fire_trigger(name), idempotency_key)

    async def drift(self, subject: str, key: str, data: JsonObject | None = None) -> types.Told:
        """Tell that something has drifted; the same key of a subject is told of once."""
        body = checked(types.DriftEvent, {"subject": subject, "key": key, "data": data or {}})
        return await self._http.send(endpoints.tell_drift(body))


class Hooks(Resource):
    """Actions that follow the end of pipelines and their steps."""

    def list(self, *, limit: int | None = None) -> AsyncIterator[types.Hook]:
        """Newest first."""
        return self._http.items(endpoints.hooks(), limit)

    async def get(self, name: str) -> types.Hook:
        return await self._http.send(endpoints.hook(name))

    async def add(
        self,
        name: str,
        *,
        on: Sequence[types.HookEvent],
        action: types.HookAction,
        config: JsonObject | None = None,
        subject: str | None = None,
        enabled: bool = True,
    ) -> types.NewHook:
        """A new hook, and the secret of a webhook, which is shown this once.

        Args:
            config: what the action needs: webhook url, promote alias and require, rollback alias.
            subject: only of this model.
        """
        data = {"name": name, "on": list(on), "action": action, "config": config or {}, "subject": subject}
        return await self._http.send(
            endpoints.add_hook(checked(types.HookRequest, {**data, "enabled": enabled}))
        )

    async def enable(self, name: str, *, enabled: bool = True) -> types.Hook:
        return await self._http.send(endpoints.enable_hook(name, types.Switch(enabled=enabled)))

    async def remove(self, name: str) -> types.Hook:
        return await self._http.send(endpoints.remove_hook(name))

    def deliveries(self, name: str, *, limit: int | None = None) -> AsyncIterator[Job]:
        """The jobs that it wrote, newest first: a failed or dead one can be retried as any job."""
        return self._http.items(endpoints.deliveries(name), limit)
