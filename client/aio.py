"""The asyncio client: what `sync.py` has, awaiting. See `raymill.client.sdk`."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Self

import httpx

from raymill.client import endpoints, promotion_endpoints, status_endpoints, types
from raymill.client.aio_code import Code
from raymill.client.aio_control import Jobs, Pipelines, Queues, Resource
from raymill.client.aio_datasets import Datasets, Uploads
from raymill.client.aio_drift import Drift
from raymill.client.aio_evaluations import Evaluations
from raymill.client.aio_gateway import Presets, Prices, Providers, Routes
from raymill.client.aio_http import AsyncHttp
from raymill.client.aio_identity import MasterKeys, Passwords, People, Sessions
from raymill.client.aio_policies import Policies
from raymill.client.aio_promotions import Aliases, Environments, Promotions
from raymill.client.aio_runs import Runs
from raymill.client.aio_searches import Searches
from raymill.client.aio_triggers import Hooks, Triggers
from raymill.client.aio_usage import Accounts, Budgets, FeedbackGiven, Teams, Tiers, Traces, Usage
from raymill.client.endpoints import Id
from raymill.client.retry import Retry
from raymill.client.settings import load_settings
from raymill.client.status_types import Status
from raymill.client.validation import checked


class Llms(Resource):
    """Models and their versions."""

    def list(self, *, as_of: dt.datetime | None = None, limit: int | None = None) -> AsyncIterator[types.Llm]:
        """Newest first, with their aliases as they pointed at `as_of`; None: now."""
        return self._http.items(endpoints.llms(as_of), limit)

    async def get(self, name: str, *, as_of: dt.datetime | None = None) -> types.Llm:
        """One model, with its aliases as they pointed at `as_of`; None: now."""
        return await self._http.send(endpoints.llm(name, as_of))

    def versions(self, name: str, *, limit: int | None = None) -> AsyncIterator[types.Version]:
        return self._http.items(endpoints.versions(name), limit)

    async def version(self, name: str, number: int) -> types.Version:
        return await self._http.send(endpoints.version(name, number))

    async def lineage(self, name: str, number: int) -> types.Lineage:
        """Everything that led to a version, digests included."""
        return await self._http.send(endpoints.lineage(name, number))

    async def archive(self, name: str, number: int, *, reason: str | None = None) -> types.Version:
        """Put a version away: it can be neither promoted nor served. Not while an alias points to it."""
        return await self._http.send(promotion_endpoints.archive(name, number, reason))

    async def restore(self, name: str, number: int) -> types.Version:
        """Let it be promoted and served again."""
        return await self._http.send(promotion_endpoints.restore(name, number))

    async def verify(self, name: str, number: int) -> types.Verification:
        """Read the version's bytes again and hold them against the signed manifest.

        Raises:
            Clash: they differ; `code` is `tampered`.
        """
        return await self._http.send(endpoints.verify_version(name, number))

    async def sbom(self, name: str, number: int) -> types.SbomOfVersion:
        """The packages, Python and code that made a version, with their licences."""
        return await self._http.send(endpoints.version_sbom(name, number))


class Deployments(Resource):
    """What is being served."""

    def list(self, *, limit: int | None = None) -> AsyncIterator[types.Deployment]:
        return self._http.items(endpoints.deployments(), limit)


class Keys(Resource):
    """API keys. The key itself is shown once, when it is made."""

    def list(self, *, limit: int | None = None) -> AsyncIterator[types.ApiKey]:
        return self._http.items(endpoints.keys(), limit)

    async def create(
        self,
        account: str,
        name: str,
        *,
        expires_in_days: int | None = None,
        scopes: Sequence[types.Scope] = (),
        idempotency_key: str | None = None,
    ) -> types.NewApiKey:
        given = {"account": account, "name": name, "expires_in_days": expires_in_days}
        body = checked(types.ApiKeyRequest, {**given, "scopes": list(scopes)})
        return await self._http.send(endpoints.create_key(body), idempotency_key)

    async def revoke(self, key_id: Id) -> types.ApiKey:
        return await self._http.send(endpoints.revoke_key(key_id))


class Audit(Resource):
    """Who did what."""

    def list(
        self,
        *,
        kinds: Sequence[str] = (),
        object: str | None = None,
        actor: str | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[types.AuditEvent]:
        """Newest first.

        Args:
            kinds: Of objects of these kinds alone: `route`, `tier`, …
            object: Of this one, such as `route/support`.
            actor: By this account.
        """
        return self._http.items(endpoints.audit_events(kinds, object, actor), limit)

    async def verify(self) -> types.AuditCheck:
        return await self._http.send(endpoints.verify_audit())

    async def root(self) -> types.AuditRoot:
        """Have a signed root taken of the log as it is now."""
        return await self._http.send(endpoints.audit_root())

    async def lines(self, *, until: int | None = None) -> AsyncIterator[str]:
        """The log as it is exported, a line for each row, from its first row to the one of number `until` or the last."""
        after = 0
        while until is None or after < until:
            found = (await self._http.send(endpoints.audit_lines(after))).lines
            if not found:
                return
            for line in found if until is None else found[: until - after]:
                yield line
            after += len(found)


class Signing(Resource):
    """The keys that sign versions and roots of the audit log."""

    async def list(self) -> Sequence[types.SigningKey]:
        """Every key that ever signed, the oldest first."""
        return (await self._http.send(endpoints.signing_keys())).data

    async def rotate(self, algorithm: str = "ed25519") -> types.SigningKey:
        """Sign with a new key from now on: `ed25519` or `ecdsa-p256`. What the old one signed stays valid."""
        body = checked(types.RotateRequest, {"algorithm": algorithm})
        return await self._http.send(endpoints.rotate_signing_key(body))

    async def revoke(self, key_id: str, reason: str) -> types.SigningKey:
        """What a key signed counts no more: versions that only it vouches for are no longer served."""
        body = checked(types.RevokeRequest, {"reason": reason})
        return await self._http.send(endpoints.revoke_signing_key(key_id, body))


class Chat(Resource):
    """A served model, through the gateway. For more than this use the `openai` package."""

    def stream(
        self, model: str, messages: Sequence[Mapping[str, str]], **options: float | int | str | None
    ) -> AsyncIterator[str]:
        """Pieces of the answer as they are made. `options` go into the request's body; None is left out."""
        given = {name: value for name, value in options.items() if value is not None}
        return self._http.chat({"model": model, "messages": [dict(one) for one in messages], **given})


class AsyncRaymill:
    """A connection to one service.

    Args:
        url, api_key: what is not given comes from the environment, then from the service's home.
        retry: how often to try again, and how long to look for a service that is away.
        transport: a test's stand-in for the network.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        retry: Retry | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._http = AsyncHttp(load_settings(url, api_key), retry or Retry(), transport)
        self.pipelines = Pipelines(self._http)
        self.jobs = Jobs(self._http)
        self.queues = Queues(self._http)
        self.triggers = Triggers(self._http)
        self.hooks = Hooks(self._http)
        self.drift = Drift(self._http)
        self.runs = Runs(self._http)
        self.searches = Searches(self._http)
        self.llms = Llms(self._http)
        self.evaluations = Evaluations(self._http)
        self.code = Code(self._http)
        self.aliases = Aliases(self._http)
        self.datasets = Datasets(self._http)
        self.uploads = Uploads(self._http)
        self.promotions = Promotions(self._http)
        self.policies = Policies(self._http)
        self.environments = Environments(self._http)
        self.deployments = Deployments(self._http)
        self.accounts = Accounts(self._http)
        self.keys = Keys(self._http)
        self.sessions = Sessions(self._http)
        self.passwords = Passwords(self._http)
        self.master_keys = MasterKeys(self._http)
        self.people = People(self._http)
        self.audit = Audit(self._http)
        self.signing = Signing(self._http)
        self.chat = Chat(self._http)
        self.providers = Providers(self._http)
        self.prices = Prices(self._http)
        self.routes = Routes(self._http)
        self.presets = Presets(self._http)
        self.teams = Teams(self._http)
        self.tiers = Tiers(self._http)
        self.budgets = Budgets(self._http)
        self.usage = Usage(self._http)
        self.feedback = FeedbackGiven(self._http)
        self.traces = Traces(self._http)

    @property
    def url(self) -> str:
        return self._http.url

    async def status(self) -> Status:
        return await self._http.send(status_endpoints.status())

    async def close(self) -> None:
        await self._http.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
