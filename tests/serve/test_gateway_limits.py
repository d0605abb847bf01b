"""Limits and budgets at the gateway's edge, leased from a real Postgres: what is refused, and how it is told."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import httpx
import openai
import pytest
from tests.serve.gateway_lab import CHAT, Account, Lab, Metered, StandingClock, copy_of, lab
from tests.serve.gateway_tools import ADA, leave, provider, route
from tests.serve.scripted_upstream import Script, answer, error, says, scripted, stall
from tests.serve.scripted_wires import breaks, hangs, speaks
from tests.waiting import eventually

from raymill.registry.database import Database
from raymill.serve.gateway.limits import Limit, Window
from raymill.serve.gateway.meters import Meters
from raymill.serve.gateway.money import Price
from raymill.serve.gateway.snapshot import Caller, Snapshot, StaticSource, digest_of
from raymill.serve.gateway.wires.usage import prompt_tokens_bound

PRICE = Price(
    1_000_000, 1_000_000, 1_000_000
)  # a micro-dollar for each token: 15 for an answer of the script
CLOSED = {"breaker": {"min_requests": 1000}}  # more than it looks back on: it never opens
ONCE = {"retries": {"attempts": 1, "base_s": 0.01, "cap_s": 0.1}, **CLOSED}


class House(NamedTuple):
    lab: Lab
    source: Metered
    clock: StandingClock


def snapshot(upstream: Script, keys: dict[str, Caller]) -> Snapshot:
    providers = [provider("priced", upstream.url, price=PRICE), provider("unpriced", upstream.url)]
    priced, unpriced = ({"provider": name, "model": "m"} for name in ("priced", "unpriced"))
    routes = [
        route("m", providers, [priced], **ONCE),
        route("unpriced", providers, [unpriced], **ONCE),
        route("both", providers, [unpriced, priced | {"order": 1}], **ONCE),
        route("cached", providers, [priced], cache_ttl_s=60, **ONCE),
    ]
    return Snapshot.of(keys, providers=providers, routes=routes)


@pytest.fixture(scope="module")
def url(migrated: Database) -> Iterator[str]:
    with copy_of(migrated) as url:
        yield url


@pytest.fixture(scope="module")
def house(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    clock = StandingClock()
    meters = Meters(url, uuid.uuid4(), "here", clock=clock)
    with scripted() as upstream:
        source = Metered(snapshot(upstream, {}), meters)
        with lab(upstream, source, tmp_path_factory.mktemp("spool"), meters=meters) as made:
            yield House(made, source, clock)


def account(house: House, *limits: tuple[str, Window, int], of: str = "account") -> Account:
    """One that may use so much, once the gateway has heard of it."""
    key = f"rm-{uuid.uuid4().hex}"
    caller = replace(ADA, account_id=uuid.uuid4())
    subject = f"{of}:{caller.account_id}"
    caller = replace(
        caller, limits=tuple(Limit(f"{subject}/{kind}", window, amount) for kind, window, amount in limits)
    )
    house.source.replace(snapshot(house.lab.upstream, {digest_of(key): caller}))
    eventually(lambda: digest_of(key) in house.lab.app.refresher.current.keys)
    house.lab.upstream.on("m", speaks("openai"))
    return Account(house.lab, key, caller)


def refusal(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


BOUND = prompt_tokens_bound({"messages": [{"role": "user", "content": "Hello."}]}) + 5
"""The most that `Account.ask` can cost, in micro-dollars."""


# Requests, tokens, streams.


def test_requests_of_a_minute_are_counted(house: House) -> None:
    ada = account(house, ("requests", "minute", 2))
    assert [ada.ask().status_code for _ in range(2)] == [200, 200]
    refused = ada.ask()
    assert refusal(refused) == (429, "rate_limit_exceeded")
    assert refused.headers["retry-after"] == "60"
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert "this account may use 2 requests a minute" in refused.json()["error"]["message"]
    assert "raymill limit set" in refused.json()["error"]["message"]
    house.clock.now += 60
    assert ada.ask().status_code == 200


@pytest.mark.parametrize("of", ["account", "team", "key"])
def test_it_is_told_whose_limit_it_is(of: str, house: House) -> None:
    ada = account(house, ("requests", "day", 1), of=of)
    assert ada.ask().status_code == 200
    assert f"this {of} may use 1 requests a day" in ada.ask().json()["error"]["message"]


def test_tokens_are_reserved_by_size_and_settled_by_what_was_used(house: House) -> None:
    ada = account(house, ("tokens", "minute", 60))
    codes = [ada.ask().status_code for _ in range(5)]
    # Each asks for a quarter of its bytes, 23, and uses 15.
    assert codes == [200, 200, 200, 429, 429]
    assert "may use 60 tokens a minute" in ada.ask().json()["error"]["message"]


def test_streams_at_once_are_counted_until_they_end(house: House) -> None:
    ada = account(house, ("streams", "now", 1))
    house.lab.upstream.on("m", hangs("openai"))
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello."}], "stream": True}
    auth = {"Authorization": f"Bearer {ada.key}"}
    with house.lab.client.stream("POST", CHAT, json=body, headers=auth) as response:
        lines = response.iter_lines()  # kept: httpx ends the answer with it
        next(lines)
        refused = ada.ask(stream=True)
        house.lab.upstream.on("m", speaks("openai"))
        assert ada.ask().status_code == 200
    assert refusal(refused) == (429, "rate_limit_exceeded")
    assert (refused.headers["retry-after"], "x-should-retry" in refused.headers) == ("1", False)
    assert "may use 1 streams at once" in refused.json()["error"]["message"]
    assert ada.ask(stream=True).status_code == 200


# Budgets.


def test_a_budget_is_spent_to_where_nothing_more_fits(house: House) -> None:
    ada = account(house, ("micro_usd", "total", 100))
    fit = (100 - BOUND) // 15 + 1
    answers = [ada.ask(id=f"spend-{number}") for number in range(fit + 2)]
    assert [each.status_code for each in answers] == [200] * fit + [429] * 2
    assert [house.lab.closed(f"spend-{n}").deltas for n in range(fit)] == [
        [(ada.meter("micro_usd", "total"), 0, 15)]
    ] * fit
    refused = answers[-1]
    assert refusal(refused) == (429, "budget_exceeded")
    assert refused.headers["x-should-retry"] == "false"
    message = refused.json()["error"]["message"]
    assert "the budget of this account, 0.0001 USD for all" in message
    assert "raymill budget set" in message


def test_the_openai_package_does_not_ask_again_when_the_budget_is_spent(house: House) -> None:
    ada = account(house, ("micro_usd", "month", BOUND - 1))
    with (
        openai.OpenAI(
            base_url=str(house.lab.client.base_url.join("/v1")), api_key=ada.key, max_retries=3
        ) as client,
        pytest.raises(openai.RateLimitError, match="USD for a month") as refused,
    ):
        client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "Hello."}], max_tokens=5
        )
    assert refused.value.code == "budget_exceeded"
    assert refused.value.request.headers["x-stainless-retry-count"] == "0"


def test_a_request_that_asks_for_less_may_still_fit(house: House) -> None:
    ada = account(house, ("micro_usd", "total", BOUND + 14))
    assert ada.ask().status_code == 200
    assert ada.ask().status_code == 429
    assert ada.ask(max_tokens=4).status_code == 200  # one micro-dollar less than BOUND is left


def test_what_fails_or_is_left_before_its_first_token_costs_nothing(house: House) -> None:
    ada = account(house, ("micro_usd", "total", BOUND))
    for fault in (says(400, error("no")), says(500, error("boom")), says(404, error("no such model"))):
        house.lab.upstream.on("m", fault)
        assert ada.ask().status_code in {400, 404, 502}
    house.lab.upstream.on("m", stall)
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello."}], "max_tokens": 5}
    address, asked = str(house.lab.client.base_url), len(house.lab.upstream.seen)
    leave(address, CHAT, body, when=lambda: len(house.lab.upstream.seen) > asked, key=ada.key)
    eventually(lambda: house.lab.app.in_flight == 0)
    house.lab.upstream.on("m", speaks("openai"))
    assert ada.ask().status_code == 200


def test_a_broken_stream_costs_what_it_said(house: House) -> None:
    ada = account(house, ("micro_usd", "total", 1000), ("requests", "minute", 10))
    house.lab.upstream.on("m", breaks("openai"))
    ada.ask(stream=True, id="broke")
    closed = house.lab.closed("broke")
    assert (closed.record.outcome, closed.record.completion_tokens) == ("broken", 2)
    assert {(name.split("/", 1)[1], amount) for name, _, amount in closed.deltas} == {
        ("micro_usd/total", closed.record.cost_micro_usd),
        ("requests/minute", 1),
    }
    assert closed.record.cost_micro_usd > 0


def test_an_answer_from_the_cache_counts_as_a_request_and_costs_nothing(house: House) -> None:
    ada = account(house, ("micro_usd", "total", 1000), ("requests", "minute", 10), ("tokens", "day", 1000))
    said = uuid.uuid4().hex
    told = [ada.ask("cached", user=said, id=f"c{n}{said}").headers["x-raymill-cache"] for n in range(2)]
    assert told == ["miss", "hit"]
    used = {name.split("/", 1)[1]: amount for name, _, amount in house.lab.closed(f"c1{said}").deltas}
    assert used == {"requests/minute": 1}


def test_without_a_known_price_a_budget_refuses(house: House) -> None:
    ada = account(house, ("micro_usd", "total", 1000))
    refused = ada.ask("unpriced")
    assert refusal(refused) == (403, "price_missing")
    assert refused.json()["error"]["type"] == "permission_error"
    assert "raymill price set" in refused.json()["error"]["message"]
    assert "unpriced/m" in refused.json()["error"]["message"]
    bob = account(house, ("requests", "minute", 10))
    assert bob.ask("unpriced").status_code == 200


def test_with_a_budget_only_targets_with_a_price_are_asked(house: House) -> None:
    ada = account(house, ("micro_usd", "total", 1000))
    assert ada.ask("both").headers["x-raymill-target"] == "priced/m"
    bob = account(house)
    assert bob.ask("both").headers["x-raymill-target"] == "unpriced/m"


def test_where_nobody_says_how_long_an_answer_is_it_is_asked_to_be_what_was_reserved(house: House) -> None:
    ada = account(house, ("micro_usd", "total", 100_000))
    assert ada.ask(max_tokens=None).status_code == 200
    assert house.lab.upstream.requests("m")[-1].body["max_tokens"] == 4096
    bob = account(house)
    assert bob.ask(max_tokens=None).status_code == 200
    assert house.lab.upstream.requests("m")[-1].body["max_tokens"] is None


def test_64_clients_at_two_replicas_spend_a_budget_exactly(house: House, url: str, tmp_path: Path) -> None:
    """Each costs all that it reserved, and the budget is a whole number of them."""
    usage = {"prompt_tokens": BOUND - 5, "completion_tokens": 5, "total_tokens": BOUND}
    meters = Meters(url, uuid.uuid4(), "there", clock=house.clock)
    ada = account(house, ("micro_usd", "total", 20 * BOUND))
    house.lab.upstream.on("m", says(200, answer(usage=usage)))
    source = Metered(snapshot(house.lab.upstream, {digest_of(ada.key): ada.caller}), meters)
    with lab(house.lab.upstream, source, tmp_path, meters=meters) as other:
        bases = [str(each.client.base_url) for each in (house.lab, other)]
        body = {"model": "m", "messages": [{"role": "user", "content": "Hello."}], "max_tokens": 5}

        async def ask_until_spent(client: httpx.AsyncClient, number: int) -> list[int]:
            codes: list[int] = []
            while 429 not in codes:
                response = await client.post(bases[number % 2] + CHAT, json=body)
                codes.append(response.status_code)
            return codes

        async def all_of_them() -> list[list[int]]:
            headers = {"Authorization": f"Bearer {ada.key}"}
            async with httpx.AsyncClient(headers=headers, timeout=30) as client:
                return await asyncio.gather(*(ask_until_spent(client, number) for number in range(64)))

        codes = [code for each in asyncio.run(all_of_them()) for code in each]
    assert (codes.count(200), codes.count(429), len(codes)) == (20, 64, 84)


# When nobody can know.


def test_while_limits_cannot_be_checked_only_who_has_none_is_let_in(tmp_path: Path) -> None:
    limited = replace(ADA, limits=(Limit(f"account:{ADA.account_id}/requests", "minute", 10),))
    with scripted() as upstream:
        upstream.on("m", speaks("openai"))
        source = StaticSource(snapshot(upstream, {digest_of("rm-a"): limited, digest_of("rm-b"): ADA}))
        with lab(upstream, source, tmp_path) as own:  # its limits were never started
            refused = Account(own, "rm-a", limited).ask()
            assert Account(own, "rm-b", ADA).ask().status_code == 200
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert "limits or records cannot be kept" in refused.json()["error"]["message"]
    assert len(upstream.seen) == 1
