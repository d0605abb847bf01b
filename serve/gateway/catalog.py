"""What can answer: providers with their keys, routes with their targets, presets, and our served versions.

Frozen and resolved: what a request needs of a target (address, headers, price) is made when the
configuration is read, not for each request. Knows no database and no HTTP.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from raymill.registry.provider_settings import ProviderSettings
from raymill.serve.gateway import config
from raymill.serve.gateway.config import OURS, RouteConfig
from raymill.serve.gateway.http_client import Address
from raymill.serve.gateway.money import Price
from raymill.serve.llm.config import Routing

PRODUCTION = "production"
FREE = Price(0, 0, 0, None)
"""Of our own versions, unless an override says otherwise."""

WireName = Literal["openai", "anthropic", "gemini", "ours"]


@dataclass(frozen=True, kw_only=True)
class ProviderSecret:
    """A key of a provider, opened. Lives in memory only."""

    id: str
    name: str
    value: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Provider:
    name: str
    wire: WireName
    base_url: str
    settings: ProviderSettings
    secrets: tuple[ProviderSecret, ...] = ()
    models: tuple[str, ...] = ()
    """What it said it has."""

    price_of: Callable[[str], Price | None] = field(default=lambda _: None, repr=False, compare=False)
    """Of one of its models; None when nobody knows."""

    @cached_property
    def address(self) -> Address:
        return Address.of(self.base_url)

    @cached_property
    def heads(self) -> dict[str, bytes]:
        """Header lines by the key's id, empty for none; made when a key is first used."""
        return {}


@dataclass(frozen=True, kw_only=True)
class Served:
    """One version that is deployed and ready, and the aliases that point to it."""

    name: str
    version: int
    application: str
    """Name of its Serve application (`DeploySpec.application`)."""

    wake_s: float | None = None
    """Longest wait for a first replica, where there may be none; None: there always is one."""

    aliases: tuple[str, ...] = ()
    created: int = 0
    """Unix seconds, for /v1/models."""

    price: Price = FREE
    canary: Canary | None = None
    """Of the aliases: who answers a share of their requests. A request for the exact name never meets it."""

    routing: Routing = "prefix"
    """How a replica is chosen."""

    take_s: float | None = None
    """Within which a replica must take a request, or another target is asked. None: it waits, for a lost one comes back."""

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
class Target:
    """One that can answer: a model of a provider, or a version of ours."""

    model: str
    provider: Provider | None = None
    served: Served | None = None
    price: Price | None = None
    """None when nobody knows it."""

    weight: int = 1
    order: int = 0
    when: config.When = field(default_factory=config.When)
    canary: Canary | None = None
    """Who answers a share of its requests; of aliases of ours alone."""

    @cached_property
    def id(self) -> str:
        """provider/model, as logs, metrics and answers name it."""
        return f"{self.provider_name}/{self.model}"

    @property
    def provider_name(self) -> str:
        return self.provider.name if self.provider is not None else OURS

    @property
    def wire(self) -> WireName:
        return self.provider.wire if self.provider else "ours"


@dataclass(frozen=True, kw_only=True)
class Canary:
    """A version that takes a share of the requests for an alias (`split`)."""

    id: uuid.UUID
    """Of its promotion."""

    target: Target
    share: float


@dataclass(frozen=True, kw_only=True)
class Route:
    """A name, and who answers for it."""

    name: str
    targets: tuple[Target, ...]
    config: RouteConfig
    created: int = 0
    owned_by: str = "raymill"
    served_version: str | None = None

    @cached_property
    def has_canary(self) -> bool:
        return any(target.canary is not None for target in self.targets)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A persona: defaults of a request under a name of its own."""

    name: str
    model: str
    system: str
    params: dict[str, Any]
    created: int = 0


def served_target(name: str, served: Served) -> Target:
    """What one of a served version's names stands for."""
    canary = served.canary if name != served.exact_name else None
    return Target(model=served.exact_name, served=served, price=served.price, canary=canary)


def served_route(name: str, served: Served) -> Route:
    """The route that a served version's name is."""
    target = served_target(name, served)
    plain = RouteConfig(targets=(config.Target(provider=OURS, model=served.exact_name),))
    # One try: the engine's own queue is the place to wait, and a lost replica comes back by itself.
    once = plain.model_copy(update={"retries": config.Retries(attempts=1)})
    return Route(
        name=name, targets=(target,), config=once, created=served.created, served_version=served.exact_name
    )


def direct_route(provider: Provider, model: str) -> Route:
    """The route that `provider/model` is."""
    target = Target(model=model, provider=provider, price=provider.price_of(model))
    plain = RouteConfig(targets=(config.Target(provider=provider.name, model=model),))
    return Route(name=f"{provider.name}/{model}", targets=(target,), config=plain, owned_by=provider.name)


def with_weight(target: Target, wanted: config.Target) -> Target:
    """`target` as a route's configuration names it."""
    return replace(target, weight=wanted.weight, order=wanted.order, when=wanted.when)
