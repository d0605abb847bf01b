"""The types of the official packages, as judges of what we make."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, ParsedMessage, RawMessageStreamEvent
from anthropic.types.message_create_params import (
    MessageCreateParamsNonStreaming,
    MessageCreateParamsStreaming,
)
from openai import omit
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.chat.completion_create_params import (
    CompletionCreateParamsNonStreaming,
    CompletionCreateParamsStreaming,
)
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

Json = dict[str, Any]

_event = TypeAdapter(RawMessageStreamEvent)
_response_event = TypeAdapter(ResponseStreamEvent)
_requests: dict[type, TypeAdapter[Any]] = {}


def consumed(value: Any) -> None:
    """Read all that is lazy: pydantic checks an Iterable only as it is read."""
    if isinstance(value, dict):
        for one in value.values():
            consumed(one)
    elif isinstance(value, Iterable) and not isinstance(value, str | bytes):
        for one in value:
            consumed(one)


def _checked(body: Json, kind: Any) -> None:
    if kind not in _requests:
        _requests[kind] = TypeAdapter(kind)
    consumed(_requests[kind].validate_python(body))


def check_messages_request(body: Json) -> None:
    _checked(body, MessageCreateParamsStreaming if body.get("stream") else MessageCreateParamsNonStreaming)


def check_chat_request(body: Json) -> None:
    _checked(
        body, CompletionCreateParamsStreaming if body.get("stream") else CompletionCreateParamsNonStreaming
    )


def chat_completion(answer: Json) -> ChatCompletion:
    return ChatCompletion.model_validate(answer, strict=True)


def message(answer: Json) -> Message:
    return Message.model_validate(answer, strict=True)


def response(answer: Json) -> Response:
    return Response.model_validate(answer)


def accumulated_chat(chunks: list[Json]) -> Any:
    """What openai's own client makes of these chunks."""
    state: Any = ChatCompletionStreamState()
    for chunk in chunks:
        state.handle_chunk(ChatCompletionChunk.model_validate(chunk, strict=True))
    return (
        state.current_completion_snapshot
    )  # the final one raises for finish reasons length and content_filter


def accumulated_messages(events: list[Json]) -> ParsedMessage[Any]:
    """What anthropic's own client makes of these events."""
    snapshot: ParsedMessage[Any] | None = None
    buffers: dict[int, bytes] = {}
    for event in events:
        checked = _event.validate_python(event)
        snapshot = accumulate_event(event=checked, current_snapshot=snapshot, json_bufs=buffers)
    assert snapshot is not None
    return snapshot


def accumulated_response(events: list[Json]) -> Any:
    """What openai's own client makes of these events: the response that it completes with."""
    state: Any = ResponseStreamState(input_tools=[], text_format=omit)
    handled: list[Any] = []
    for event in events:
        handled += state.handle_event(_response_event.validate_python(event))
    return handled[-1].response


def fed(machine: Any, events: Iterable[Json]) -> list[Json]:
    """All that a stream machine gives, its end included."""
    made: list[Json] = [out for event in events for out in machine.feed(event)]
    return [*made, *machine.end()]


def chunk(delta: Json, finish_reason: str | None = None, **more: Any) -> Json:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 7,
        "model": "gpt-x",
        "choices": [choice],
        **more,
    }


def usage_chunk(prompt: int, completion: int, cached: int = 0) -> Json:
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
    return {**chunk({}), "choices": [], "usage": usage}


def completion(message: Json, finish_reason: str = "stop", **more: Any) -> Json:
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
    usage = usage_chunk(10, 4, cached=3)["usage"]
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 7,
        "model": "gpt-x",
        "choices": [choice],
        "usage": usage,
        **more,
    }


def called(name: str, arguments: str, call_id: str = "call_1") -> Json:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def pieces(text: str, size: int) -> Iterator[str]:
    for start in range(0, len(text), size):
        yield text[start : start + size]
