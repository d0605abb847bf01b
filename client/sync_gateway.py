"""Resources of the blocking client for the gateway: providers, prices, routes, presets."""

from __future__ import annotations

from collections.abc import Iterator

from raymill.client import gateway_endpoints as endpoints
from raymill.client import gateway_types as types
from raymill.client.http import Http
from raymill.client.types import JsonObject
from raymill.client.validation import checked


class GatewayResource:
    def __init__(self, http: Http) -> None:
        self._http = http


class ProviderKeys(GatewayResource):
    """Keys of a provider. A secret goes in and never comes out again."""

    def list(self, provider: str) -> Iterator[types.ProviderKey]:
        return self._http.items(endpoints.provider_keys(provider))

    def set(self, provider: str, key: str, secret: str) -> types.ProviderKey:
        """Add a key, or put another secret in its place."""
        return self._http.send(endpoints.set_provider_key(provider, key, secret_body(secret)))

    def enable(self, provider: str, key: str, *, enabled: bool = True) -> types.ProviderKey:
        body = types.Enabled(enabled=enabled)
        return self._http.send(endpoints.enable_provider_key(provider, key, body))

    def remove(self, provider: str, key: str) -> types.ProviderKey:
        return self._http.send(endpoints.remove_provider_key(provider, key))


class Providers(GatewayResource):
    """Outside services that answer for models."""

    def __init__(self, http: Http) -> None:
        super().__init__(http)
        self.keys = ProviderKeys(http)

    def presets(self) -> Iterator[types.ProviderPreset]:
        """The ones that the gateway knows how to speak to."""
        return self._http.items(endpoints.presets_of_providers())

    def list(self, *, limit: int | None = None) -> Iterator[types.Provider]:
        return self._http.items(endpoints.providers(), limit)

    def get(self, name: str) -> types.Provider:
        return self._http.send(endpoints.provider(name))

    def add(
        self,
        preset: str,
        *,
        name: str | None = None,
        base_url: str | None = None,
        settings: JsonObject | None = None,
        enabled: bool = True,
    ) -> types.Provider:
        """A new provider, without a key. `settings` is merged into the preset's."""
        data = {"preset": preset, "name": name, "base_url": base_url, "settings": settings or {}}
        body = checked(types.ProviderRequest, {**data, "enabled": enabled})
        return self._http.send(endpoints.add_provider(body))

    def change(
        self,
        name: str,
        *,
        base_url: str | None = None,
        settings: JsonObject | None = None,
        enabled: bool | None = None,
    ) -> types.Provider:
        """Change what is given. `settings` is merged into those it has; null removes."""
        data = {"base_url": base_url, "settings": settings, "enabled": enabled}
        return self._http.send(endpoints.change_provider(name, checked(types.ProviderChange, data)))

    def remove(self, name: str) -> types.Provider:
        return self._http.send(endpoints.remove_provider(name))

    def test(self, name: str, *, key: str | None = None) -> types.ProviderCheck:
        """Ask it now, with its oldest enabled key or the named one. That it does not answer is an answer too."""
        return self._http.send(endpoints.test_provider(name, key))

    def checks(self, name: str, *, limit: int | None = None) -> Iterator[types.ProviderCheck]:
        """Its health history."""
        return self._http.items(endpoints.provider_checks(name), limit)

    def sync(self, name: str) -> types.Sync:
        """Read its list of models, and keep it."""
        return self._http.send(endpoints.sync_provider(name))

    def models(self, name: str, *, limit: int | None = None) -> Iterator[types.ProviderModel]:
        """What it said it has at the last sync, with prices."""
        return self._http.items(endpoints.provider_models(name), limit)


class Prices(GatewayResource):
    """What models cost: the dated table, and overrides of it."""

    def list(self) -> Iterator[types.ModelPrice]:
        """The prices that hold for the providers there are."""
        return self._http.items(endpoints.prices())

    def set(
        self,
        provider: str,
        model: str,
        *,
        input_micro_usd: int,
        output_micro_usd: int,
        cached_input_micro_usd: int | None = None,
        max_output_tokens: int | None = None,
    ) -> types.ModelPrice:
        """Micro-dollars per 1,000,000 tokens; `*` is any provider, or any model."""
        data = {
            "input_micro_usd": input_micro_usd,
            "output_micro_usd": output_micro_usd,
            "cached_input_micro_usd": cached_input_micro_usd,
            "max_output_tokens": max_output_tokens,
        }
        return self._http.send(endpoints.set_price(provider, model, checked(types.PriceRequest, data)))

    def remove(self, provider: str, model: str) -> types.ModelPrice:
        """Take an override back."""
        return self._http.send(endpoints.remove_price(provider, model))


class Routes(GatewayResource):
    """Model names of ours, and who answers for them."""

    def list(self, *, limit: int | None = None) -> Iterator[types.Route]:
        return self._http.items(endpoints.routes(), limit)

    def get(self, name: str) -> types.Route:
        return self._http.send(endpoints.route(name))

    def set(self, name: str, config: JsonObject) -> types.Route:
        """Make a route or put another configuration in its place (`serve/gateway/config.py` says what it holds)."""
        return self._http.send(endpoints.set_route(name, types.RouteRequest(config=config)))

    def enable(self, name: str, *, enabled: bool = True) -> types.Route:
        return self._http.send(endpoints.enable_route(name, types.Enabled(enabled=enabled)))

    def remove(self, name: str) -> types.Route:
        return self._http.send(endpoints.remove_route(name))


class Presets(GatewayResource):
    """Personas: a system prompt with a model and parameters, usable as a model name."""

    def list(self, *, limit: int | None = None) -> Iterator[types.Preset]:
        return self._http.items(endpoints.presets(), limit)

    def get(self, name: str) -> types.Preset:
        return self._http.send(endpoints.preset(name))

    def set(self, name: str, *, model: str, system: str, params: JsonObject | None = None) -> types.Preset:
        data = {"model": model, "system": system, "params": params or {}}
        return self._http.send(endpoints.set_preset(name, checked(types.PresetRequest, data)))

    def remove(self, name: str) -> types.Preset:
        return self._http.send(endpoints.remove_preset(name))


def secret_body(secret: str) -> types.SecretBody:
    return types.SecretBody.model_validate({"secret": secret})
