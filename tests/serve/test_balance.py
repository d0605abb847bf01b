"""In which order targets are asked. Pure: no sockets, no clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.serve.gateway_tools import provider, route

from raymill.serve.gateway import balance
from raymill.serve.gateway.balance import Traits, conversation_of, meets, order, traits_of
from raymill.serve.gateway.catalog import Route
from raymill.serve.gateway.config import Breaker, When
from raymill.serve.gateway.health import HealthBook

PLAIN = Traits(prompt_tokens=100, tools=False, vision=False, stream=False)
UP = provider("up", "http://127.0.0.1:1")
USERS = [f"user-{number}" for number in range(3000)]


def made(*targets: dict[str, Any], **config: Any) -> Route:
    return route("r", [UP], [{"provider": "up", **target} for target in targets], **config)


def never() -> Any:
    raise AssertionError("the route does not look at this")


def models(
    of: Route,
    *,
    health: HealthBook | None = None,
    traits: Callable[[], Traits] = never,
    key: Callable[[], str] = never,
) -> list[str]:
    return [target.model for target in order(of, health or HealthBook(), traits, key)]


def firsts(of: Route, users: Sequence[str] = USERS) -> dict[str, str]:
    return {user: models(of, key=partial(str, user))[0] for user in users}


# Order and conditions.


def test_lower_orders_come_first_and_all_of_them_come() -> None:
    of = made({"model": "last", "order": 7}, {"model": "first"}, {"model": "second", "order": 2})
    assert models(of) == ["first", "second", "last"]


def test_one_target_without_conditions_needs_no_look_at_the_request() -> None:
    assert models(made({"model": "a"}, sticky="user")) == ["a"]


@pytest.mark.parametrize(
    ("when", "traits", "met"),
    [
        ({}, PLAIN, True),
        ({"min_prompt_tokens": 100}, PLAIN, True),
        ({"min_prompt_tokens": 101}, PLAIN, False),
        ({"max_prompt_tokens": 100}, PLAIN, True),
        ({"max_prompt_tokens": 99}, PLAIN, False),
        ({"max_prompt_tokens": 0}, PLAIN, False),
        ({"tools": True}, PLAIN, False),
        ({"tools": False}, PLAIN, True),
        ({"tools": True}, Traits(100, True, False, False), True),
        ({"tools": False}, Traits(100, True, False, False), False),
        ({"vision": True}, Traits(100, False, True, False), True),
        ({"vision": False}, Traits(100, False, True, False), False),
        ({"stream": True}, Traits(100, False, False, True), True),
        ({"stream": False}, Traits(100, False, False, True), False),
        ({"stream": True, "tools": True}, Traits(100, False, False, True), False),
    ],
)
def test_a_condition_is_met_when_all_of_it_is(when: dict[str, Any], traits: Traits, met: bool) -> None:
    assert meets(When(**when), traits) is met


def test_a_target_whose_condition_is_not_met_is_left_out() -> None:
    of = made(
        {"model": "short", "when": {"max_prompt_tokens": 99}},
        {"model": "long", "when": {"min_prompt_tokens": 100}},
        {"model": "any", "order": 1},
    )
    assert models(of, traits=lambda: PLAIN) == ["long", "any"]
    assert models(made({"model": "a", "when": {"tools": True}}), traits=lambda: PLAIN) == []


@pytest.mark.parametrize(
    ("body", "traits"),
    [
        ({}, (False, False, False)),
        ({"tools": [{}], "stream": True}, (True, False, True)),
        ({"functions": [{}]}, (True, False, False)),
        ({"tools": [], "stream": False}, (False, False, False)),
        ({"messages": [{"content": [{"type": "image_url"}]}]}, (False, True, False)),
        (
            {"messages": [{"content": "x"}, {"content": [{"type": "text"}, {"type": "image"}]}]},
            (False, True, False),
        ),
        ({"input": [{"content": [{"type": "input_image"}]}]}, (False, True, False)),
        ({"input": "image_url"}, (False, False, False)),
        ({"messages": [3, {"content": [3, {"type": ["image"]}]}]}, (False, False, False)),
    ],
)
def test_traits_are_read_from_every_wire(body: dict[str, Any], traits: tuple[bool, bool, bool]) -> None:
    assert traits_of(body, 7) == Traits(7, *traits)


# Weights.


def test_weights_share_the_first_place() -> None:
    of = made({"model": "a", "weight": 6}, {"model": "b", "weight": 3}, {"model": "c", "weight": 1})
    first = Counter(models(of)[0] for _ in range(6000))
    # Six standard deviations of a binomial of this size are 232 at most.
    assert abs(first["a"] - 3600) < 232
    assert abs(first["b"] - 1800) < 232
    assert abs(first["c"] - 600) < 232


def test_a_target_without_weight_is_only_a_fallback() -> None:
    for strategy in ("weighted", "least_latency", "least_busy"):
        of = made({"model": "spare", "weight": 0}, {"model": "a"}, {"model": "b"}, strategy=strategy)
        assert all(models(of)[2] == "spare" for _ in range(50))


# Sticky choices.


def test_a_user_always_meets_the_same_target_and_users_are_shared_by_weight() -> None:
    of = made({"model": "a", "weight": 3}, {"model": "b", "weight": 1}, sticky="user")
    met = firsts(of)
    assert met == firsts(of)
    assert abs(Counter(met.values())["a"] - 2250) < 143  # six standard deviations


def test_a_target_that_joins_takes_only_its_share() -> None:
    before = made({"model": "a"}, {"model": "b"}, {"model": "c"}, sticky="user")
    after = made({"model": "a"}, {"model": "b"}, {"model": "c"}, {"model": "d"}, sticky="user")
    old, new = firsts(before), firsts(after)
    moved = [user for user in USERS if old[user] != new[user]]
    assert {new[user] for user in moved} == {"d"}
    assert abs(len(moved) - 750) < 143


def test_a_target_that_leaves_moves_only_its_own_users_to_their_second_choice() -> None:
    all_of_them = made({"model": "a"}, {"model": "b"}, {"model": "c"}, sticky="user")
    left = made({"model": "a"}, {"model": "b"}, sticky="user")
    for user in USERS[:500]:
        ranked = models(all_of_them, key=partial(str, user))
        assert models(left, key=partial(str, user)) == [each for each in ranked if each != "c"]


def test_more_weight_takes_users_only_for_itself() -> None:
    old = firsts(made({"model": "a"}, {"model": "b"}, {"model": "c"}, sticky="user"))
    new = firsts(made({"model": "a", "weight": 2}, {"model": "b"}, {"model": "c"}, sticky="user"))
    assert {new[user] for user in USERS if old[user] != new[user]} == {"a"}


@settings(max_examples=60, deadline=None)
@given(
    weights=st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 20), min_size=2, max_size=6),
    gone=st.integers(0, 5),
    user=st.text(max_size=20),
)
def test_nobody_moves_who_need_not(weights: dict[str, int], gone: int, user: str) -> None:
    targets = [{"model": name, "weight": weight} for name, weight in weights.items()]
    ranked = models(made(*targets, sticky="user"), key=lambda: user)
    left = [target for number, target in enumerate(targets) if number != gone % len(targets)]
    assert models(made(*left, sticky="user"), key=lambda: user) == [
        name for name in ranked if name in {target["model"] for target in left}
    ]


def test_a_conversation_keeps_its_name_while_it_grows() -> None:
    system, first, other = (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello."},
        {"role": "user", "content": "Good evening."},
    )
    answer = {"role": "assistant", "content": "Hello!"}
    begun = conversation_of({"messages": [system, first]})
    assert conversation_of({"messages": [system, first, answer, other]}) == begun
    assert conversation_of({"messages": [system, other]}) != begun
    assert conversation_of({"messages": [first]}) == conversation_of({"messages": [first, answer, other]})
    assert conversation_of({"input": "Hello."}) == conversation_of({"input": "Hello.", "stream": True})
    named = {"metadata": {"conversation_id": "c7"}}
    assert (
        conversation_of({"messages": [first], **named})
        == conversation_of({"messages": [other], **named})
        == "c7"
    )


# What health decides.


def test_the_fastest_target_is_asked_first_and_one_that_was_never_asked_before_it() -> None:
    of = made({"model": "slow"}, {"model": "fast"}, strategy="least_latency")
    health = HealthBook()
    for target, latency_ms in zip(of.targets, (300.0, 100.0), strict=True):
        health.of(target).succeeded(Breaker(), latency_ms)
    # One request in twenty goes to any of them, so that one which got faster is noticed.
    first = Counter(models(of, health=health)[0] for _ in range(1000))
    assert 1 <= first["slow"] <= 70
    more = made({"model": "slow"}, {"model": "fast"}, {"model": "new"}, strategy="least_latency")
    order = Counter(tuple(models(more, health=health)) for _ in range(200))
    assert order.most_common(1)[0][0] == ("new", "fast", "slow")


def test_the_least_busy_target_is_asked_first_by_its_weight() -> None:
    of = made({"model": "large", "weight": 4}, {"model": "small", "weight": 1}, strategy="least_busy")
    health = HealthBook()
    large, small = (health.of(target) for target in of.targets)
    large.in_flight, small.in_flight = 3, 1
    assert models(of, health=health) == ["large", "small"]
    large.in_flight = 5
    assert models(of, health=health) == ["small", "large"]


def test_equals_take_turns_by_chance() -> None:
    for strategy in ("least_latency", "least_busy"):
        of = made({"model": "a"}, {"model": "b"}, strategy=strategy)
        assert {models(of)[0] for _ in range(60)} == {"a", "b"}


def test_the_dice_reach_no_infinity() -> None:
    target = made({"model": "a"}).targets[0]
    assert balance._score(target, 0.0) < float("inf")
