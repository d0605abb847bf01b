"""Prices: which entry holds for a model, and what an admin may override."""

from __future__ import annotations

import datetime as dt

import pytest
from sqlalchemy import select
from tests.registry.making import ADA

from raymill.policies.errors import Invalid, NotFound
from raymill.registry import prices, providers
from raymill.registry.database import Database
from raymill.registry.prices import Price, find_price, price_of
from raymill.registry.provider_settings import presets
from raymill.registry.tables import AuditEvent

CHEAP = Price(1, 1, 2)
DEAR = Price(10, 5, 20, 4096)


def test_the_table_is_dated_and_speaks_of_presets_there_are() -> None:
    as_of, by_preset = prices.price_table()
    assert as_of > dt.date(2026, 1, 1)
    assert set(by_preset) <= set(presets())
    for models in by_preset.values():
        for name, price in models.items():
            assert 0 <= price.cached_input <= price.input <= prices.MAX_MICRO_USD, name
            assert 0 <= price.output <= prices.MAX_MICRO_USD, name


def test_a_price_is_micro_dollars_for_a_million_tokens() -> None:
    assert price_of({}, "openai", "openai", "gpt-4o") == Price(2_500_000, 1_250_000, 10_000_000, 16_384)


@pytest.mark.parametrize(
    ("model", "entry"),
    [
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("gpt-4o-2024-05-13", "gpt-4o-2024-05-13"),  # was dearer, and has an entry of its own
        ("gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
        ("gpt-4o-0806", "gpt-4o"),
        ("gpt-4o-mini", "gpt-4o-mini"),
    ],
)
def test_a_dated_model_costs_what_its_undated_name_does_unless_it_is_listed(model: str, entry: str) -> None:
    found = find_price({}, "openai", "openai", model)
    assert found is not None
    assert (found.source, found.model) == ("table", entry)


@pytest.mark.parametrize("model", ["gpt-4o-audio-preview", "gpt-4", "gpt-4o-latest", "", "-2024-08-06"])
def test_a_model_that_is_not_listed_has_no_price(model: str) -> None:
    assert price_of({}, "openai", "openai", model) is None


def test_own_machines_cost_nothing_and_unknown_presets_have_no_price() -> None:
    assert price_of({}, "box", "vllm", "whatever") == Price(0, 0, 0)
    assert price_of({}, "x", "openai-compatible", "whatever") is None


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({("openai", "gpt-4o"): CHEAP, ("*", "gpt-4o"): DEAR}, CHEAP),
        ({("*", "gpt-4o"): DEAR}, DEAR),
        ({("other", "gpt-4o"): DEAR}, Price(2_500_000, 1_250_000, 10_000_000, 16_384)),
        ({("openai", "*"): CHEAP}, Price(2_500_000, 1_250_000, 10_000_000, 16_384)),
    ],
)
def test_the_nearest_entry_wins(overrides: dict[tuple[str, str], Price], expected: Price) -> None:
    assert price_of(overrides, "openai", "openai", "gpt-4o-2024-08-06") == expected


def test_an_override_for_any_model_fills_what_the_table_lacks() -> None:
    assert price_of({("openai", "*"): DEAR}, "openai", "openai", "new-model") == DEAR
    assert price_of({("*", "*"): CHEAP}, "x", "openai-compatible", "new-model") == CHEAP


# --- overrides --------------------------------------------------------------------------------------------


def test_an_override_is_set_replaced_and_taken_back(database: Database) -> None:
    with database.transaction() as session:
        providers.add(session, "openai", ADA, preset="openai")
        assert prices.set_price(session, "openai", "gpt-4o", CHEAP, ADA).input_micro_usd == 1
        assert prices.set_price(session, "openai", "gpt-4o", DEAR, ADA).max_output_tokens == 4096
        prices.set_price(session, "*", "org/model", CHEAP, ADA)
        prices.set_price(session, "raymill", "support-triage", CHEAP, ADA)
    with database.transaction() as session:
        assert prices.overrides(session) == {
            ("openai", "gpt-4o"): DEAR,
            ("*", "org/model"): CHEAP,
            ("raymill", "support-triage"): CHEAP,
        }
        prices.remove_price(session, "openai", "gpt-4o", ADA)
    with database.transaction() as session:
        assert ("openai", "gpt-4o") not in prices.overrides(session)
        actions = session.scalars(select(AuditEvent.action).order_by(AuditEvent.seq)).all()
    assert actions == ["provider.add", *["price.set"] * 4, "price.remove"]


def test_what_cannot_be_priced_is_told(database: Database) -> None:
    with database.transaction() as session:
        with pytest.raises(NotFound, match="no provider 'nobody': `raymill provider list`"):
            prices.set_price(session, "nobody", "m", CHEAP, ADA)
        with pytest.raises(NotFound, match="no override for 'm' of 'openai': `raymill price list`"):
            prices.remove_price(session, "openai", "m", ADA)
        with pytest.raises(Invalid, match="input is -1 micro-dollars: give 0 to"):
            prices.set_price(session, "*", "m", Price(-1, 0, 0), ADA)
        with pytest.raises(Invalid, match="model has 201 characters"):
            prices.set_price(session, "*", "m" * 201, CHEAP, ADA)
