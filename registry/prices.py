"""What tokens cost: the dated table of the repository, and the overrides that an admin has set.

Money is micro-dollars (1 USD = 1,000,000); prices are micro-dollars per 1,000,000 tokens. Knows what a token
costs, not what a request did.
"""

from __future__ import annotations

import datetime as dt
import re
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from raymill.policies.errors import Invalid, NotFound
from raymill.registry import audit, tables
from raymill.registry.audit import Actor
from raymill.registry.gateway_config import tell_gateways
from raymill.registry.provider_settings import OURS

ANY = "*"
"""Any provider, or any model."""

MAX_MICRO_USD = 1_000_000_000_000
DATE_SUFFIX = re.compile(r"-(?:\d{4}-\d{2}-\d{2}|\d{2}-\d{4}|\d{8}|\d{6}|\d{4})$")


class Price(NamedTuple):
    """Micro-dollars per 1,000,000 tokens: 2.50 USD is 2_500_000."""

    input: int
    cached_input: int
    output: int
    max_output_tokens: int | None = None
    """The longest answer that the model gives. None: not known."""


Source: TypeAlias = Literal["override", "table"]
Overrides: TypeAlias = Mapping[tuple[str, str], Price]
"""By provider's name, or `*`, and model, or `*`."""


class PriceTable(NamedTuple):
    """`prices.toml`."""

    as_of: dt.date
    """When it was last looked over."""

    by_preset: Mapping[str, Mapping[str, Price]]


class Found(NamedTuple):
    """A price, and why it is this one."""

    price: Price
    source: Source
    provider: str
    """Whose entry it is: the provider's, or `*`."""

    model: str
    """The entry's own name: the model, its name without a date, or `*`."""


@cache
def price_table() -> PriceTable:
    text = Path(__file__).with_name("prices.toml").read_text(encoding="utf-8")
    entries = tomllib.loads(text)
    as_of = dt.date.fromisoformat(entries.pop("as_of"))
    by_preset = {
        preset: {model: Price(**entry) for model, entry in models.items()}
        for preset, models in entries.items()
    }
    return PriceTable(as_of, by_preset)


def price_of(overrides: Overrides, provider: str, preset: str, model: str) -> Price | None:
    """What a model of a provider costs; None when nobody knows."""
    found = find_price(overrides, provider, preset, model)
    return found.price if found else None


def find_price(overrides: Overrides, provider: str, preset: str, model: str) -> Found | None:
    """As `price_of`, and where the price comes from.

    The exact name wins over the one without its date, and that over `*`. For the same name an override for
    the provider wins over one for any provider, and that over the table.
    """
    table = price_table().by_preset.get(preset, {})
    for name in _names(model):
        for owner in (provider, ANY):
            if (owner, name) in overrides:
                return Found(overrides[owner, name], "override", owner, name)
        if name in table:
            return Found(table[name], "table", provider, name)
    return None


def _names(model: str) -> Iterator[str]:
    """What an entry for `model` may be called, best first."""
    yield model
    shorter = DATE_SUFFIX.sub("", model)
    if shorter and shorter != model:
        yield shorter
    yield ANY


def overrides(session: Session) -> dict[tuple[str, str], Price]:
    """Every override."""
    return {(row.provider, row.model): price_in(row) for row in session.scalars(select(tables.Price))}


def price_in(row: tables.Price) -> Price:
    return Price(row.input_micro_usd, row.cached_input_micro_usd, row.output_micro_usd, row.max_output_tokens)


def _told(price: Price) -> dict[str, int | None]:
    """By the names of the columns."""
    return {
        "input_micro_usd": price.input,
        "cached_input_micro_usd": price.cached_input,
        "output_micro_usd": price.output,
        "max_output_tokens": price.max_output_tokens,
    }


def set_price(session: Session, provider: str, model: str, price: Price, actor: Actor) -> tables.Price:
    """Make or replace an override.

    Raises:
        NotFound: no provider is called so.
        Invalid: an amount is negative, or nobody would ask for it.
    """
    _known(session, provider)
    if not model or len(model) > 200:
        raise Invalid(f"model has {len(model)} characters: give 1 to 200", param="model")
    for field in ("input", "cached_input", "output"):
        amount = getattr(price, field)
        if not 0 <= amount <= MAX_MICRO_USD:
            raise Invalid(f"{field} is {amount} micro-dollars: give 0 to {MAX_MICRO_USD}", param=field)
    values = _told(price)
    updated = {**values, "updated_at": dt.datetime.now(dt.UTC)}
    known = session.get(tables.Price, (provider, model), with_for_update=True)
    before = None if known is None else _told(price_in(known))
    session.execute(
        insert(tables.Price)
        .values(provider=provider, model=model, **updated)
        .on_conflict_do_update(index_elements=["provider", "model"], set_=updated)
    )
    audit.record(session, actor, "price.set", f"price/{provider}/{model}", before=before, after=values)
    tell_gateways(session)
    return session.get_one(tables.Price, (provider, model), populate_existing=True)


def remove_price(session: Session, provider: str, model: str, actor: Actor) -> tables.Price:
    """Take an override back; the table holds again."""
    row = session.get(tables.Price, (provider, model), with_for_update=True)
    if row is None:
        raise NotFound(
            f"no override for {model!r} of {provider!r}: `raymill price list` shows the ones there are"
        )
    session.delete(row)
    before = _told(price_in(row))
    audit.record(session, actor, "price.remove", f"price/{provider}/{model}", before=before)
    tell_gateways(session)
    return row


def _known(session: Session, provider: str) -> None:
    if provider in {ANY, OURS}:
        return
    # Locked, so that it is not removed, and its prices with it, before this commits.
    row = select(tables.Provider.id).where(tables.Provider.name == provider)
    if session.scalar(row.with_for_update(key_share=True, read=True)) is None:
        raise NotFound(f"no provider {provider!r}: `raymill provider list` shows the ones there are")
