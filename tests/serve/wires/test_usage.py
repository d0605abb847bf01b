"""Tokens counted, estimated and bounded."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymill.serve.gateway.wires.usage import (
    Tokens,
    estimate_prompt_tokens,
    output_tokens_bound,
    prompt_tokens_bound,
    tokens_of,
)

PIXELS = "data:image/png;base64," + "A" * 100_000


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}, Tokens(9, 0, 4)),
        (
            {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 5}},
            Tokens(9, 5, 4),
        ),
        ({"prompt_tokens": 9, "completion_tokens": 4, "prompt_cache_hit_tokens": 8}, Tokens(9, 8, 4)),
        ({"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": None}, Tokens(9, 0, 4)),
        ({"prompt_tokens": 6, "total_tokens": 6}, Tokens(6, 0, 0)),
        (
            {"input_tokens": 9, "input_tokens_details": {"cached_tokens": 5}, "output_tokens": 4},
            Tokens(9, 5, 4),
        ),
        (
            {
                "input_tokens": 9,
                "cache_read_input_tokens": 100,
                "cache_creation_input_tokens": 20,
                "output_tokens": 4,
            },
            Tokens(129, 100, 4),
        ),
        ({"output_tokens": 15}, Tokens(0, 0, 15)),
        ({"prompt_tokens": "many", "completion_tokens": -1}, Tokens(0, 0, 0)),
        ({}, None),
        ({"cost": 1}, None),
    ],
)
def test_every_wires_usage_is_read(usage: dict[str, Any], tokens: Tokens | None) -> None:
    assert tokens_of(usage) == tokens


TEXT = "Größe 42 € please " * 20
BODIES: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": TEXT}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": TEXT}]}]},
    {"system": TEXT, "messages": []},
    {"system": [{"type": "text", "text": TEXT}], "messages": []},
    {"instructions": TEXT, "input": "x"},
    {"input": [{"role": "user", "content": [{"type": "input_text", "text": TEXT}]}]},
    {"prompt": TEXT},
    {"prompt": [TEXT, "x"]},
    {"input": [TEXT]},
    {"messages": [], "tools": [{"type": "function", "function": {"name": "f", "description": TEXT}}]},
    {"messages": [], "response_format": {"json_schema": {"schema": {"description": TEXT}}}},
    {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": TEXT}}]}]},
    {"messages": [{"role": "user", "content": [{"type": "tool_result", "content": TEXT}]}]},
    {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "input": {TEXT: 1}}]}]},
]


@pytest.mark.parametrize("body", BODIES)
def test_the_bound_holds_every_byte_that_the_model_sees(body: dict[str, Any]) -> None:
    size_bytes = len(TEXT.encode())
    assert size_bytes <= prompt_tokens_bound(body) <= size_bytes + 300
    assert size_bytes // 4 <= estimate_prompt_tokens(body) <= size_bytes // 4 + 60


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": PIXELS}},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
        {"type": "image", "source": {"type": "base64", "data": PIXELS}},
        {"type": "input_image", "image_url": PIXELS},
        {"type": "tool_result", "content": [{"type": "image", "source": {"data": PIXELS}}]},
    ],
)
def test_an_image_counts_as_four_thousand_tokens_whatever_its_bytes(part: dict[str, Any]) -> None:
    body = {"messages": [{"role": "user", "content": [part]}]}
    assert 4000 < prompt_tokens_bound(body) < 4200
    assert 1000 <= estimate_prompt_tokens(body) < 1050


def test_each_message_and_each_image_adds_to_the_bound() -> None:
    message = {"role": "user", "content": "hi"}
    one, three = (prompt_tokens_bound({"messages": [message] * count}) for count in (1, 3))
    assert three > 2 * one
    assert prompt_tokens_bound({"messages": [message]}) >= len("userhi") + 16


def test_token_prompts_are_bounded_by_their_number() -> None:
    assert prompt_tokens_bound({"prompt": [5] * 1000}) >= 1000
    assert prompt_tokens_bound({"input": [[5] * 10, [6] * 10]}) >= 20


@pytest.mark.parametrize(
    ("body", "bound"),
    [
        ({}, 100),
        ({"max_tokens": 7}, 7),
        ({"max_completion_tokens": 7}, 7),
        ({"max_tokens": 3, "max_completion_tokens": 7}, 7),
        ({"max_output_tokens": 9}, 9),
        ({"max_tokens": 7, "n": 3}, 21),
        ({"n": 2}, 200),
        ({"max_tokens": 7, "n": 2, "best_of": 4}, 28),
        ({"max_tokens": 7, "prompt": ["a", "b"]}, 14),
        ({"max_tokens": 7, "prompt": [1, 2, 3]}, 7),
        ({"max_tokens": 7, "prompt": [[1], [2]]}, 14),
        ({"max_tokens": "7", "n": "2"}, 100),
        ({"max_tokens": 0, "n": -1}, 100),
        ({"max_tokens": True, "n": None}, 100),
    ],
)
def test_the_output_is_bounded_for_each_choice_of_each_prompt(body: dict[str, Any], bound: int) -> None:
    assert output_tokens_bound(body, default=100) == bound


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("aü€ ", max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("aü€ ", max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
NAMES = st.sampled_from(
    ["messages", "input", "prompt", "system", "tools", "functions", "max_tokens", "n", "best_of", "text"]
)


@settings(deadline=None)
@given(st.dictionaries(NAMES, JSON, max_size=6))
def test_no_request_is_too_odd_to_be_weighed(body: dict[str, Any]) -> None:
    assert estimate_prompt_tokens(body) >= 1
    assert prompt_tokens_bound(body) >= 0
    assert output_tokens_bound(body, 10) >= 1


def test_a_request_nested_deeper_than_python_recurses_is_weighed() -> None:
    nested: Any = "deep"
    for _ in range(5000):
        nested = [nested]
    assert prompt_tokens_bound({"messages": nested, "tools": nested}) >= len("deep")
