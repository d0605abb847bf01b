"""From rows of the gateway's configuration to wire types. A secret has no way through here."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from raymill.client import gateway_types as wire
from raymill.registry import prices, tables
from raymill.registry.provider_settings import ProviderPreset
from raymill.registry.secrets import master_key_id


def provider_preset(name: str, preset: ProviderPreset) -> wire.ProviderPreset:
    return wire.ProviderPreset(
        name=name,
        wire=preset.wire,
        base_url=preset.base_url,
        settings=preset.settings.model_dump(mode="json"),
    )


def provider(opened: Session, row: tables.Provider) -> wire.Provider:
    keys = opened.scalars(
        select(tables.ProviderKey)
        .where(tables.ProviderKey.provider_id == row.id)
        .order_by(tables.ProviderKey.id)
    )
    models = select(func.count()).where(tables.ProviderModel.provider_id == row.id)
    last = opened.scalar(
        select(tables.ProviderCheck)
        .where(tables.ProviderCheck.provider_id == row.id)
        .order_by(tables.ProviderCheck.id.desc())
        .limit(1)
    )
    return wire.Provider(
        id=row.id,
        name=row.name,
        preset=row.preset,
        wire=row.wire.value,
        base_url=row.base_url,
        settings=row.settings,
        enabled=row.enabled,
        keys=[provider_key(each) for each in keys],
        models=opened.scalar(models) or 0,
        last_check=check(last) if last else None,
        created_at=row.created_at,
    )


def provider_key(row: tables.ProviderKey) -> wire.ProviderKey:
    return wire.ProviderKey(
        name=row.name,
        hint=row.hint,
        enabled=row.enabled,
        master_key=master_key_id(row.sealed),
        created_at=row.created_at,
        rotated_at=row.rotated_at,
    )


def check(row: tables.ProviderCheck) -> wire.ProviderCheck:
    return wire.ProviderCheck.model_validate(row, from_attributes=True)


def override(row: tables.Price) -> wire.ModelPrice:
    return price(row.provider, row.model, prices.price_in(row), "override", row.updated_at.date())


def price(
    provider: str, model: str, found: prices.Price, source: prices.Source, as_of: dt.date
) -> wire.ModelPrice:
    return wire.ModelPrice(
        provider=provider,
        model=model,
        input_micro_usd=found.input,
        cached_input_micro_usd=found.cached_input,
        output_micro_usd=found.output,
        max_output_tokens=found.max_output_tokens,
        source=source,
        as_of=as_of,
    )


def route(row: tables.Route) -> wire.Route:
    return wire.Route.model_validate(row, from_attributes=True)


def preset(row: tables.Preset) -> wire.Preset:
    return wire.Preset.model_validate(row, from_attributes=True)
