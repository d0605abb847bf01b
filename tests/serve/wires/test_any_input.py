"""Whatever comes in, from a client or from a provider: a translation, or one of our own errors."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.serve.wires import test_anthropic_answer, test_gemini_answer
from tests.serve.wires.checking import chunk, completion
from tests.serve.wires.test_anthropic_reply import CALLS, TEXT, chunks_of

from raymill.policies.errors import Invalid
from raymill.serve.gateway.wires.anthropic_answer import ChatStreamOfMessages, answer_of_messages
from raymill.serve.gateway.wires.anthropic_in import chat_of_messages, count_of_messages, wants_thinking
from raymill.serve.gateway.wires.anthropic_out import messages_of_chat
from raymill.serve.gateway.wires.anthropic_reply import MessagesStream, messages_of_answer
from raymill.serve.gateway.wires.errors import BadAnswer, ProviderError, provider_error
from raymill.serve.gateway.wires.gemini_answer import ChatStreamOfGemini, answer_of_gemini
from raymill.serve.gateway.wires.gemini_embeddings import embeddings_of_gemini, gemini_of_embeddings
from raymill.serve.gateway.wires.gemini_out import gemini_of_chat
from raymill.serve.gateway.wires.responses_in import chat_of_responses
from raymill.serve.gateway.wires.responses_reply import response_of_answer
from raymill.serve.gateway.wires.responses_stream import ResponsesStream
from raymill.serve.gateway.wires.usage import prompt_tokens_bound

Json = dict[str, Any]

SCHEMA: Json = {
    "type": "object",
    "properties": {"a": {"type": "string", "minLength": 1}, "b": {"allOf": [{"$ref": "#/$defs/X"}]}},
    "required": ["a"],
    "$defs": {"X": {"anyOf": [{"const": 1}, {"type": "array", "items": {"type": "null"}}]}},
}
FUNCTION: Json = {"name": "f", "description": "d", "parameters": SCHEMA, "strict": True}
PNG = "data:image/png;base64,QUJD"
CHAT: Json = {
    "model": "m",
    "messages": [
        {"role": "system", "content": "s"},
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": PNG}}, {"type": "text", "text": "t"}],
        },
        {
            "role": "assistant",
            "content": "x",
            "tool_calls": [
                {**CALLS[0], "extra_content": {"google": {"thought_signature": "c2ln"}}},
            ],
            "thinking_blocks": [{"type": "thinking", "thinking": "t", "signature": "s"}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "r"},
        {
            "role": "user",
            "content": [{"type": "file", "file": {"file_data": "data:application/pdf;base64,QQ=="}}],
        },
    ],
    "tools": [{"type": "function", "function": FUNCTION}],
    "tool_choice": {
        "type": "allowed_tools",
        "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "f"}}]},
    },
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}},
    "stop": ["a"],
    "temperature": 0.5,
    "max_tokens": 5,
    "reasoning_effort": "high",
    "user": "u",
}
MESSAGES: Json = {
    "model": "m",
    "max_tokens": 5,
    "system": [{"type": "text", "text": "s"}],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QQ=="}},
                {
                    "type": "document",
                    "title": "t",
                    "source": {"type": "content", "content": [{"type": "text", "text": "x"}]},
                },
                {
                    "type": "search_result",
                    "title": "t",
                    "source": "s",
                    "content": [{"type": "text", "text": "x"}],
                },
            ],
        },
        {"role": "assistant", "content": [{"type": "tool_use", "id": "i", "name": "f", "input": {"a": 1}}]},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "i", "content": [{"type": "text", "text": "x"}]}
            ],
        },
    ],
    "tools": [{"name": "f", "input_schema": SCHEMA}],
    "tool_choice": {"type": "tool", "name": "f"},
    "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "metadata": {"user_id": "u"},
    "stop_sequences": ["x"],
}
RESPONSES: Json = {
    "model": "m",
    "instructions": "i",
    "input": [
        {
            "role": "user",
            "content": [{"type": "input_text", "text": "t"}, {"type": "input_image", "image_url": PNG}],
        },
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "t"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "t"}]},
    ],
    "tools": [{"type": "function", **FUNCTION}],
    "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
    "text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}},
    "reasoning": {"effort": "low"},
    "include": ["message.output_text.logprobs"],
}
EMBEDDINGS: Json = {"model": "m", "input": ["a", "b"], "dimensions": 4, "encoding_format": "base64"}

ODD: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, 0, -1, 1.5, "", "x", "auto", [], [None], ["x"], {}, {"type": "x"}, {"x": []}]
)


@st.composite
def damaged(draw: st.DrawFn, whole: Any) -> Any:
    """The value with one to three places in it replaced, or taken away."""
    value = copy.deepcopy(whole)
    for _ in range(draw(st.integers(1, 3))):
        place = value
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = draw(st.sampled_from(keys)) if keys else None
            inner = None if key is None else place[key]
            if isinstance(inner, dict | list) and inner and draw(st.integers(0, 3)):
                place = inner
                continue
            if key is not None and isinstance(place, dict) and not draw(st.integers(0, 3)):
                del place[key]
            elif key is not None:
                place[key] = copy.deepcopy(draw(ODD))
            break
    return value


REQUESTS: list[tuple[Callable[[Json], Any], Json]] = [
    (lambda body: messages_of_chat(body, 100), CHAT),
    (gemini_of_chat, CHAT),
    (chat_of_messages, MESSAGES),
    (count_of_messages, MESSAGES),
    (wants_thinking, MESSAGES),
    (chat_of_responses, RESPONSES),
    (gemini_of_embeddings, EMBEDDINGS),
    (lambda body: messages_of_chat(chat_of_messages(body), 1), MESSAGES),
    (lambda body: gemini_of_chat(chat_of_responses(body)), RESPONSES | {"include": []}),
]


@pytest.mark.parametrize(("translate", "whole"), REQUESTS)
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_request_is_translated_or_refused_with_its_place(
    translate: Callable[[Json], Any], whole: Json, data: st.DataObject
) -> None:
    msgspec.json.encode(translate(copy.deepcopy(whole)))
    body = data.draw(damaged(whole))
    prompt_tokens_bound(body)
    refusal = None
    try:
        msgspec.json.encode(translate(body))
    except Invalid as error:
        refusal = error
    assert refusal is None or refusal.param
    assert "\n" not in str(refusal)


WHOLE_CHAT = completion({**TEXT, "tool_calls": CALLS, "reasoning_content": "r"}, "tool_calls")
WHOLE_MESSAGE = test_anthropic_answer.answer(
    test_anthropic_answer.THINKING,
    test_anthropic_answer.TEXT,
    test_anthropic_answer.CALL,
    stop_reason="tool_use",
)
WHOLE_GEMINI = test_gemini_answer.event(
    test_gemini_answer.THOUGHT, test_gemini_answer.TEXT, test_gemini_answer.CALL, finish="STOP"
)
ANSWERS: list[tuple[Callable[[Any], Any], Any]] = [
    (answer_of_messages, WHOLE_MESSAGE),
    (lambda answer: answer_of_gemini(answer, "m"), WHOLE_GEMINI),
    (lambda answer: messages_of_answer(answer, "m", thinking=True), WHOLE_CHAT),
    (lambda answer: response_of_answer(answer, RESPONSES), WHOLE_CHAT),
    (
        lambda answer: embeddings_of_gemini(answer, EMBEDDINGS),
        {"embeddings": [{"values": [1.0]}, {"values": [2.0]}], "usageMetadata": {"promptTokenCount": 2}},
    ),
]


@pytest.mark.parametrize(("translate", "whole"), ANSWERS)
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_an_answer_is_translated_or_a_bad_answer(
    translate: Callable[[Any], Any], whole: Any, data: st.DataObject
) -> None:
    msgspec.json.encode(translate(copy.deepcopy(whole)))
    with contextlib.suppress(BadAnswer, ProviderError):
        translate(data.draw(damaged(whole)))


STREAMS: list[tuple[Callable[[], Any], list[Json]]] = [
    (
        ChatStreamOfMessages,
        test_anthropic_answer.stream(
            test_anthropic_answer.THINKING,
            test_anthropic_answer.CALL,
            test_anthropic_answer.TEXT,
            stop_reason="tool_use",
        ),
    ),
    (lambda: ChatStreamOfGemini("m"), [test_gemini_answer.event(test_gemini_answer.TEXT), WHOLE_GEMINI]),
    (
        lambda: MessagesStream("m", thinking=True),
        [chunk({"reasoning": "r"}), *chunks_of({**TEXT, "tool_calls": CALLS}, "tool_calls", 9)],
    ),
    (lambda: ResponsesStream(RESPONSES), chunks_of({**TEXT, "tool_calls": CALLS}, "tool_calls", 9)),
]


@pytest.mark.parametrize(("machine", "whole"), STREAMS)
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_stream_is_translated_or_a_bad_answer(
    machine: Callable[[], Any], whole: list[Json], data: st.DataObject
) -> None:
    made = machine()
    with contextlib.suppress(BadAnswer, ProviderError):
        for event in data.draw(damaged(whole)):
            msgspec.json.encode(made.feed(event))
        msgspec.json.encode(made.end())


@settings(deadline=None)
@given(
    st.recursive(
        ODD,
        lambda inner: st.fixed_dictionaries(
            {}, optional={"error": inner, "message": inner, "code": inner, "status": inner, "type": inner}
        ),
    )
)
def test_any_error_of_a_provider_can_be_told(body: Any) -> None:
    error = provider_error(body, 503)
    assert str(error)
    assert 400 <= error.status < 600
