"""The wire types of providers, prices, routes and presets. Money is integer micro-dollars (1 USD = 1,000,000).

A provider's secret appears in one type only, the one that sends it.
"""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_serializer

from raymill.client.types import JsonObject, Wire

WireName = Literal["openai", "anthropic", "gemini"]


class Body(BaseModel):
    """What is sent: a key that does not exist is an error."""

    model_config = ConfigDict(extra="forbid")


class ProviderPreset(Wire):
    """A provider that the gateway knows how to speak to."""

    name: str
    wire: WireName
    base_url: str | None
    """Null: everybody has an address of their own, so it must be given."""
    settings: JsonObject


class ProviderCheck(Wire):
    """One test of a provider."""

    id: uuid.UUID
    ok: bool
    status: int | None
    """HTTP status; null when there was no answer."""
    latency_ms: float
    message: str
    at: dt.datetime


class ProviderKey(Wire):
    """A key without its secret."""

    name: str
    hint: str
    """Its last characters, when it is long enough to show some."""
    enabled: bool
    master_key: str
    """Id of the master key that it is sealed with."""
    created_at: dt.datetime
    rotated_at: dt.datetime | None


class Provider(Wire):
    """An outside service that answers for models."""

    id: uuid.UUID
    name: str
    preset: str
    wire: WireName
    base_url: str
    settings: JsonObject
    enabled: bool
    keys: list[ProviderKey]
    models: int
    """How many it said it has."""
    last_check: ProviderCheck | None
    created_at: dt.datetime


class ProviderRequest(Body):
    """Body of `POST /api/v1/providers`."""

    preset: str = Field(max_length=32)
    name: str | None = Field(default=None, max_length=64)
    """The preset's name by default."""
    base_url: str | None = None
    """The preset's by default."""
    settings: JsonObject = Field(default_factory=dict)
    """A JSON merge patch (RFC 7396) of the preset's settings."""
    enabled: bool = True


class ProviderChange(Body):
    """Body of `PATCH /api/v1/providers/{name}`. What is null stays."""

    base_url: str | None = None
    settings: JsonObject | None = None
    """A JSON merge patch (RFC 7396) of the settings it has."""
    enabled: bool | None = None


class SecretBody(Body):
    """Body of `PUT /api/v1/providers/{name}/keys/{key}`."""

    secret: SecretStr

    @field_serializer("secret", when_used="json")
    def _sent_in_clear(self, secret: SecretStr) -> str:
        # Printed and logged as asterisks, but what goes over the wire must be the secret.
        return secret.get_secret_value()


class Enabled(Body):
    """Body of the PATCH of a key or a route."""

    enabled: bool


class ModelPrice(Wire):
    """What a model costs, per 1,000,000 tokens."""

    provider: str
    """Its name; `*` for any."""
    model: str
    """`*` for any."""
    input_micro_usd: int
    cached_input_micro_usd: int
    output_micro_usd: int
    max_output_tokens: int | None
    source: Literal["override", "table"]
    as_of: dt.date
    """Of the table, or when the override was set."""


class PriceRequest(Body):
    """Body of `PUT /api/v1/prices/{provider}/{model}`."""

    input_micro_usd: int = Field(ge=0, le=1_000_000_000_000)
    output_micro_usd: int = Field(ge=0, le=1_000_000_000_000)
    cached_input_micro_usd: int | None = Field(default=None, ge=0, le=1_000_000_000_000)
    """As for other input by default."""
    max_output_tokens: int | None = Field(default=None, ge=1, le=1_000_000_000)


class ProviderModel(Wire):
    """A model that a provider said it has."""

    model: str
    seen_at: dt.datetime
    price: ModelPrice | None
    """Null: nobody knows it."""


class Sync(Wire):
    """What `POST /api/v1/providers/{name}/sync` found."""

    check: ProviderCheck
    models: list[str]


class Route(Wire):
    """A model name of ours, and who answers for it."""

    id: uuid.UUID
    name: str
    config: JsonObject
    enabled: bool
    created_at: dt.datetime


class RouteRequest(Body):
    """Body of `PUT /api/v1/routes/{name}`."""

    config: JsonObject
    """A RouteConfig: targets, strategy, timeouts and so on; the defaults may be left out."""


class Preset(Wire):
    """A persona: a system prompt with a model and parameters, usable as a model name."""

    id: uuid.UUID
    name: str
    model: str
    system: str
    params: JsonObject
    created_at: dt.datetime


class PresetRequest(Body):
    """Body of `PUT /api/v1/presets/{name}`."""

    model: str = Field(min_length=1, max_length=200)
    system: str = Field(max_length=100_000)
    params: JsonObject = Field(default_factory=dict)
    """Defaults of the request, such as temperature."""
