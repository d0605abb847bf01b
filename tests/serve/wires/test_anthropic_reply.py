"""Chat answers said to clients of the Messages API; the anthropic package reads them."""

from __future__ import annotations

from typing import Any

import pytest
from anthropic.types.shared.error_response import ErrorResponse
from tests.serve.wires.checking import (
    accumulated_messages,
    called,
    chunk,
    completion,
    fed,
    message,
    pieces,
    usage_chunk,
)

from raymill.serve.gateway.wires.anthropic_reply import MessagesStream, messages_error, messages_of_answer
from raymill.serve.gateway.wires.errors import BadAnswer, ProviderError
from raymill.serve.gateway.wires.sse import BadStream

Json = dict[str, Any]

TEXT: Json = {"role": "assistant", "content": "It rains in Bonn."}
CALLS = [called("weather", '{"city": "Bonn", "days": [1, 2]}'), called("now", "{}", "call_2")]


def chunks_of(said: Json, finish_reason: str, size: int = 3) -> list[Json]:
    """The chunks that a provider sends for a message."""
    chunks = [chunk({"role": "assistant", "content": ""})]
    for name in ("reasoning_content", "content", "refusal"):
        chunks += [chunk({name: piece}) for piece in pieces(said.get(name) or "", size)]
    for index, call in enumerate(said.get("tool_calls", [])):
        function = call["function"]
        head = {"index": index, "id": call["id"], "type": "function"}
        chunks.append(
            chunk({"tool_calls": [{**head, "function": {"name": function["name"], "arguments": ""}}]})
        )
        chunks += [
            chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
            for piece in pieces(function["arguments"], size)
        ]
    return [*chunks, chunk({}, finish_reason), usage_chunk(10, 4, cached=3)]


def test_text_and_usage() -> None:
    made = message(messages_of_answer(completion(TEXT), "alias"))
    assert (made.model, made.role, made.stop_reason) == ("alias", "assistant", "end_turn")
    assert [block.model_dump(exclude_none=True) for block in made.content] == [
        {"type": "text", "text": "It rains in Bonn."}
    ]
    usage = made.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (7, 3, 4)


@pytest.mark.parametrize(
    ("said", "finish_reason", "stop_reason"),
    [
        (TEXT, "stop", "end_turn"),
        (TEXT, "length", "max_tokens"),
        (TEXT, "content_filter", "refusal"),
        ({"role": "assistant", "content": None, "tool_calls": CALLS}, "tool_calls", "tool_use"),
        ({**TEXT, "tool_calls": CALLS}, "tool_calls", "tool_use"),
        ({"role": "assistant", "content": None, "refusal": "I cannot."}, "stop", "refusal"),
        ({"role": "assistant", "content": ""}, "stop", "end_turn"),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_stream_adds_up_to_the_whole_answer(
    said: Json, finish_reason: str, stop_reason: str, size: int
) -> None:
    whole = message(messages_of_answer(completion(said, finish_reason), "alias"))
    events = fed(MessagesStream("alias", prompt_tokens=99), chunks_of(said, finish_reason, size))
    streamed = accumulated_messages(events)
    assert streamed.stop_reason == whole.stop_reason == stop_reason
    assert [block.model_dump(exclude={"parsed_output"}) for block in streamed.content] == [
        block.model_dump() for block in whole.content
    ]
    assert streamed.usage.model_dump(exclude_none=True) | {"cache_creation_input_tokens": 0} == (
        whole.usage.model_dump(exclude_none=True)
    )


def test_events_come_in_anthropics_order() -> None:
    said = {**TEXT, "tool_calls": CALLS[:1]}
    kinds = [event["type"] for event in fed(MessagesStream("alias"), chunks_of(said, "tool_calls", 100))]
    block = ["content_block_start", "content_block_delta", "content_block_stop"]
    assert kinds == ["message_start", *block, *block, "message_delta", "message_stop"]


def test_text_arrives_with_its_chunk() -> None:
    machine = MessagesStream("alias")
    machine.feed(chunk({"role": "assistant", "content": ""}))
    assert machine.feed(chunk({"content": "It"}))[-1] == {
        "type": "content_block_delta",
        "index": 0,
        "delta": {"type": "text_delta", "text": "It"},
    }


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_reasoning_is_a_thinking_block_only_for_who_asked(asked: bool, name: str) -> None:
    said = {**TEXT, name: "Hm."}
    whole = message(messages_of_answer(completion(said), "alias", thinking=asked))
    chunks = [chunk({name: "H"}), chunk({name: "m."}), *chunks_of(TEXT, "stop")]
    streamed = accumulated_messages(fed(MessagesStream("alias", thinking=asked), chunks))
    kinds = ["thinking", "text"] if asked else ["text"]
    assert [block.type for block in whole.content] == kinds == [block.type for block in streamed.content]
    if asked:
        assert streamed.content[0].model_dump() == whole.content[0].model_dump()


def test_a_stop_sequence_is_told_where_the_server_tells_it() -> None:
    answer = completion(TEXT)
    answer["choices"][0]["stop_reason"] = "END"  # as vLLM does
    made = message(messages_of_answer(answer, "alias"))
    assert (made.stop_reason, made.stop_sequence) == ("stop_sequence", "END")


def test_calls_without_an_index_are_told_apart_by_their_ids() -> None:
    chunks = [
        chunk({"tool_calls": [{"id": call["id"], "type": "function", "function": call["function"]}]})
        for call in CALLS
    ]
    made = accumulated_messages(fed(MessagesStream("alias"), [*chunks, chunk({}, "tool_calls")]))
    assert [block.model_dump(include={"id", "input"}) for block in made.content] == [
        {"id": "call_1", "input": {"city": "Bonn", "days": [1, 2]}},
        {"id": "call_2", "input": {}},
    ]


def test_arguments_that_come_in_turns_are_refused() -> None:
    machine = MessagesStream("alias")
    for index in (0, 1):
        machine.feed(chunk({"tool_calls": [{"index": index, "id": f"c{index}", "function": {"name": "f"}}]}))
    with pytest.raises(BadStream, match="mixes the arguments"):
        machine.feed(chunk({"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]}))


def test_a_stream_that_breaks_is_no_answer() -> None:
    chunks = chunks_of(TEXT, "stop")
    for kept in range(len(chunks) - 1):
        machine = MessagesStream("alias")
        for made in chunks[:kept]:
            machine.feed(made)
        with pytest.raises(BadStream, match="before the answer was whole"):
            machine.end()


def test_a_call_that_the_limit_cut_off_is_left_out() -> None:
    said = {**TEXT, "tool_calls": [called("weather", '{"city": "Bo')]}
    made = message(messages_of_answer(completion(said, "length"), "alias"))
    assert ([block.type for block in made.content], made.stop_reason) == (["text"], "max_tokens")
    with pytest.raises(BadAnswer):
        messages_of_answer(completion(said, "tool_calls"), "alias")


@pytest.mark.parametrize("odd", [{}, {"choices": []}, {"choices": [{"message": 5}]}])
def test_an_answer_of_another_shape_is_a_bad_answer(odd: Json) -> None:
    with pytest.raises(BadAnswer):
        messages_of_answer(odd, "alias")


def test_an_error_chunk_is_the_providers_error() -> None:
    error = {"error": {"message": "Too many.", "type": "rate_limit_error", "code": "rate_limit_exceeded"}}
    with pytest.raises(ProviderError, match="Too many") as caught:
        MessagesStream("alias").feed(error)
    assert caught.value.status == 429


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [
        (400, None, "invalid_request_error"),
        (401, None, "authentication_error"),
        (402, None, "billing_error"),
        (403, None, "permission_error"),
        (404, None, "not_found_error"),
        (413, None, "request_too_large"),
        (422, None, "invalid_request_error"),
        (429, "budget_exceeded", "rate_limit_error"),
        (500, "server_error", "api_error"),
        (502, None, "api_error"),
        (503, None, "overloaded_error"),
        (504, None, "timeout_error"),
        (529, None, "overloaded_error"),
        (400, "billing_error", "billing_error"),
    ],
)
def test_errors_have_anthropics_shape_and_types(status: int, kind: str | None, said: str) -> None:
    body = messages_error(status, kind, "No.", "req_1")
    assert body == {"type": "error", "error": {"type": said, "message": "No."}, "request_id": "req_1"}
    if said != "request_too_large":  # which the package has no type for
        assert ErrorResponse.model_validate(body).error.type == said
