"""The anthropic package, unchanged, against the gateway: passed through to its own wire, translated to others."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from tests.serve.gateway_tools import KEY
from tests.serve.scripted_upstream import says
from tests.serve.scripted_wires import TEXT, WIRES, House, Wire, calls, seen, shared, speaks

__all__ = ["shared"]  # fixture

ASK: Any = [{"role": "user", "content": "What is the weather in Ulm?"}]
TOOLS: Any = [
    {
        "name": "weather",
        "description": "Tells the weather.",
        "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    }
]
every_wire = pytest.mark.parametrize("wire", WIRES)


@pytest.fixture(scope="module")
def client(shared: House) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=shared.url, api_key=KEY, max_retries=0, timeout=20) as client:
        yield client


def text_of(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


# Messages.


@every_wire
def test_a_message_is_answered(wire: Wire, client: anthropic.Anthropic, shared: House) -> None:
    shared.upstream.on("chat", speaks(wire))
    model = f"{wire}/chat"
    raw = client.messages.with_raw_response.create(
        model=model, max_tokens=50, system="Be brief.", messages=ASK
    )
    message = raw.parse()
    assert text_of(message) == TEXT
    assert message.stop_reason == "end_turn"
    assert (message.usage.input_tokens, message.usage.output_tokens) == (10, 5)
    assert raw.headers["x-raymill-target"] == model
    assert message._request_id == raw.headers["x-request-id"]
    assert "Be brief." in str(seen(shared, "chat").body)


@every_wire
def test_the_stream_helper_gathers_the_message(
    wire: Wire, client: anthropic.Anthropic, shared: House
) -> None:
    shared.upstream.on("helper", speaks(wire))
    with client.messages.stream(model=f"{wire}/helper", max_tokens=50, messages=ASK) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    assert pieces == ["Hello ", "there."]
    assert text_of(final) == TEXT
    assert final.stop_reason == "end_turn"
    assert (final.usage.input_tokens, final.usage.output_tokens) == (10, 5)


@every_wire
def test_the_events_of_a_stream_come_in_order(wire: Wire, client: anthropic.Anthropic, shared: House) -> None:
    shared.upstream.on("events", speaks(wire))
    stream = client.messages.create(model=f"{wire}/events", max_tokens=50, messages=ASK, stream=True)
    assert [event.type for event in stream] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


@every_wire
def test_a_tool_is_called_and_its_result_goes_back(
    wire: Wire, client: anthropic.Anthropic, shared: House
) -> None:
    model = f"{wire}/tools"
    shared.upstream.on("tools", calls(wire, "weather", {"city": "Ulm"}), speaks(wire, "It rains."))
    first = client.messages.create(model=model, max_tokens=50, messages=ASK, tools=TOOLS)
    use: Any = first.content[-1]
    assert first.stop_reason == "tool_use"
    assert (use.type, use.name, use.input) == ("tool_use", "weather", {"city": "Ulm"})

    result: Any = {"type": "tool_result", "tool_use_id": use.id, "content": "rain, 7 degrees"}
    again: Any = [
        *ASK,
        {"role": "assistant", "content": [block.to_dict() for block in first.content]},
        {"role": "user", "content": [result]},
    ]
    second = client.messages.create(model=model, max_tokens=50, messages=again, tools=TOOLS)
    assert text_of(second) == "It rains."
    assert "rain, 7 degrees" in str(seen(shared, "tools").body)


@every_wire
def test_a_tool_call_is_streamed(wire: Wire, client: anthropic.Anthropic, shared: House) -> None:
    shared.upstream.on("tool-stream", calls(wire, "weather", {"city": "Ulm"}))
    with client.messages.stream(
        model=f"{wire}/tool-stream", max_tokens=50, messages=ASK, tools=TOOLS
    ) as stream:
        final = stream.get_final_message()
    use: Any = final.content[-1]
    assert final.stop_reason == "tool_use"
    assert (use.name, use.input) == ("weather", {"city": "Ulm"})


# What passes through.


def test_all_that_the_client_says_passes_through_to_the_same_wire(
    client: anthropic.Anthropic, shared: House
) -> None:
    shared.upstream.on("same", speaks("anthropic"))
    content: Any = [
        {"type": "text", "text": "What is on it?", "cache_control": {"type": "ephemeral"}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}},
    ]
    client.beta.messages.create(
        model="anthropic/same",
        max_tokens=50,
        messages=[{"role": "user", "content": content}],
        betas=["one-2026-01-01", "two-2026-02-02"],
        extra_body={"odd": {"deep": [1, None]}},
    )
    sent = seen(shared, "same")
    assert sent.path == "/v1/messages"
    assert sent.body == {
        "model": "same",
        "max_tokens": 50,
        "messages": [{"role": "user", "content": content}],
        "odd": {"deep": [1, None]},
    }
    assert sent.headers["anthropic-beta"] == "one-2026-01-01,two-2026-02-02"
    assert sent.headers["anthropic-version"] == "2023-06-01"
    assert sent.headers["x-api-key"] == "sk-anthropic-0"


def test_what_the_same_wire_answers_comes_back_untouched(client: anthropic.Anthropic, shared: House) -> None:
    told = b'{"id":"msg_1","type":"message","role":"assistant","model":"m","content":[],"stop_reason":"end_turn",'
    told += b'"stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":1},"odd":{"deep":[1e-9]}}'
    shared.upstream.on("odd", says(200, told))
    raw = client.messages.with_raw_response.create(model="anthropic/odd", max_tokens=50, messages=ASK)
    assert raw.read() == told


def test_a_header_of_anthropics_does_not_go_to_another_wire(
    client: anthropic.Anthropic, shared: House
) -> None:
    shared.upstream.on("other", speaks("openai"))
    client.messages.create(
        model="openai/other", max_tokens=50, messages=ASK, extra_headers={"anthropic-beta": "one-2026-01-01"}
    )
    sent = seen(shared, "other")
    assert "anthropic-beta" not in sent.headers
    assert "x-api-key" not in sent.headers
    assert sent.headers["authorization"] == "Bearer sk-openai-0"
    assert sent.body["max_tokens"] == 50


# Counting, models, the async client.


@every_wire
def test_tokens_are_counted(wire: Wire, client: anthropic.Anthropic) -> None:
    short = client.messages.count_tokens(model=f"{wire}/count", messages=ASK)
    long = client.messages.count_tokens(model=f"{wire}/count", messages=ASK, tools=TOOLS, system="Be brief.")
    assert 0 < short.input_tokens < long.input_tokens


def test_models_are_listed_and_found(client: anthropic.Anthropic) -> None:
    assert list(client.models.list()) == []  # no route, and no provider has told what it has
    one = client.models.retrieve("openai/any")
    assert (one.id, one.type, one.lifecycle) == ("openai/any", "model", "active")
    with pytest.raises(anthropic.NotFoundError, match="'gpt-9' is not served") as unknown:
        client.models.retrieve("gpt-9")
    assert unknown.value.type == "not_found_error"


@every_wire
def test_the_async_client_asks_many_things_at_once(wire: Wire, shared: House) -> None:
    shared.upstream.on("async", speaks(wire))

    async def streamed(client: anthropic.AsyncAnthropic) -> str:
        async with client.messages.stream(model=f"{wire}/async", max_tokens=9, messages=ASK) as stream:
            return "".join([text async for text in stream.text_stream])

    async def plain(client: anthropic.AsyncAnthropic) -> str:
        return text_of(await client.messages.create(model=f"{wire}/async", max_tokens=9, messages=ASK))

    async def all_of_them() -> list[str]:
        async with anthropic.AsyncAnthropic(base_url=shared.url, api_key=KEY, max_retries=0) as client:
            return await asyncio.gather(
                *(streamed(client) for _ in range(4)), *(plain(client) for _ in range(4))
            )

    assert asyncio.run(all_of_them()) == [TEXT] * 8


def test_a_key_may_also_come_as_a_bearer_token(shared: House) -> None:
    shared.upstream.on("chat", speaks("openai"))
    with anthropic.Anthropic(base_url=shared.url, auth_token=KEY, api_key=None, max_retries=0) as client:
        assert text_of(client.messages.create(model="openai/chat", max_tokens=9, messages=ASK)) == TEXT
