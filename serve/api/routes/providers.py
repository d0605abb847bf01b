"""Providers and their keys: how outside models are reached, and how the providers fare."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from sqlalchemy import select
from sqlalchemy.orm import Session

from raymill.client import gateway_types as types
from raymill.client.types import Page
from raymill.client.validation import checked
from raymill.policies.errors import Conflict, Unavailable
from raymill.registry import prices, provider_keys, providers, tables
from raymill.registry.provider_settings import ProviderSettings, merge_patch, presets
from raymill.registry.secrets import SecretBox
from raymill.serve.api import gateway_wire as wire
from raymill.serve.api.context import Parts, PartsDep, SessionDep, Who
from raymill.serve.api.paging import Cursor, Limit, page
from raymill.serve.api.threads import ThreadRoute
from raymill.serve.gateway import probe

router = APIRouter(tags=["providers"], route_class=ThreadRoute)


@router.get("/provider-presets")
def provider_presets(_: Who) -> Page[types.ProviderPreset]:
    """Providers that the gateway knows how to speak to."""
    return Page(data=[wire.provider_preset(name, preset) for name, preset in presets().items()])


@router.get("/providers")
def list_(_: Who, opened: SessionDep, limit: Limit = 50, cursor: Cursor = None) -> Page[types.Provider]:
    """Newest first."""
    return page(
        opened,
        select(tables.Provider),
        tables.Provider.id,
        lambda row: wire.provider(opened, row),
        limit=limit,
        cursor=cursor,
    )


@router.post("/providers", status_code=201)
def add(body: types.ProviderRequest, who: Who, opened: SessionDep) -> types.Provider:
    """A new provider, without a key."""
    known = providers.preset_of(body.preset).settings.model_dump(mode="json")
    row = providers.add(
        opened,
        body.name or body.preset,
        who.actor,
        preset=body.preset,
        base_url=body.base_url,
        settings=checked(ProviderSettings, merge_patch(known, body.settings)),
        enabled=body.enabled,
    )
    opened.refresh(row)
    return wire.provider(opened, row)


@router.get("/providers/{name}")
def get(name: str, _: Who, opened: SessionDep) -> types.Provider:
    """One provider with its keys, which stay secret."""
    return wire.provider(opened, providers.find(opened, name))


@router.patch("/providers/{name}")
def change(name: str, body: types.ProviderChange, who: Who, opened: SessionDep) -> types.Provider:
    """Change its address, its settings, or whether it is used."""
    settings = None
    if body.settings is not None:
        row = providers.find(opened, name, lock=True)
        settings = checked(ProviderSettings, merge_patch(row.settings, body.settings))
    row = providers.change(
        opened, name, who.actor, base_url=body.base_url, settings=settings, enabled=body.enabled
    )
    return wire.provider(opened, row)


@router.delete("/providers/{name}")
def remove(name: str, who: Who, opened: SessionDep) -> types.Provider:
    """With its keys, models, checks and prices. 409 while a route sends requests to it."""
    found = wire.provider(opened, providers.find(opened, name, lock=True))
    providers.remove(opened, name, who.actor)
    return found


@router.post("/providers/{name}/test")
def ask(
    name: str,
    _: Who,
    opened: SessionDep,
    found: PartsDep,
    key: Annotated[str | None, Query(max_length=64, description="The oldest enabled one by default.")] = None,
) -> types.ProviderCheck:
    """Ask it now, and keep what came of it. That it does not answer is an answer too."""
    row = providers.find(opened, name)
    probed = _probed(opened, found.settings.secret_box, row, key)
    opened.commit()  # gives the connection back: the provider may take its time
    return _recorded(found, row, probe.check(probed))


@router.get("/providers/{name}/checks")
def checks(
    name: str, _: Who, opened: SessionDep, limit: Limit = 50, cursor: Cursor = None
) -> Page[types.ProviderCheck]:
    """What tests found, newest first."""
    row = providers.find(opened, name)
    rows = select(tables.ProviderCheck).where(tables.ProviderCheck.provider_id == row.id)
    return page(opened, rows, tables.ProviderCheck.id, wire.check, limit=limit, cursor=cursor)


@router.post("/providers/{name}/sync")
def sync(name: str, who: Who, opened: SessionDep, found: PartsDep) -> types.Sync:
    """Read its list of models, and keep it. When it does not answer, the models that are known stay."""
    row = providers.find(opened, name)
    probed = _probed(opened, found.settings.secret_box, row, None)
    opened.commit()
    finding = probe.list_models(probed)
    recorded = _recorded(found, row, finding)
    if not finding.ok:
        away = finding.status is None or finding.status == 429 or finding.status >= 500
        raise (Unavailable if away else Conflict)(f"{name} gave no list of models: {finding.message}")
    with found.database.transaction() as after:
        models = providers.sync_models(after, name, finding.models, who.actor)
    return types.Sync(check=recorded, models=models)


@router.get("/providers/{name}/models")
def models(name: str, _: Who, opened: SessionDep) -> Page[types.ProviderModel]:
    """What it said it has at the last sync, and the entry that prices each."""
    row = providers.find(opened, name)
    overridden = {(each.provider, each.model): each for each in opened.scalars(select(tables.Price))}
    overrides = {key: prices.price_in(each) for key, each in overridden.items()}
    rows = select(tables.ProviderModel).where(tables.ProviderModel.provider_id == row.id)
    data = []
    for each in opened.scalars(rows.order_by(tables.ProviderModel.model)):
        found = prices.find_price(overrides, row.name, row.preset, each.model)
        price = None
        if found is not None and found.source == "override":
            price = wire.override(overridden[found.provider, found.model])
        elif found is not None:
            as_of = prices.price_table().as_of
            price = wire.price(row.name, found.model, found.price, found.source, as_of)
        data.append(types.ProviderModel(model=each.model, seen_at=each.seen_at, price=price))
    return Page(data=data)


@router.get("/providers/{name}/keys")
def keys(name: str, _: Who, opened: SessionDep) -> Page[types.ProviderKey]:
    """Oldest first, which is the order of their use; the secrets are not shown."""
    row = providers.find(opened, name)
    rows = select(tables.ProviderKey).where(tables.ProviderKey.provider_id == row.id)
    found = opened.scalars(rows.order_by(tables.ProviderKey.id))
    return Page(data=[wire.provider_key(each) for each in found])


@router.put("/providers/{name}/keys/{key}")
def set_key(
    name: str, key: str, body: types.SecretBody, who: Who, opened: SessionDep, found: PartsDep
) -> types.ProviderKey:
    """Add a key, or put another secret in its place. The secret is not in any answer."""
    secret = body.secret.get_secret_value()
    return wire.provider_key(
        provider_keys.set_key(opened, found.settings.secret_box, name, key, secret, who.actor)
    )


@router.patch("/providers/{name}/keys/{key}")
def enable_key(name: str, key: str, body: types.Enabled, who: Who, opened: SessionDep) -> types.ProviderKey:
    """Use it or leave it alone."""
    row = provider_keys.enable_key(opened, name, key, who.actor, enabled=body.enabled)
    return wire.provider_key(row)


@router.delete("/providers/{name}/keys/{key}")
def remove_key(name: str, key: str, who: Who, opened: SessionDep) -> types.ProviderKey:
    """The secret is gone from here; revoke it at the provider too."""
    return wire.provider_key(provider_keys.remove_key(opened, name, key, who.actor))


def _probed(opened: Session, box: SecretBox, row: tables.Provider, key: str | None) -> probe.Probed:
    return probe.Probed(
        wire=row.wire.value,
        base_url=row.base_url,
        settings=providers.settings_of(row),
        secret=provider_keys.secret_to_use(opened, box, row, key),
    )


def _recorded(found: Parts, row: tables.Provider, finding: probe.Finding) -> types.ProviderCheck:
    with found.database.transaction() as after:
        recorded = providers.record_check(
            after,
            row.id,
            ok=finding.ok,
            status=finding.status,
            latency_ms=finding.latency_ms,
            message=finding.message,
        )
        after.refresh(recorded)
        return wire.check(recorded)
