"""Answers of Anthropic as chat answers; the openai package reads them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.serve.wires.checking import accumulated_chat, chat_completion, fed, message

from raymill.serve.gateway.wires.anthropic_answer import ChatStreamOfMessages, answer_of_messages
from raymill.serve.gateway.wires.anthropic_out import JSON_TOOL
from raymill.serve.gateway.wires.errors import BadAnswer, ProviderError
from raymill.serve.gateway.wires.sse import BadStream

Json = dict[str, Any]

USAGE = {
    "input_tokens": 10,
    "cache_read_input_tokens": 100,
    "cache_creation_input_tokens": 5,
    "output_tokens": 7,
    "output_tokens_details": {"thinking_tokens": 3},
}
TEXT = {"type": "text", "text": "It rains."}
THINKING = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Bonn"}}
IDLE = {"type": "tool_use", "id": "toolu_2", "name": "now", "input": {}}
ANSWER = {"type": "tool_use", "id": "toolu_3", "name": JSON_TOOL, "input": {"a": [1, 2]}}


def answer(*content: Json, stop_reason: str = "end_turn", **more: Any) -> Json:
    made = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude",
        "content": list(content),
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": USAGE,
        **more,
    }
    message(made)
    return made


def stream(*content: Json, stop_reason: str = "end_turn", **delta: Any) -> list[Json]:
    """The events that Anthropic sends for an answer."""
    start = answer(stop_reason=stop_reason) | {"stop_reason": None}
    events: list[Json] = [{"type": "message_start", "message": start}, {"type": "ping"}]
    for index, block in enumerate(content):
        if block["type"] == "text":
            opened, deltas = (
                {"type": "text", "text": ""},
                [{"type": "text_delta", "text": c} for c in block["text"]],
            )
        elif block["type"] == "thinking":
            opened = {"type": "thinking", "thinking": "", "signature": ""}
            deltas = [{"type": "thinking_delta", "thinking": c} for c in block["thinking"]]
            deltas.append({"type": "signature_delta", "signature": block["signature"]})
        else:
            text = json.dumps(block["input"]) if block["input"] else ""
            opened = block | {"input": {}}
            deltas = [{"type": "input_json_delta", "partial_json": c} for c in ["", *text]]
        events.append({"type": "content_block_start", "index": index, "content_block": opened})
        events += [{"type": "content_block_delta", "index": index, "delta": one} for one in deltas]
        events.append({"type": "content_block_stop", "index": index})
    end = {"stop_reason": stop_reason, "stop_sequence": None, **delta}
    events.append({"type": "message_delta", "delta": end, "usage": {"output_tokens": 7}})
    events.append({"type": "a_new_event"})
    events.append({"type": "message_stop"})
    return events


def test_text_and_usage() -> None:
    made = chat_completion(answer_of_messages(answer(TEXT)))
    assert made.choices[0].message.content == "It rains."
    assert made.choices[0].finish_reason == "stop"
    assert made.usage is not None
    assert (made.usage.prompt_tokens, made.usage.completion_tokens, made.usage.total_tokens) == (115, 7, 122)
    details = made.usage.prompt_tokens_details
    assert details is not None
    assert (details.cached_tokens, details.cache_write_tokens) == (100, 5)
    assert made.usage.completion_tokens_details is not None
    assert made.usage.completion_tokens_details.reasoning_tokens == 3


@pytest.mark.parametrize(
    ("stop_reason", "finish_reason"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
    ],
)
def test_reasons_to_stop(stop_reason: str, finish_reason: str) -> None:
    whole = chat_completion(answer_of_messages(answer(TEXT, stop_reason=stop_reason)))
    streamed = accumulated_chat(fed(ChatStreamOfMessages(), stream(TEXT, stop_reason=stop_reason)))
    assert whole.choices[0].finish_reason == finish_reason == streamed.choices[0].finish_reason
    assert bool(whole.choices[0].message.refusal) is (stop_reason == "refusal")


@pytest.mark.parametrize(
    "content",
    [
        [TEXT],
        [TEXT, TEXT],
        [TEXT, CALL],
        [CALL, IDLE],
        [THINKING, TEXT],
        [THINKING, CALL, TEXT],
        [ANSWER],
        [CALL, ANSWER],
        [],
    ],
    ids=lambda content: "+".join(block["type"] for block in content) or "nothing",
)
def test_a_stream_adds_up_to_the_whole_answer(content: list[Json]) -> None:
    stop_reason = "tool_use" if any(block["type"] == "tool_use" for block in content) else "end_turn"
    whole: Any = chat_completion(answer_of_messages(answer(*content, stop_reason=stop_reason)))
    streamed = accumulated_chat(fed(ChatStreamOfMessages(), stream(*content, stop_reason=stop_reason)))
    one, other = whole.choices[0], streamed.choices[0]
    assert (one.message.content or "") == (other.message.content or "").replace(", ", ",").replace(": ", ":")
    assert one.finish_reason == other.finish_reason
    assert whole.usage == streamed.usage
    assert getattr(one.message, "reasoning_content", None) == getattr(
        other.message, "reasoning_content", None
    )
    calls = [
        [(call.id, call.function.name, call.function.arguments.replace(" ", "")) for call in made or ()]
        for made in (one.message.tool_calls, other.message.tool_calls)
    ]
    assert calls[0] == calls[1]


def test_the_tool_for_json_answers_is_content() -> None:
    made = chat_completion(answer_of_messages(answer(ANSWER, stop_reason="tool_use"))).choices[0]
    assert (made.message.content, made.finish_reason, made.message.tool_calls) == (
        '{"a":[1,2]}',
        "stop",
        None,
    )


def test_thinking_can_be_handed_back() -> None:
    whole = answer_of_messages(answer(THINKING, TEXT))["choices"][0]["message"]
    assert whole["thinking_blocks"] == [THINKING]
    chunks = fed(ChatStreamOfMessages(), stream(THINKING, TEXT))
    blocks = [
        one for made in chunks for c in made["choices"] for one in c["delta"].get("thinking_blocks", [])
    ]
    assert blocks == [{"index": 0, **THINKING}]


def test_a_tool_without_input_has_an_empty_object_as_arguments() -> None:
    chunks = fed(ChatStreamOfMessages(), stream(IDLE, stop_reason="tool_use"))
    call = accumulated_chat(chunks).choices[0].message.tool_calls[0]
    assert call.function.arguments == "{}"


def test_a_refusal_says_why_when_anthropic_does() -> None:
    details = {"type": "refusal", "category": "cyber", "explanation": "No."}
    whole = answer_of_messages(answer(stop_reason="refusal", stop_details=details))
    assert whole["choices"][0]["message"]["refusal"] == "No."
    chunks = fed(ChatStreamOfMessages(), stream(stop_reason="refusal", stop_details=details))
    assert accumulated_chat(chunks).choices[0].message.refusal == "No."


@pytest.mark.parametrize("kept", range(len(stream(TEXT)) - 3))
def test_a_stream_that_breaks_is_no_answer(kept: int) -> None:
    machine = ChatStreamOfMessages()
    for event in stream(TEXT)[:kept]:
        machine.feed(event)
    assert not machine.finished
    with pytest.raises(BadStream, match="before the answer was whole"):
        machine.end()


def test_an_error_event_is_the_providers_error() -> None:
    event = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    with pytest.raises(ProviderError, match="Overloaded") as caught:
        ChatStreamOfMessages().feed(event)
    assert (caught.value.status, caught.value.code) == (529, "overloaded_error")
    with pytest.raises(ProviderError):
        answer_of_messages(event)


@pytest.mark.parametrize("odd", [{}, {"content": 1}, {"content": [{}]}, {"content": [], "stop_reason": "x"}])
def test_an_answer_of_another_shape_is_a_bad_answer(odd: Json) -> None:
    with pytest.raises(BadAnswer, match="not what its API says"):
        answer_of_messages(odd)


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"type": "content_block_delta"},
        {"type": "content_block_delta", "index": 0, "delta": 3},
        {"type": "message_start"},
    ],
)
def test_an_event_of_another_shape_is_a_bad_answer(odd: Json) -> None:
    with pytest.raises(BadAnswer):
        ChatStreamOfMessages().feed(odd)
