"""The asyncio client's promotions, aliases and environments."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

from raymill.client import promotion_endpoints as calls
from raymill.client import promotion_types, types
from raymill.client.aio_control import Resource
from raymill.client.endpoints import Id
from raymill.client.validation import checked
from raymill.registry.canary_config import CanaryConfig


class Aliases(Resource):
    """Names that move from version to version, such as `production`."""

    def history(self, llm: str, *, limit: int | None = None) -> AsyncIterator[types.AliasMove]:
        """Where a model's aliases pointed, and who moved them, newest first."""
        return self._http.items(calls.alias_history(llm), limit)

    async def freeze(self, llm: str, alias: str, *, reason: str | None = None) -> promotion_types.Alias:
        """Hold an alias where it is: promotions and roll backs are refused until it is unfrozen."""
        return await self._http.send(calls.freeze(llm, alias, reason))

    async def unfreeze(self, llm: str, alias: str) -> promotion_types.Alias:
        """Let it move again."""
        return await self._http.send(calls.unfreeze(llm, alias))

    async def roll_back(self, llm: str, alias: str, *, reason: str | None = None) -> types.Promotion:
        """Move an alias back to the version before; no approvals are asked for. The policy must allow it still.

        While a canary runs, that ends instead, and the answer is its promotion, `aborted`.
        """
        return await self._http.send(calls.roll_back(llm, alias, reason))


class Promotions(Resource):
    """Decisions about which version an alias names, and requests that wait for approvals."""

    def list(
        self, *, llm: str | None = None, waiting: bool = False, limit: int | None = None
    ) -> AsyncIterator[types.Promotion]:
        """Newest first; with `waiting` those that approvals or an execution are missing to."""
        return self._http.items(calls.promotions(llm, waiting), limit)

    async def get(self, promotion_id: Id) -> types.Promotion:
        return await self._http.send(calls.promotion(promotion_id))

    async def create(
        self,
        llm: str,
        version: int,
        *,
        to: str = "production",
        require: Mapping[str, types.JsonObject] | None = None,
        canary: CanaryConfig | Mapping[str, object] | None = None,
        idempotency_key: str | None = None,
    ) -> types.Promotion:
        """Ask the policy. A refusal is an answer too: look at `state` and `reasons`.

        Where the environment asks for approvals the alias does not move yet, and `state` is `pending`; with a canary it
        is `canary` until the alias moves.

        Args:
            canary: what the version is tried by first, such as `{"share": 0.1}`; None: as the environment says.
        """
        given = {"llm": llm, "version": version, "to": to, "require": dict(require or {}), "canary": canary}
        body = checked(types.PromotionRequest, given)
        return await self._http.send(calls.create(body), idempotency_key)

    async def approve(self, promotion_id: Id) -> types.Promotion:
        """Agree to a request of somebody else's. The last approval that it takes executes it."""
        return await self._http.send(calls.approve(promotion_id))

    async def reject(self, promotion_id: Id, *, reason: str | None = None) -> types.Promotion:
        """End a request that waits, or take one's own back."""
        return await self._http.send(calls.reject(promotion_id, reason))

    async def execute(self, promotion_id: Id) -> types.Promotion:
        """Move the alias for a request that is approved; needed only when its last approval could not."""
        return await self._http.send(calls.execute(promotion_id))

    async def advance(self, promotion_id: Id) -> types.Promotion:
        """Move the alias now, whatever share the canary has come to."""
        return await self._http.send(calls.advance(promotion_id))

    async def abort(self, promotion_id: Id, *, reason: str | None = None) -> types.Promotion:
        """End the canary; the alias stays where it is."""
        return await self._http.send(calls.abort(promotion_id, reason))


class Environments(Resource):
    """What a move of an alias takes besides the policy's consent."""

    def list(self) -> AsyncIterator[promotion_types.Environment]:
        return self._http.items(calls.environments(), None)

    async def set(
        self,
        name: str,
        *,
        approvals: int = 0,
        roles: Sequence[str] = ("approver", "admin"),
        after: str | None = None,
        expires_after_s: int = 7 * 24 * 3600,
        policy: str | None = None,
        canary: CanaryConfig | Mapping[str, object] | None = None,
    ) -> promotion_types.Environment:
        """Replace what an environment asks for.

        Args:
            approvals: so many accounts other than the requester's must agree.
            roles: whose approvals count.
            after: an alias that a version must have been at before.
            expires_after_s: seconds until a request that was not executed never is.
            policy: whose newest version decides; None: the rules that Raymill ships.
            canary: of promotions that ask for none themselves; None: the alias moves at once.
        """
        given = {
            "approvals": approvals,
            "roles": [*roles],
            "after": after,
            "expires_after_s": expires_after_s,
            "policy": policy,
            "canary": canary,
        }
        return await self._http.send(
            calls.set_environment(name, checked(promotion_types.EnvironmentSettings, given))
        )
