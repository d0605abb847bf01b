"""The Responses API in front of chat; the openai package judges and reads."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming
from pydantic import TypeAdapter
from tests.serve.wires.checking import (
    accumulated_response,
    called,
    check_chat_request,
    chunk,
    completion,
    consumed,
    fed,
    response,
)
from tests.serve.wires.test_anthropic_reply import CALLS, TEXT, chunks_of

from raymill.policies.errors import Invalid
from raymill.serve.gateway.wires.errors import BadAnswer, ProviderError, Untranslatable
from raymill.serve.gateway.wires.responses_in import chat_of_responses
from raymill.serve.gateway.wires.responses_reply import response_of_answer
from raymill.serve.gateway.wires.responses_stream import ResponsesStream
from raymill.serve.gateway.wires.sse import BadStream

Json = dict[str, Any]

_request = TypeAdapter(ResponseCreateParamsNonStreaming)
WEATHER: Json = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {}},
    "strict": True,
}
BODY: Json = {
    "model": "alias",
    "input": "Hi",
    "instructions": "Be brief.",
    "tools": [WEATHER],
    "metadata": {"a": "b"},
}


def translated(**fields: Any) -> Json:
    body = {"model": "gpt", "input": "Hi", **fields}
    if not body.get("stream"):
        consumed(_request.validate_python(body))
    before = copy.deepcopy(body)
    out = chat_of_responses(body)
    assert body == before
    check_chat_request(out)
    return out


def test_a_plain_request_keeps_its_meaning() -> None:
    assert translated(
        instructions="Be brief.",
        max_output_tokens=50,
        temperature=0.5,
        top_p=0.9,
        user="ada",
        reasoning={"effort": "low", "summary": "auto"},
        text={"verbosity": "low", "format": {"type": "text"}},
        stream=True,
        store=True,
        include=["reasoning.encrypted_content"],
        truncation="auto",
    ) == {
        "model": "gpt",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        "max_tokens": 50,
        "temperature": 0.5,
        "top_p": 0.9,
        "user": "ada",
        "reasoning_effort": "low",
        "verbosity": "low",
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_items_are_messages() -> None:
    said = {"type": "output_text", "text": "Looking.", "annotations": []}
    shown = [
        {"type": "input_text", "text": "The picture:"},
        {"type": "input_image", "image_url": "data:image/png;base64,QUJD", "detail": "low"},
    ]
    items = [
        {"role": "developer", "content": "Be kind."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [said]},
        {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{}"},
        {"type": "function_call", "call_id": "call_2", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": shown},
        {"type": "function_call_output", "call_id": "call_2", "output": "rain"},
        {
            "role": "user",
            "content": [{"type": "input_file", "filename": "a", "file_data": "data:x;base64,QQ=="}],
        },
    ]
    assert translated(input=items)["messages"] == [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
        {
            "role": "assistant",
            "content": "Looking.",
            "tool_calls": [called("weather", "{}"), called("weather", "{}", "call_2")],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "The picture:"},
        {"role": "tool", "tool_call_id": "call_2", "content": "rain"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "From the result of tool call call_1:"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD", "detail": "low"}},
            ],
        },
        {
            "role": "user",
            "content": [{"type": "file", "file": {"file_data": "data:x;base64,QQ==", "filename": "a"}}],
        },
    ]


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ("required", "required"),
        ({"type": "function", "name": "weather"}, {"type": "function", "function": {"name": "weather"}}),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "weather"}]},
            {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "auto",
                    "tools": [{"type": "function", "function": {"name": "weather"}}],
                },
            },
        ),
    ],
)
def test_tools_and_choices(choice: Any, said: Any) -> None:
    out = translated(tools=[WEATHER], tool_choice=choice, parallel_tool_calls=False)
    function = {"name": "weather", "parameters": WEATHER["parameters"], "strict": True}
    assert out["tools"] == [{"type": "function", "function": function}]
    assert (out["tool_choice"], out["parallel_tool_calls"]) == (said, False)


def test_a_text_format_is_a_response_format() -> None:
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    wanted = {"type": "json_schema", "name": "answer", "schema": schema, "strict": True}
    assert translated(text={"format": wanted})["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": schema, "strict": True},
    }
    assert translated(text={"format": {"type": "json_object"}})["response_format"] == {"type": "json_object"}


def test_log_probabilities_are_asked_for() -> None:
    out = translated(include=["message.output_text.logprobs"], top_logprobs=2)
    assert (out["logprobs"], out["top_logprobs"]) == (True, 2)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"background": True}, "background"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"tools": [WEATHER], "tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "input[0].content[0]",
        ),
    ],
)
def test_what_chat_cannot_do_is_refused_by_name(fields: Json, param: str) -> None:
    with pytest.raises(Untranslatable) as caught:
        chat_of_responses({"model": "m", "input": "Hi", **fields})
    assert caught.value.param == param


def test_a_refused_tool_is_named_with_the_cure() -> None:
    tools = [{"type": "custom", "name": "apply_patch"}]
    with pytest.raises(
        Untranslatable, match=r"'apply_patch' is of type 'custom'.*leave it out, give it as a tool"
    ):
        chat_of_responses({"model": "m", "input": "Hi", "tools": tools})


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": [5]}, r"input\[0\]"),
        ({"input": [{"role": "robot", "content": "x"}]}, r"input\[0\].role"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, r"input\[0\].call_id"),
        ({"text": {"format": {"type": "xml"}}}, "text.format"),
        ({"reasoning": "much"}, "reasoning"),
        ({"tools": "all"}, "tools"),
    ],
)
def test_malformed_requests_are_refused_with_the_place(fields: Json, where: str) -> None:
    with pytest.raises(Invalid, match=where):
        chat_of_responses({"model": "m", "input": "Hi", **fields})


def test_a_whole_answer_is_a_response() -> None:
    made = response(response_of_answer(completion({**TEXT, "tool_calls": CALLS}, "tool_calls"), BODY))
    assert (made.status, made.model, made.instructions) == ("completed", "alias", "Be brief.")
    assert (made.output_text, made.metadata) == ("It rains in Bonn.", {"a": "b"})
    assert [item.type for item in made.output] == ["message", "function_call", "function_call"]
    assert made.usage is not None
    assert (made.usage.input_tokens, made.usage.output_tokens, made.usage.total_tokens) == (10, 4, 14)
    assert made.usage.input_tokens_details.cached_tokens == 3


@pytest.mark.parametrize(
    ("said", "finish_reason", "status"),
    [
        (TEXT, "stop", "completed"),
        (TEXT, "length", "incomplete"),
        (TEXT, "content_filter", "incomplete"),
        ({"role": "assistant", "content": None, "tool_calls": CALLS}, "tool_calls", "completed"),
        ({**TEXT, "tool_calls": CALLS}, "tool_calls", "completed"),
        ({"role": "assistant", "content": None, "refusal": "I cannot."}, "stop", "completed"),
        ({**TEXT, "refusal": "No more."}, "stop", "completed"),
        ({"role": "assistant", "content": ""}, "stop", "completed"),
    ],
)
@pytest.mark.parametrize("size", [1, 100])
def test_a_stream_adds_up_to_the_whole_answer(said: Json, finish_reason: str, status: str, size: int) -> None:
    whole = response(response_of_answer(completion(said, finish_reason), BODY))
    events = fed(ResponsesStream(BODY), chunks_of(said, finish_reason, size))
    streamed = accumulated_response(events)
    assert streamed.status == whole.status == status
    last = response(events[-1]["response"])
    assert [item.to_dict() for item in last.output] == [item.to_dict() for item in whole.output]
    assert streamed.usage == whole.usage
    assert streamed.incomplete_details == whole.incomplete_details
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


def test_events_come_in_openais_order() -> None:
    said = {**TEXT, "tool_calls": CALLS[:1]}
    events = fed(ResponsesStream(BODY), chunks_of(said, "tool_calls", 100))
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    added = [event["item"] for event in events if event["type"] == "response.output_item.added"]
    assert [item["status"] for item in added] == ["in_progress", "in_progress"]
    assert added[0]["content"] == []


def test_a_stream_that_breaks_ends_as_failed_and_never_as_completed() -> None:
    machine = ResponsesStream(BODY)
    events = [event for made in chunks_of(TEXT, "stop")[:3] for event in machine.feed(made)]
    with pytest.raises(BadStream, match="before the answer was whole"):
        machine.end()
    failed = machine.fail("The provider is away.", "rate_limit_exceeded")
    made = accumulated_response([*events, *failed])
    assert (made.status, made.error.code, made.error.message) == (
        "failed",
        "rate_limit_exceeded",
        "The provider is away.",
    )


def test_a_stream_that_fails_before_its_first_chunk_still_has_a_response() -> None:
    events = ResponsesStream(BODY).fail("Away.", "engine_unavailable")
    assert [event["type"] for event in events] == [
        "response.created",
        "response.in_progress",
        "response.failed",
    ]
    assert accumulated_response(events).error.code == "server_error"


def test_what_is_no_chat_answer_is_a_bad_answer() -> None:
    with pytest.raises(BadAnswer):
        response_of_answer({"choices": []}, BODY)
    with pytest.raises(BadAnswer):
        ResponsesStream(BODY).feed({"id": "x", "choices": [{"delta": {"tool_calls": [5]}}]})
    with pytest.raises(ProviderError, match="Full"):
        ResponsesStream(BODY).feed({"error": {"message": "Full.", "code": 503}})


def test_calls_without_an_index_are_told_apart_by_their_ids() -> None:
    chunks = [
        chunk({"tool_calls": [{"id": call["id"], "type": "function", "function": call["function"]}]})
        for call in CALLS
    ]
    made = accumulated_response(fed(ResponsesStream(BODY), [*chunks, chunk({}, "tool_calls")]))
    assert [(item.call_id, item.arguments) for item in made.output] == [
        ("call_1", '{"city": "Bonn", "days": [1, 2]}'),
        ("call_2", "{}"),
    ]
