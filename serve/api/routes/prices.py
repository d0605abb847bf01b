"""What models cost: the dated table of the repository, and overrides of it."""

from __future__ import annotations

from fastapi import APIRouter
from sqlalchemy import select

from raymill.client import gateway_types as types
from raymill.client.types import Page
from raymill.registry import prices, tables
from raymill.serve.api import gateway_wire as wire
from raymill.serve.api.context import SessionDep, Who
from raymill.serve.api.threads import ThreadRoute

router = APIRouter(prefix="/prices", tags=["prices"], route_class=ThreadRoute)


@router.get("")
def list_(_: Who, opened: SessionDep) -> Page[types.ModelPrice]:
    """The overrides, then what the table says for the providers there are where no override stands."""
    overridden = opened.scalars(
        select(tables.Price).order_by(tables.Price.provider, tables.Price.model)
    ).all()
    found = [wire.override(row) for row in overridden]
    taken = {(row.provider, row.model) for row in overridden}
    as_of, by_preset = prices.price_table()
    for provider in opened.scalars(select(tables.Provider).order_by(tables.Provider.name)):
        for model, price in by_preset.get(provider.preset, {}).items():
            if not {(provider.name, model), (prices.ANY, model)} & taken:
                found.append(wire.price(provider.name, model, price, "table", as_of))
    return Page(data=found)


@router.put("/{provider}/{model:path}")
def set_(
    provider: str, model: str, body: types.PriceRequest, who: Who, opened: SessionDep
) -> types.ModelPrice:
    """Make or replace an override; `*` is any provider, or any model."""
    cached = body.cached_input_micro_usd
    price = prices.Price(
        body.input_micro_usd,
        body.input_micro_usd if cached is None else cached,
        body.output_micro_usd,
        body.max_output_tokens,
    )
    return wire.override(prices.set_price(opened, provider, model, price, who.actor))


@router.delete("/{provider}/{model:path}")
def remove(provider: str, model: str, who: Who, opened: SessionDep) -> types.ModelPrice:
    """Take an override back; the table holds again."""
    return wire.override(prices.remove_price(opened, provider, model, who.actor))
