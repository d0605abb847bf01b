"""Gemini's answers, streams and embeddings, as OpenAI gives them; the openai package reads them."""

from __future__ import annotations

import base64
import struct
from typing import Any

import pytest
from openai.types import CreateEmbeddingResponse
from tests.serve.wires.checking import accumulated_chat, chat_completion, fed

from raymill.policies.errors import Invalid
from raymill.serve.gateway.wires.errors import BadAnswer, ProviderError, Untranslatable
from raymill.serve.gateway.wires.gemini_answer import ChatStreamOfGemini, answer_of_gemini
from raymill.serve.gateway.wires.gemini_embeddings import embeddings_of_gemini, gemini_of_embeddings
from raymill.serve.gateway.wires.gemini_out import gemini_of_chat
from raymill.serve.gateway.wires.sse import BadStream

Json = dict[str, Any]

USAGE = {
    "promptTokenCount": 100,
    "cachedContentTokenCount": 60,
    "candidatesTokenCount": 5,
    "thoughtsTokenCount": 20,
    "totalTokenCount": 125,
}
THOUGHT: Json = {"text": "Hm.", "thought": True}
TEXT: Json = {"text": "It rains."}
CALL: Json = {
    "functionCall": {"id": "c1", "name": "weather", "args": {"city": "Bonn"}},
    "thoughtSignature": "c2ln",
}
IDLE: Json = {"functionCall": {"id": "c2", "name": "now"}}


def event(*parts: Json, finish: str | None = None, index: int = 0, **more: Any) -> Json:
    candidate: Json = {"content": {"role": "model", "parts": list(parts)}, "index": index}
    if finish:
        candidate["finishReason"] = finish
    return {
        "candidates": [candidate],
        "usageMetadata": USAGE,
        "responseId": "r1",
        "modelVersion": "v",
        **more,
    }


def test_text_thoughts_and_usage() -> None:
    made = chat_completion(answer_of_gemini(event(THOUGHT, TEXT, TEXT, finish="STOP"), "gemini-3"))
    assert (made.id, made.model) == ("chatcmpl-r1", "gemini-3")
    assert made.choices[0].message.content == "It rains.It rains."
    assert made.choices[0].message.reasoning_content == "Hm."  # type: ignore[attr-defined]
    assert made.usage is not None
    assert (made.usage.prompt_tokens, made.usage.completion_tokens, made.usage.total_tokens) == (100, 25, 125)
    assert made.usage.prompt_tokens_details is not None
    assert made.usage.prompt_tokens_details.cached_tokens == 60
    assert made.usage.completion_tokens_details is not None
    assert made.usage.completion_tokens_details.reasoning_tokens == 20


@pytest.mark.parametrize(
    ("finish", "parts", "finish_reason"),
    [
        ("STOP", [TEXT], "stop"),
        ("STOP", [CALL], "tool_calls"),
        ("MAX_TOKENS", [TEXT], "length"),
        ("MAX_TOKENS", [CALL], "length"),
        ("SAFETY", [], "content_filter"),
        ("RECITATION", [TEXT], "content_filter"),
        ("SOMETHING_NEW", [TEXT], "content_filter"),
    ],
)
def test_reasons_to_finish(finish: str, parts: list[Json], finish_reason: str) -> None:
    whole = chat_completion(answer_of_gemini(event(*parts, finish=finish), "m"))
    streamed = accumulated_chat(fed(ChatStreamOfGemini("m"), [event(*parts), event(finish=finish)]))
    assert whole.choices[0].finish_reason == streamed.choices[0].finish_reason == finish_reason


@pytest.mark.parametrize("parts", [[TEXT], [TEXT, CALL, IDLE], [THOUGHT, TEXT], [THOUGHT, CALL]])
@pytest.mark.parametrize("together", [True, False])
def test_a_stream_adds_up_to_the_whole_answer(parts: list[Json], together: bool) -> None:
    whole: Any = chat_completion(answer_of_gemini(event(*parts, finish="STOP"), "m"))
    groups = [parts] if together else [[part] for part in parts]
    events = [event(*group) for group in groups[:-1]] + [event(*groups[-1], finish="STOP")]
    streamed = accumulated_chat(fed(ChatStreamOfGemini("m"), events))
    one, other = whole.choices[0], streamed.choices[0]
    assert (one.message.content or "") == (other.message.content or "")
    whole_calls, streamed_calls = (
        [(call.id, call.function.name, call.function.arguments) for call in made or ()]
        for made in (one.message.tool_calls, other.message.tool_calls)
    )
    assert whole_calls == streamed_calls
    assert whole.usage == streamed.usage


def test_a_call_keeps_its_thought_signature_on_the_way_back() -> None:
    message = answer_of_gemini(event(CALL, IDLE, finish="STOP"), "m")["choices"][0]["message"]
    chunks = fed(ChatStreamOfGemini("m"), [event(CALL, IDLE, finish="STOP")])
    streamed = [call for made in chunks for c in made["choices"] for call in c["delta"].get("tool_calls", [])]
    assert [call.get("extra_content") for call in streamed] == [
        {"google": {"thought_signature": "c2ln"}},
        None,
    ]
    results = [{"role": "tool", "tool_call_id": name, "content": "x"} for name in ("c1", "c2")]
    body = {"model": "gemini-3-flash", "messages": [{"role": "user", "content": "Hi"}, message, *results]}
    back = gemini_of_chat(body)["contents"][1]["parts"]
    assert back == [CALL, {"functionCall": {"id": "c2", "name": "now", "args": {}}}]


def test_several_candidates_are_several_choices() -> None:
    events = [event(TEXT), event(CALL, index=1), event(finish="STOP"), event(finish="STOP", index=1)]
    machine = ChatStreamOfGemini("m")
    chunks = [made for one in events[:3] for made in machine.feed(one)]
    with pytest.raises(BadStream):
        machine.end()
    chunks += machine.feed(events[3])
    assert machine.finished
    made = accumulated_chat(chunks)
    assert [choice.finish_reason for choice in made.choices] == ["stop", "tool_calls"]


def test_a_blocked_prompt_is_a_refusal() -> None:
    blocked = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 5}}
    whole = chat_completion(answer_of_gemini(blocked, "m"))
    streamed = accumulated_chat(fed(ChatStreamOfGemini("m"), [blocked]))
    for made in (whole, streamed):
        assert made.choices[0].finish_reason == "content_filter"
        assert made.choices[0].message.refusal == "Gemini blocked the prompt: SAFETY."


@pytest.mark.parametrize("finish", ["MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL"])
def test_an_answer_of_no_use_is_a_bad_answer(finish: str) -> None:
    with pytest.raises(BadAnswer, match=finish):
        answer_of_gemini(event(finish=finish), "m")
    with pytest.raises(BadAnswer, match=finish):
        ChatStreamOfGemini("m").feed(event(finish=finish))


@pytest.mark.parametrize("odd", [{}, {"candidates": [{}]}, {"candidates": [5]}, {"candidates": 5}])
def test_an_answer_of_another_shape_is_a_bad_answer(odd: Json) -> None:
    with pytest.raises(BadAnswer):
        answer_of_gemini(odd, "m")


def test_an_image_is_no_chat_answer() -> None:
    with pytest.raises(BadAnswer, match="image/png"):
        answer_of_gemini(event({"inlineData": {"mimeType": "image/png", "data": "QQ=="}}, finish="STOP"), "m")


@pytest.mark.parametrize("in_a_list", [True, False])
def test_an_error_is_the_providers_error(in_a_list: bool) -> None:
    error = {"error": {"code": 429, "message": "Quota.", "status": "RESOURCE_EXHAUSTED"}}
    with pytest.raises(ProviderError, match="Quota") as caught:
        ChatStreamOfGemini("m").feed([error] if in_a_list else error)
    assert (caught.value.status, caught.value.code) == (429, "RESOURCE_EXHAUSTED")


def test_a_stream_that_breaks_is_no_answer() -> None:
    machine = ChatStreamOfGemini("m")
    with pytest.raises(BadStream):
        machine.end()
    machine.feed(event(TEXT))
    with pytest.raises(BadStream, match="before the answer was whole"):
        machine.end()


def test_embeddings_are_asked_one_request_for_each_text() -> None:
    body = {"model": "gemini-embedding-001", "input": ["a", "b"], "dimensions": 8, "encoding_format": "float"}
    request = {"model": "models/gemini-embedding-001", "outputDimensionality": 8}
    assert gemini_of_embeddings(body) == {
        "requests": [request | {"content": {"parts": [{"text": text}]}} for text in "ab"]
    }


@pytest.mark.parametrize("form", [None, "float", "base64"])
def test_embeddings_come_as_openai_gives_them(form: str | None) -> None:
    body = {"model": "m", "input": ["one two three four", "b"], "encoding_format": form}
    answer = {"embeddings": [{"values": [0.5, -1.0]}, {"values": [2.0, 0.25]}]}
    made = embeddings_of_gemini(answer, body)
    vectors = [one["embedding"] for one in made["data"]]
    if form == "base64":
        vectors = [list(struct.unpack("<2f", base64.b64decode(vector))) for vector in vectors]
    assert vectors == [[0.5, -1.0], [2.0, 0.25]]
    assert made["usage"]["prompt_tokens"] > 4
    if form != "base64":
        CreateEmbeddingResponse.model_validate(made, strict=True)
    counted = embeddings_of_gemini(answer | {"usageMetadata": {"promptTokenCount": 7}}, body)
    assert counted["usage"] == {"prompt_tokens": 7, "total_tokens": 7}


def test_a_missing_embedding_is_a_bad_answer() -> None:
    with pytest.raises(BadAnswer, match="1 embeddings for 2 texts"):
        embeddings_of_gemini({"embeddings": [{"values": [1.0]}]}, {"model": "m", "input": ["a", "b"]})


@pytest.mark.parametrize(
    ("fields", "error", "match"),
    [
        ({"input": [1, 2]}, Untranslatable, "tokens"),
        ({"input": [[1], [2]]}, Untranslatable, "tokens"),
        ({"input": []}, Invalid, "empty"),
        ({"input": None}, Invalid, "input is missing"),
        ({"input": "a", "encoding_format": "int8"}, Invalid, "encoding_format"),
    ],
)
def test_input_that_cannot_be_embedded_is_refused(fields: Json, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        gemini_of_embeddings({"model": "m", **fields})
