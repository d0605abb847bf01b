"""The openai package, unchanged, against the gateway in front of providers of every wire."""

from __future__ import annotations

import asyncio
import base64
import struct
from collections.abc import Iterator
from typing import Any

import openai
import pydantic
import pytest
from tests.serve.gateway_tools import KEY
from tests.serve.scripted_upstream import says
from tests.serve.scripted_wires import TEXT, WIRES, House, Wire, calls, seen, shared, speaks

__all__ = ["shared"]  # fixture

ASK: Any = [{"role": "user", "content": "What is the weather in Ulm?"}]
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Tells the weather.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    }
]
VECTOR = [0.5, -0.25]
VECTOR_BASE64 = base64.b64encode(struct.pack("<2f", *VECTOR)).decode()
every_wire = pytest.mark.parametrize("wire", WIRES)


class Weather(pydantic.BaseModel):
    city: str
    degrees: float


@pytest.fixture(scope="module")
def client(shared: House) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{shared.url}/v1", api_key=KEY, max_retries=0, timeout=20) as client:
        yield client


# Chat.


@every_wire
def test_a_chat_is_answered(wire: Wire, client: openai.OpenAI, shared: House) -> None:
    shared.upstream.on("chat", speaks(wire))
    raw = client.chat.completions.with_raw_response.create(model=f"{wire}/chat", messages=ASK)
    chat = raw.parse()
    assert chat.choices[0].message.content == TEXT
    assert chat.choices[0].finish_reason == "stop"
    assert chat.usage is not None
    assert (chat.usage.prompt_tokens, chat.usage.completion_tokens) == (10, 5)
    assert chat._request_id
    assert raw.headers["x-raymill-target"] == f"{wire}/chat"
    assert raw.headers["x-raymill-attempts"] == "1"


@every_wire
def test_a_stream_comes_in_pieces_and_tells_the_usage_only_when_asked(
    wire: Wire, client: openai.OpenAI, shared: House
) -> None:
    shared.upstream.on("stream", speaks(wire))
    model = f"{wire}/stream"
    without = list(client.chat.completions.create(model=model, messages=ASK, stream=True))
    with_usage = list(
        client.chat.completions.create(
            model=model, messages=ASK, stream=True, stream_options={"include_usage": True}
        )
    )
    for chunks in (without, with_usage):
        pieces = [c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content]
        assert pieces == ["Hello ", "there."]
    assert not any(chunk.usage for chunk in without)
    assert with_usage[-1].usage is not None
    assert with_usage[-1].usage.total_tokens == 15


@every_wire
def test_the_stream_helper_gathers_the_answer(wire: Wire, client: openai.OpenAI, shared: House) -> None:
    shared.upstream.on("helper", speaks(wire))
    with client.chat.completions.stream(model=f"{wire}/helper", messages=ASK) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert kinds.count("content.delta") >= 2
    assert "content.done" in kinds
    assert final.choices[0].message.content == TEXT


@every_wire
def test_a_tool_is_called_and_its_result_goes_back(wire: Wire, client: openai.OpenAI, shared: House) -> None:
    model = f"{wire}/tools"
    shared.upstream.on("tools", calls(wire, "weather", {"city": "Ulm"}), speaks(wire, "It rains."))
    first = client.chat.completions.create(model=model, messages=ASK, tools=TOOLS)
    message = first.choices[0].message
    assert first.choices[0].finish_reason == "tool_calls"
    assert message.tool_calls is not None
    call: Any = message.tool_calls[0]
    assert (call.function.name, call.function.arguments.replace(" ", "")) == ("weather", '{"city":"Ulm"}')
    assert "Tells the weather." in str(seen(shared, "tools").body["tools"])

    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "rain, 7 degrees"}
    again = [*ASK, message.model_dump(exclude_none=True), result]
    second = client.chat.completions.create(model=model, messages=again, tools=TOOLS)
    assert second.choices[0].message.content == "It rains."
    assert "rain, 7 degrees" in str(seen(shared, "tools").body)


@every_wire
def test_a_tool_call_is_streamed(wire: Wire, client: openai.OpenAI, shared: House) -> None:
    shared.upstream.on("tool-stream", calls(wire, "weather", {"city": "Ulm"}))
    with client.chat.completions.stream(model=f"{wire}/tool-stream", messages=ASK, tools=TOOLS) as stream:
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
        final = stream.get_final_completion()
    assert [event.name for event in done] == ["weather"]
    assert final.choices[0].finish_reason == "tool_calls"
    assert final.choices[0].message.tool_calls is not None
    assert final.choices[0].message.tool_calls[0].function.arguments.replace(" ", "") == '{"city":"Ulm"}'


@every_wire
def test_an_answer_is_parsed_into_a_class(wire: Wire, client: openai.OpenAI, shared: House) -> None:
    shared.upstream.on("parse", speaks(wire, '{"city": "Ulm", "degrees": 7.5}'))
    parsed = client.chat.completions.parse(model=f"{wire}/parse", messages=ASK, response_format=Weather)
    assert parsed.choices[0].message.parsed == Weather(city="Ulm", degrees=7.5)
    body = seen(shared, "parse").body
    schema: Any = {
        "openai": lambda: body["response_format"]["json_schema"]["schema"],
        "anthropic": lambda: body["output_config"]["format"]["schema"],
        "gemini": lambda: body["generationConfig"]["responseJsonSchema"],
    }[wire]()
    assert set(schema["properties"]) == {"city", "degrees"}


# What passes through.

IMAGE: Any = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is on it?"},
            {
                "type": "image_url",
                "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"},
            },
        ],
    }
]


def test_an_image_passes_through_untouched(client: openai.OpenAI, shared: House) -> None:
    shared.upstream.on("vision", speaks("openai"))
    client.chat.completions.create(model="openai/vision", messages=IMAGE)
    assert seen(shared, "vision").body["messages"] == IMAGE


def test_an_image_is_said_on_the_other_wires(client: openai.OpenAI, shared: House) -> None:
    shared.upstream.on("vision", speaks("anthropic"))
    client.chat.completions.create(model="anthropic/vision", messages=IMAGE)
    assert seen(shared, "vision").body["messages"][0]["content"][1]["source"] == {
        "type": "base64",
        "media_type": "image/png",
        "data": "iVBORw0KGgo=",
    }
    shared.upstream.on("vision", speaks("gemini"))
    client.chat.completions.create(model="gemini/vision", messages=IMAGE)
    part = seen(shared, "vision").body["contents"][0]["parts"][1]
    assert part["inlineData"] == {"mimeType": "image/png", "data": "iVBORw0KGgo="}


def test_fields_that_nobody_knows_pass_through_untouched(client: openai.OpenAI, shared: House) -> None:
    shared.upstream.on("unknown", speaks("openai"))
    odd = {"guided_thing": {"ä": [1, None, {"b": 0.1}]}, "big": 2**53 + 1, "temperature": 0.30000000000000004}
    client.chat.completions.create(model="openai/unknown", messages=ASK, extra_body=odd)
    body = seen(shared, "unknown").body
    assert body == odd | {"model": "unknown", "messages": ASK}


def test_fields_that_nobody_knows_come_back_untouched(client: openai.OpenAI, shared: House) -> None:
    told = b'{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[],"odd":{"deep":[1e-9]}}'
    shared.upstream.on("odd", says(200, told))
    raw = client.chat.completions.with_raw_response.create(model="openai/odd", messages=ASK)
    assert raw.content == told


# The async client.


@every_wire
def test_the_async_client_asks_many_things_at_once(wire: Wire, shared: House) -> None:
    shared.upstream.on("async", speaks(wire))

    async def streamed(client: openai.AsyncOpenAI) -> str:
        stream = await client.chat.completions.create(model=f"{wire}/async", messages=ASK, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

    async def plain(client: openai.AsyncOpenAI) -> str | None:
        chat = await client.chat.completions.create(model=f"{wire}/async", messages=ASK)
        return chat.choices[0].message.content

    async def all_of_them() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=f"{shared.url}/v1", api_key=KEY, max_retries=0) as client:
            return await asyncio.gather(
                *(streamed(client) for _ in range(4)), *(plain(client) for _ in range(4))
            )

    assert asyncio.run(all_of_them()) == [TEXT] * 8
