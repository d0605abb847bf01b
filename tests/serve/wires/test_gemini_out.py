"""Chat requests said to Gemini."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from tests.serve.wires.checking import called, check_chat_request

from raymill.serve.gateway.wires.errors import Untranslatable
from raymill.serve.gateway.wires.gemini_out import gemini_of_chat
from raymill.serve.gateway.wires.gemini_parts import NO_SIGNATURE

Json = dict[str, Any]

SCHEMA: Json = {
    "type": "object",
    "properties": {"city": {"type": "string", "minLength": 2}},
    "required": ["city"],
}
WEATHER: Json = {
    "type": "function",
    "function": {"name": "weather", "description": "Looks.", "parameters": SCHEMA | {"$schema": "x"}},
}


def user(content: Any) -> Json:
    return {"role": "user", "content": content}


def translated(**fields: Any) -> Json:
    body = {"model": "gemini-3-flash", "messages": [user("Hi")], **fields}
    check_chat_request(body)
    before = copy.deepcopy(body)
    out = gemini_of_chat(body)
    assert body == before
    return out


def contents(*messages: Json, **fields: Any) -> list[Json]:
    made: list[Json] = translated(messages=list(messages), **fields)["contents"]
    return made


def test_a_plain_request_keeps_its_meaning() -> None:
    assert translated(
        messages=[
            {"role": "system", "content": "Be brief."},
            user("Hi"),
            {"role": "developer", "content": "Now."},
        ],
        max_tokens=50,
        temperature=1.5,
        top_p=0.9,
        stop=["END"],
        seed=4,
        n=2,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        stream=True,
        user="ada",
    ) == {
        "systemInstruction": {"parts": [{"text": "Be brief."}, {"text": "Now."}]},
        "contents": [{"role": "user", "parts": [{"text": "Hi"}]}],
        "generationConfig": {
            "maxOutputTokens": 50,
            "temperature": 1.5,
            "topP": 0.9,
            "stopSequences": ["END"],
            "seed": 4,
            "candidateCount": 2,
            "presencePenalty": 0.5,
            "frequencyPenalty": -0.5,
        },
    }


def conversation(*calls: Json) -> list[Json]:
    return [
        user("Weather?"),
        {"role": "assistant", "content": "Looking.", "tool_calls": list(calls)},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
        {"role": "tool", "tool_call_id": "call_2", "content": [{"type": "text", "text": "sun"}]},
        user("And?"),
    ]


def test_results_find_the_name_of_their_function_and_share_a_turn() -> None:
    signed = called("weather", '{"city":"Bonn"}') | {
        "extra_content": {"google": {"thought_signature": "c2ln"}}
    }
    assert contents(*conversation(signed, called("now", "", "call_2")))[1:] == [
        {
            "role": "model",
            "parts": [
                {"text": "Looking."},
                {
                    "functionCall": {"id": "call_1", "name": "weather", "args": {"city": "Bonn"}},
                    "thoughtSignature": "c2ln",
                },
                {"functionCall": {"id": "call_2", "name": "now", "args": {}}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"id": "call_1", "name": "weather", "response": {"output": "rain"}}},
                {"functionResponse": {"id": "call_2", "name": "now", "response": {"output": "sun"}}},
            ],
        },
        {"role": "user", "parts": [{"text": "And?"}]},
    ]


@pytest.mark.parametrize(("model", "signed"), [("gemini-3-flash", True), ("gemini-2.5-pro", False)])
def test_a_lost_thought_signature_is_waived_where_models_want_one(model: str, signed: bool) -> None:
    calls = called("weather", "{}"), called("now", "{}", "call_2")
    parts = contents(*conversation(*calls), model=model)[1]["parts"][1:]
    assert [part.get("thoughtSignature") for part in parts] == [NO_SIGNATURE if signed else None, None]


def test_the_old_functions_are_tools() -> None:
    out = translated(
        functions=[WEATHER["function"]],
        messages=[
            user("Weather?"),
            {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": "{}"}},
            {"role": "function", "name": "weather", "content": "rain"},
        ],
    )
    assert out["contents"][2]["parts"][0]["functionResponse"]["name"] == "weather"
    assert out["tools"][0]["functionDeclarations"][0]["name"] == "weather"


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        (None, {"mode": "AUTO"}),
        ("none", {"mode": "NONE"}),
        ("required", {"mode": "ANY"}),
        (
            {"type": "function", "function": {"name": "weather"}},
            {"mode": "ANY", "allowedFunctionNames": ["weather"]},
        ),
    ],
)
def test_tools_and_choices(choice: Any, said: Json) -> None:
    out = translated(tools=[WEATHER], **({} if choice is None else {"tool_choice": choice}))
    assert out["toolConfig"] == {"functionCallingConfig": said}
    city = {"type": "string", "description": "{minLength: 2}"}
    assert out["tools"] == [
        {
            "functionDeclarations": [
                {
                    "name": "weather",
                    "description": "Looks.",
                    "parametersJsonSchema": {**SCHEMA, "properties": {"city": city}},
                }
            ]
        }
    ]


def test_a_function_without_parameters_has_no_schema() -> None:
    tool = {
        "type": "function",
        "function": {"name": "now", "parameters": {"type": "object", "properties": {}}},
    }
    assert translated(tools=[tool])["tools"] == [{"functionDeclarations": [{"name": "now"}]}]


def test_json_answers() -> None:
    assert translated(response_format={"type": "json_object"})["generationConfig"] == {
        "responseMimeType": "application/json"
    }
    named = {"name": "a", "schema": SCHEMA}
    config = translated(response_format={"type": "json_schema", "json_schema": named})["generationConfig"]
    assert config["responseMimeType"] == "application/json"
    assert config["responseJsonSchema"]["required"] == ["city"]
    assert "generationConfig" not in translated(response_format={"type": "text"})


@pytest.mark.parametrize(
    ("model", "effort", "said"),
    [
        ("gemini-3-pro", "high", {"thinkingLevel": "high"}),
        ("gemini-3-pro", "xhigh", {"thinkingLevel": "high"}),
        ("gemini-3-pro", "none", {"thinkingLevel": "minimal"}),
        ("gemini-2.5-flash", "none", {"thinkingBudget": 0}),
        ("models/gemini-2.5-flash", "medium", {"thinkingBudget": 8192}),
    ],
)
def test_reasoning_effort_is_a_level_or_a_budget(model: str, effort: str, said: Json) -> None:
    assert translated(model=model, reasoning_effort=effort)["generationConfig"] == {"thinkingConfig": said}


def test_media_is_handed_on() -> None:
    content = [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.jpg?x=1"}},
        {"type": "input_audio", "input_audio": {"data": "QUJD", "format": "mp3"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,QUJD"}},
    ]
    assert contents(user(content))[0]["parts"] == [
        {"inlineData": {"mimeType": "image/png", "data": "QUJD"}},
        {"fileData": {"fileUri": "https://example.org/a.jpg?x=1", "mimeType": "image/jpeg"}},
        {"inlineData": {"mimeType": "audio/mp3", "data": "QUJD"}},
        {"inlineData": {"mimeType": "application/pdf", "data": "QUJD"}},
    ]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"logprobs": True}, "logprobs"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"tools": [WEATHER], "parallel_tool_calls": False}, "parallel_tool_calls"),
        ({"messages": [{"role": "tool", "tool_call_id": "c", "content": "x"}]}, "messages[0].tool_call_id"),
        (
            {"messages": [user([{"type": "image_url", "image_url": {"url": "http://example.org/a.png"}}])]},
            "messages[0].content[0].image_url",
        ),
        ({"messages": [user([{"type": "file", "file": {"file_id": "f"}}])]}, "messages[0].content[0]"),
        ({"response_format": {"type": "xml"}}, "response_format"),
    ],
)
def test_what_gemini_cannot_be_told_is_refused_by_name(fields: Json, param: str) -> None:
    with pytest.raises(Untranslatable) as caught:
        gemini_of_chat({"model": "gemini-3-flash", "messages": [user("Hi")], **fields})
    assert caught.value.param == param
