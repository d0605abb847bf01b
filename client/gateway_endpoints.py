"""The calls of providers, prices, routes and presets as data, used by both clients. Sends nothing."""

from __future__ import annotations

from raymill.client import gateway_types as types
from raymill.client.endpoints import Call, Listing, at

# Providers


def presets_of_providers() -> Listing[types.ProviderPreset]:
    return Listing(path=at("provider-presets"), item=types.ProviderPreset)


def providers() -> Listing[types.Provider]:
    return Listing(path=at("providers"), item=types.Provider)


def provider(name: str) -> Call[types.Provider]:
    return Call(path=at("providers", name), returns=types.Provider)


def add_provider(body: types.ProviderRequest) -> Call[types.Provider]:
    return Call(method="POST", path=at("providers"), body=body, returns=types.Provider, repeatable=False)


def change_provider(name: str, body: types.ProviderChange) -> Call[types.Provider]:
    return Call(method="PATCH", path=at("providers", name), body=body, returns=types.Provider)


def remove_provider(name: str) -> Call[types.Provider]:
    return Call(method="DELETE", path=at("providers", name), returns=types.Provider, repeatable=False)


def test_provider(name: str, key: str | None) -> Call[types.ProviderCheck]:
    return Call(
        method="POST",
        path=at("providers", name, "test"),
        query={"key": key},
        returns=types.ProviderCheck,
        repeatable=False,
    )


def provider_checks(name: str) -> Listing[types.ProviderCheck]:
    return Listing(path=at("providers", name, "checks"), item=types.ProviderCheck)


def sync_provider(name: str) -> Call[types.Sync]:
    return Call(method="POST", path=at("providers", name, "sync"), returns=types.Sync, repeatable=False)


def provider_models(name: str) -> Listing[types.ProviderModel]:
    return Listing(path=at("providers", name, "models"), item=types.ProviderModel)


def provider_keys(name: str) -> Listing[types.ProviderKey]:
    return Listing(path=at("providers", name, "keys"), item=types.ProviderKey)


def set_provider_key(name: str, key: str, body: types.SecretBody) -> Call[types.ProviderKey]:
    path = at("providers", name, "keys", key)
    return Call(method="PUT", path=path, body=body, returns=types.ProviderKey)


def enable_provider_key(name: str, key: str, body: types.Enabled) -> Call[types.ProviderKey]:
    path = at("providers", name, "keys", key)
    return Call(method="PATCH", path=path, body=body, returns=types.ProviderKey)


def remove_provider_key(name: str, key: str) -> Call[types.ProviderKey]:
    path = at("providers", name, "keys", key)
    return Call(method="DELETE", path=path, returns=types.ProviderKey, repeatable=False)


# Prices


def prices() -> Listing[types.ModelPrice]:
    return Listing(path=at("prices"), item=types.ModelPrice)


def set_price(provider: str, model: str, body: types.PriceRequest) -> Call[types.ModelPrice]:
    return Call(method="PUT", path=at("prices", provider, model), body=body, returns=types.ModelPrice)


def remove_price(provider: str, model: str) -> Call[types.ModelPrice]:
    path = at("prices", provider, model)
    return Call(method="DELETE", path=path, returns=types.ModelPrice, repeatable=False)


# Routes and presets


def routes() -> Listing[types.Route]:
    return Listing(path=at("routes"), item=types.Route)


def route(name: str) -> Call[types.Route]:
    return Call(path=at("routes", name), returns=types.Route)


def set_route(name: str, body: types.RouteRequest) -> Call[types.Route]:
    return Call(method="PUT", path=at("routes", name), body=body, returns=types.Route)


def enable_route(name: str, body: types.Enabled) -> Call[types.Route]:
    return Call(method="PATCH", path=at("routes", name), body=body, returns=types.Route)


def remove_route(name: str) -> Call[types.Route]:
    return Call(method="DELETE", path=at("routes", name), returns=types.Route, repeatable=False)


def presets() -> Listing[types.Preset]:
    return Listing(path=at("presets"), item=types.Preset)


def preset(name: str) -> Call[types.Preset]:
    return Call(path=at("presets", name), returns=types.Preset)


def set_preset(name: str, body: types.PresetRequest) -> Call[types.Preset]:
    return Call(method="PUT", path=at("presets", name), body=body, returns=types.Preset)


def remove_preset(name: str) -> Call[types.Preset]:
    return Call(method="DELETE", path=at("presets", name), returns=types.Preset, repeatable=False)
