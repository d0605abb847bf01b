"""What a replica knows of its targets: breakers, keys at rest, and how long to wait."""

from __future__ import annotations

import datetime as dt
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.serve.gateway_tools import provider

from raymill.cluster.retry_after import MOST_S, retry_after_s
from raymill.serve.gateway import health as health_module
from raymill.serve.gateway.catalog import ProviderSecret, Target
from raymill.serve.gateway.config import Breaker
from raymill.serve.gateway.health import PROBE_GRACE_S, Health, HealthBook

BREAKER = Breaker(window=4, min_requests=2, error_rate=0.5, open_s=10)


def failing(health: Health, times: int, now: float = 0.0) -> None:
    for _ in range(times):
        health.begin(now)
        health.failed(BREAKER, now)


def answering(health: Health, times: int, latency_ms: float = 1.0) -> None:
    for _ in range(times):
        health.begin(0.0)
        health.succeeded(BREAKER, latency_ms)
        health.ended()


# The breaker.


def test_too_few_failures_open_nothing() -> None:
    health = Health()
    failing(health, 1)
    assert (health.state(0), health.admits(0)) == ("closed", True)


def test_a_breaker_opens_at_its_error_rate_and_half_opens_after_its_time() -> None:
    health = Health()
    failing(health, 2)
    assert [(health.state(now), health.admits(now)) for now in (0, 9.9, 10)] == [
        ("open", False),
        ("open", False),
        ("half_open", True),
    ]


def test_a_breaker_looks_back_on_its_window_only() -> None:
    health = Health()
    answering(health, 3)
    failing(health, 1)
    assert health.state(0) == "closed"  # 1 of 4
    failing(health, 1)
    assert health.state(0) == "open"  # 2 of the last 4: the first success is forgotten


def test_a_half_open_breaker_lets_one_through_and_closes_when_it_succeeds() -> None:
    health = Health()
    failing(health, 2)
    health.begin(10)
    assert not health.admits(10)
    health.succeeded(BREAKER, 1.0)
    assert (health.state(10), health.admits(10)) == ("closed", True)
    health.ended()
    failing(health, 1, 11)
    assert health.state(11) == "open", "1 success and 1 failure are half of them"


def test_a_half_open_breaker_opens_again_when_it_fails() -> None:
    health = Health()
    failing(health, 2)
    failing(health, 1, 10)
    assert [health.state(now) for now in (10, 19.9, 20)] == ["open", "open", "half_open"]


def test_a_trial_that_says_nothing_lets_the_next_one_through() -> None:
    health = Health()
    failing(health, 2)
    health.begin(10)
    health.given_up()
    assert health.admits(10)
    health.begin(10)  # never heard of again
    assert not health.admits(10 + PROBE_GRACE_S)
    assert health.admits(10 + PROBE_GRACE_S + 0.1)


def test_a_probe_that_is_answered_half_opens_at_once() -> None:
    health = Health()
    failing(health, 2)
    assert not health.admits(1)
    health.half_open()
    assert (health.state(1), health.admits(1)) == ("half_open", True)


def test_a_stream_that_breaks_is_a_failure_and_no_success() -> None:
    health = Health()
    for _ in range(2):
        health.begin(0)
        health.succeeded(BREAKER, 1.0)
        health.broke(BREAKER, 0)
        health.ended()
    assert (health.state(0), health.in_flight) == ("open", 0)


def test_newer_latencies_weigh_more() -> None:
    health = Health()
    answering(health, 1, 100)
    assert health.latency_ms == 100
    answering(health, 1, 200)
    assert health.latency_ms == pytest.approx(120)


class BreakerMachine(RuleBasedStateMachine):
    """Whatever comes in whatever order, the counts stay true and an open breaker lets nobody through."""

    def __init__(self) -> None:
        super().__init__()
        self.health = Health()
        self.now = 0.0
        self.begun = 0
        self.answering = 0

    @rule(seconds=st.floats(0, 15))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.health.admits(self.now))
    @rule()
    def a_request_begins(self) -> None:
        assert self.health.state(self.now) != "open"
        self.health.begin(self.now)
        self.begun += 1

    @precondition(lambda self: self.begun)
    @rule(how=st.sampled_from(["succeeded", "failed", "given_up"]))
    def it_goes_on(self, how: str) -> None:
        self.begun -= 1
        if how == "succeeded":
            self.health.succeeded(BREAKER, 1.0)
            self.answering += 1
            assert self.health.state(self.now) == "closed"
        elif how == "failed":
            self.health.failed(BREAKER, self.now)
        else:
            self.health.given_up()

    @precondition(lambda self: self.answering)
    @rule(broken=st.booleans())
    def an_answer_ends(self, broken: bool) -> None:
        self.answering -= 1
        if broken:
            self.health.broke(BREAKER, self.now)
        self.health.ended()

    @rule()
    def a_probe_is_answered(self) -> None:
        self.health.half_open()

    @invariant()
    def it_counts_right(self) -> None:
        assert self.health.in_flight == self.begun + self.answering
        results = self.health._results
        assert self.health._failures == results.count(False)
        assert len(results) <= BREAKER.window


def test_a_breaker_in_whatever_order() -> None:
    run_state_machine_as_test(BreakerMachine, settings=settings(max_examples=50, deadline=None))


# The book.


def target(model: str) -> Target:
    return Target(model=model, provider=provider("up", "http://127.0.0.1:1"))


def test_targets_are_told_apart_by_provider_and_model() -> None:
    book = HealthBook()
    failing(book.of(target("a")), 2, time.monotonic())
    book.of(target("b"))
    assert book.states() == {"up/a": "open", "up/b": "closed"}


def test_targets_that_clients_invent_do_not_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_module, "MAX_TARGETS", 3)
    book = HealthBook()
    book.of(target("busy")).begin(0)
    for number in range(10):
        book.of(target(f"m{number}"))
    assert list(book.states()) == ["up/busy", "up/m8", "up/m9"]


def secrets(count: int) -> list[ProviderSecret]:
    return [ProviderSecret(id=f"k{n}", name=f"k{n}", value="x") for n in range(count)]


def test_keys_are_used_in_turn() -> None:
    book, keys = HealthBook(), secrets(3)
    picked = [book.pick_secret(keys, set()) for _ in range(6)]
    assert [key.id for key in picked if key] == ["k1", "k2", "k0", "k1", "k2", "k0"]


def test_a_resting_key_is_used_only_when_no_other_is_left() -> None:
    book, keys = HealthBook(), secrets(2)
    book.rest(keys[0], 60)
    assert {key.id for _ in range(4) if (key := book.pick_secret(keys, set()))} == {"k1"}
    assert book.pick_secret(keys, {"k1"}) == keys[0]
    assert book.pick_secret(keys, {"k0", "k1"}) is None
    book.rest(keys[0], -1)
    assert {key.id for _ in range(4) if (key := book.pick_secret(keys, set()))} == {"k0", "k1"}


def test_one_key_is_used_whatever_it_did() -> None:
    book, keys = HealthBook(), secrets(1)
    book.rest(keys[0], 60)
    assert book.pick_secret(keys, set()) == keys[0]
    assert book.pick_secret(keys, {"k0"}) is None


# Retry-After.

NOW = dt.datetime(2026, 5, 1, 12, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({b"retry-after": b"7"}, 7.0),
        ({b"retry-after": b" 0.5 "}, 0.5),
        ({b"retry-after": b"0"}, 0.0),
        ({b"retry-after": b""}, None),
        ({b"retry-after": b"soon"}, None),
        ({b"retry-after": b"-3"}, None),
        ({b"retry-after": b"inf"}, None),
        ({b"retry-after": b"1.2.3"}, None),
        ({b"retry-after": "\u00b2".encode("latin-1")}, None),
        ({b"retry-after": b"99999999999999"}, MOST_S),
        ({b"retry-after": b"Fri, 01 May 2026 12:00:30 GMT"}, 30.0),
        ({b"retry-after": b"Fri, 01 May 2026 14:00:30 +0200"}, 30.0),
        ({b"retry-after": b"Fri, 01 May 2026 11:59:00 GMT"}, 0.0),
        ({b"retry-after": b"Fri, 01 May 2099 12:00:00 GMT"}, MOST_S),
        ({b"retry-after": b"Fri, 99 May 2026 12:00:00 GMT"}, None),
        ({b"retry-after-ms": b"250"}, 0.25),
        ({b"retry-after-ms": b"250", b"retry-after": b"7"}, 0.25),
        ({b"retry-after-ms": b"soon", b"retry-after": b"7"}, 7.0),
    ],
)
def test_how_long_to_wait_is_read(headers: dict[bytes, bytes], seconds: float | None) -> None:
    assert retry_after_s(headers, NOW) == seconds


ALMOST_DATES = st.tuples(*[st.integers(0, 10**12)] * 6).map(
    lambda n: b"Fri, %d May %d %d:%d:%d +%04d" % n  # whose parts may be anything
)


@settings(deadline=None)
@given(st.binary(max_size=60) | ALMOST_DATES)
def test_whatever_a_provider_sends_is_a_wait_or_none(value: bytes) -> None:
    for name in (b"retry-after", b"retry-after-ms"):
        found = retry_after_s({name: value}, NOW)
        assert found is None or 0 <= found <= MOST_S
