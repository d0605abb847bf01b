"""Providers of every wire behind one gateway: what each answers, plain or as a stream, is scripted by a test.

Any model is reached by `<provider>/<model>`, so that a test picks a model of its own and shares the rest.
The providers are called after their wires; `chat-only` speaks the OpenAI wire but has no Responses.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import pytest
from tests.serve.gateway_tools import made, provider, source_of
from tests.serve.scripted_upstream import (
    DONE,
    HEAD,
    USAGE,
    Act,
    Script,
    Seen,
    Writer,
    says,
    scripted,
    streams,
)

from raymill.serve.gateway.app import Gateway

Wire = Literal["openai", "anthropic", "gemini"]
Json = dict[str, Any]

WIRES: tuple[Wire, ...] = ("openai", "anthropic", "gemini")
PRESET_OF = {"openai": "vllm", "chat-only": "llama-cpp", "anthropic": "anthropic", "gemini": "gemini"}
TEXT = "Hello there."


class House(NamedTuple):
    """A gateway, and the one upstream that plays all of its providers."""

    url: str
    app: Gateway
    upstream: Script


@pytest.fixture(scope="module")
def shared() -> Iterator[House]:
    with scripted() as upstream:
        providers = [provider(name, upstream.url, preset=preset) for name, preset in PRESET_OF.items()]
        with made(source=source_of(providers)) as (app, url):
            yield House(url, app, upstream)


def seen(shared: House, model: str) -> Seen:
    """What went upstream last."""
    return shared.upstream.requests(model)[-1]


def speaks(wire: Wire, text: str = TEXT) -> Act:
    """Says `text`, which took 10 tokens and gave 5."""
    words = re.findall(r"\S+\s*", text)
    if wire == "openai":
        deltas: list[Json] = [{"role": "assistant", "content": ""}, *({"content": word} for word in words)]
        return _openai({"role": "assistant", "content": text}, deltas, "stop")
    if wire == "anthropic":
        pieces = [{"type": "text_delta", "text": word} for word in words]
        return _anthropic({"type": "text", "text": text}, {"type": "text", "text": ""}, pieces, "end_turn")
    return _gemini([{"text": word} for word in words])


def calls(wire: Wire, name: str, arguments: Json) -> Act:
    """Calls a function."""
    told = json.dumps(arguments)
    halves = told[:4], told[4:]
    if wire == "openai":
        call = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": told}}
        begin = {**call, "index": 0, "function": {"name": name, "arguments": ""}}
        deltas: list[Json] = [{"role": "assistant", "tool_calls": [begin]}]
        deltas += [{"tool_calls": [{"index": 0, "function": {"arguments": half}}]} for half in halves]
        return _openai({"role": "assistant", "content": None, "tool_calls": [call]}, deltas, "tool_calls")
    if wire == "anthropic":
        block = {"type": "tool_use", "id": "toolu_1", "name": name, "input": arguments}
        pieces = [{"type": "input_json_delta", "partial_json": half} for half in halves]
        return _anthropic(block, {**block, "input": {}}, pieces, "tool_use")
    return _gemini([{"functionCall": {"name": name, "args": arguments}}])


def breaks(wire: Wire) -> Act:
    """A stream that says a word and then ends before it is whole."""
    if wire == "openai":
        pieces = [_openai_chunk({"content": "Hello "}, None)]
    elif wire == "anthropic":
        start, first, delta, *_ = _anthropic_events({"type": "text", "text": ""}, [HELLO], "end_turn")
        pieces = [_named(start), _named(first), _named(delta)]
    else:
        pieces = [_data({"candidates": [{"content": {"parts": [{"text": "Hello "}]}}]})]
    return streams(*pieces, delay_s=0.02)


def hangs(wire: Wire) -> Act:
    """A stream that says a word and then nothing, for ever."""
    if wire == "openai":
        return streams(_openai_chunk({"content": "Hello "}, None), stall=True)
    if wire == "anthropic":
        events = _anthropic_events({"type": "text", "text": ""}, [HELLO], "end_turn")
        return streams(*map(_named, events[:3]), stall=True)
    return streams(_data({"candidates": [{"content": {"parts": [{"text": "Hello "}]}}]}), stall=True)


def refuses(wire: Wire, status: int, message: str, **headers: str) -> Act:
    """An error in the wire's own shape."""
    told: Json = {"error": {"message": message, "type": "some_error", "code": None}}
    if wire == "anthropic":
        told = {"type": "error", "error": {"type": "some_error", "message": message}}
    elif wire == "gemini":
        told = {"error": {"code": status, "message": message, "status": "SOME_ERROR"}}
    return _says(status, told, **headers)


def embeds(wire: Wire, vector: list[float], as_base64: str) -> Act:
    """One embedding, in the encoding that was asked for."""
    if wire == "gemini":
        return _says(200, {"embeddings": [{"values": vector}]})

    async def act(seen: Seen, writer: Writer) -> None:
        shown = as_base64 if seen.body.get("encoding_format") == "base64" else vector
        data = [{"object": "embedding", "index": 0, "embedding": shown}]
        usage = {"prompt_tokens": 10, "total_tokens": 10}
        await _says(200, {"object": "list", "data": data, "model": "m", "usage": usage})(seen, writer)

    return act


HELLO: Json = {"type": "text_delta", "text": "Hello "}


def _openai(message: Json, deltas: list[Json], finish: str) -> Act:
    choice = {"index": 0, "message": message, "finish_reason": finish}
    whole = HEAD | {"object": "chat.completion", "choices": [choice], "usage": USAGE}
    pieces = [_openai_chunk(delta, None) for delta in deltas] + [_openai_chunk({}, finish)]
    usage = _data(HEAD | {"object": "chat.completion.chunk", "choices": [], "usage": USAGE})
    return _either(whole, [*pieces, usage, DONE])


def _openai_chunk(delta: Json, finish: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return _data(HEAD | {"object": "chat.completion.chunk", "choices": [choice]})


MESSAGE: Json = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "scripted",
    "stop_sequence": None,
}


def _anthropic(block: Json, start: Json, pieces: list[Json], stop: str) -> Act:
    usage = {"input_tokens": 10, "output_tokens": 5}
    whole = MESSAGE | {"content": [block], "stop_reason": stop, "usage": usage}
    return _either(whole, [_named(event) for event in _anthropic_events(start, pieces, stop)])


def _anthropic_events(start: Json, pieces: list[Json], stop: str) -> list[Json]:
    begun = MESSAGE | {"content": [], "stop_reason": None, "usage": {"input_tokens": 10, "output_tokens": 1}}
    return [
        {"type": "message_start", "message": begun},
        {"type": "content_block_start", "index": 0, "content_block": start},
        *({"type": "content_block_delta", "index": 0, "delta": piece} for piece in pieces),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": stop, "stop_sequence": None},
            "usage": {"output_tokens": 5},
        },
        {"type": "message_stop"},
    ]


def _gemini(parts: list[Json]) -> Act:
    usage = {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 15}
    head = {"responseId": "r1", "modelVersion": "scripted", "usageMetadata": usage}
    events = []
    for number, part in enumerate(parts, 1):
        candidate: Json = {"index": 0, "content": {"role": "model", "parts": [part]}}
        if number == len(parts):
            candidate["finishReason"] = "STOP"
        events.append(_data(head | {"candidates": [candidate]}))
    whole = {"index": 0, "content": {"role": "model", "parts": parts}, "finishReason": "STOP"}
    return _either(head | {"candidates": [whole]}, events)


def _either(whole: Json, pieces: list[bytes]) -> Act:
    """The stream when one was asked for, on whichever wire."""

    async def act(seen: Seen, writer: Writer) -> None:
        if seen.body.get("stream") or ":streamGenerateContent?alt=sse" in seen.path:
            await streams(*pieces)(seen, writer)
        else:
            await _says(200, whole)(seen, writer)

    return act


def _says(status: int, told: Json, **headers: str) -> Act:
    return says(status, json.dumps(told).encode(), **headers)


def _data(event: Json) -> bytes:
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def _named(event: Json) -> bytes:
    return b"event: " + str(event["type"]).encode() + b"\n" + _data(event)
