"""Chat requests said to Anthropic; the types of the anthropic package judge them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from tests.serve.wires.checking import called, check_chat_request, check_messages_request

from raymill.policies.errors import Invalid
from raymill.serve.gateway.wires.anthropic_out import JSON_TOOL, messages_of_chat
from raymill.serve.gateway.wires.errors import Untranslatable

Json = dict[str, Any]

WEATHER: Json = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Looks out of the window.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CLOSED: Json = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 1}},
    "required": ["n"],
    "additionalProperties": False,
}


def user(content: Any) -> Json:
    return {"role": "user", "content": content}


def translated(**fields: Any) -> Json:
    body = {"model": "claude", "messages": [user("Hi")], **fields}
    before = copy.deepcopy(body)
    out = messages_of_chat(body, default_max_tokens=1000)
    assert body == before
    check_messages_request(out)
    return out


def turns(*messages: Json) -> list[Json]:
    translated_turns: list[Json] = translated(messages=list(messages))["messages"]
    return translated_turns


def test_a_plain_request_keeps_its_meaning() -> None:
    body: Json = {
        "model": "claude",
        "messages": [{"role": "system", "content": "Be brief."}, user("Hi")],
        "max_completion_tokens": 50,
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": "END",
        "user": "ada",
        "stream": True,
        "stream_options": {"include_usage": True},
        "seed": 4,
    }
    check_chat_request(body)
    assert translated(**body) == {
        "model": "claude",
        "system": "Be brief.",
        "messages": [user([{"type": "text", "text": "Hi"}])],
        "max_tokens": 50,
        "temperature": 0.5,
        "top_p": 0.9,
        "stop_sequences": ["END"],
        "metadata": {"user_id": "ada"},
        "stream": True,
    }


def test_without_a_limit_the_default_is_taken() -> None:
    assert translated()["max_tokens"] == 1000
    assert translated(max_tokens=5)["max_tokens"] == 5


def test_temperatures_above_one_are_one_which_is_the_default() -> None:
    assert "temperature" not in translated(temperature=1.7)
    assert "temperature" not in translated(temperature=1)
    assert translated(temperature=0)["temperature"] == 0


def test_system_and_developer_messages_come_first_wherever_they_stood() -> None:
    out = translated(
        messages=[
            {"role": "system", "content": "One."},
            user("Hi"),
            {"role": "developer", "content": [{"type": "text", "text": "Two."}]},
            user("again"),
        ]
    )
    assert out["system"] == [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}]
    assert out["messages"] == [user([{"type": "text", "text": "Hi"}, {"type": "text", "text": "again"}])]


def test_tool_results_join_the_user_turn_behind_their_calls() -> None:
    calls = [called("weather", '{"city":"Bonn"}', "call_1"), called("weather", "", "functions.weather:1")]
    assert turns(
        user("Weather?"),
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
        {"role": "tool", "tool_call_id": "functions.weather:1", "content": [{"type": "text", "text": "sun"}]},
        user("And?"),
    )[1:] == [
        {
            "role": "assistant",
            "content": [
                {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Bonn"}},
                {"type": "tool_use", "id": "functions_weather_1", "name": "weather", "input": {}},
            ],
        },
        user(
            [
                {"type": "tool_result", "tool_use_id": "call_1", "content": "rain"},
                {
                    "type": "tool_result",
                    "tool_use_id": "functions_weather_1",
                    "content": [{"type": "text", "text": "sun"}],
                },
                {"type": "text", "text": "And?"},
            ]
        ),
    ]


def test_the_old_functions_are_tools() -> None:
    out = translated(
        functions=[WEATHER["function"]],
        function_call={"name": "weather"},
        messages=[
            user("Weather?"),
            {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": "{}"}},
            {"role": "function", "name": "weather", "content": "rain"},
        ],
    )
    assert [tool["name"] for tool in out["tools"]] == ["weather"]
    assert out["tool_choice"] == {"type": "tool", "name": "weather"}
    assert out["messages"][1]["content"][0]["id"] == out["messages"][2]["content"][0]["tool_use_id"]


@pytest.mark.parametrize(
    ("choice", "parallel", "said"),
    [
        (None, None, {"type": "auto"}),
        ("auto", False, {"type": "auto", "disable_parallel_tool_use": True}),
        ("required", True, {"type": "any"}),
        ("none", False, {"type": "none"}),
        ({"type": "function", "function": {"name": "weather"}}, None, {"type": "tool", "name": "weather"}),
    ],
)
def test_choices_of_tools(choice: Any, parallel: bool | None, said: Json) -> None:
    out = translated(tools=[WEATHER], tool_choice=choice, parallel_tool_calls=parallel)
    assert out["tool_choice"] == said
    assert out["tools"] == [
        {
            "name": "weather",
            "description": "Looks out of the window.",
            "input_schema": WEATHER["function"]["parameters"],
        }
    ]


def test_allowed_tools_leave_the_others_out() -> None:
    other = {"type": "function", "function": {"name": "other"}}
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "other"}}]}
    out = translated(tools=[WEATHER, other], tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    assert [tool["name"] for tool in out["tools"]] == ["other"]
    assert out["tool_choice"] == {"type": "any"}


def test_a_strict_tool_stays_strict_and_tells_what_cannot_be_enforced() -> None:
    function = {"name": "count", "parameters": CLOSED, "strict": True}
    tool = translated(tools=[{"type": "function", "function": function}])["tools"][0]
    assert tool["strict"] is True
    assert tool["input_schema"]["properties"]["n"] == {"type": "integer", "description": "{minimum: 1}"}


def test_a_json_schema_is_a_structured_output() -> None:
    named = {"name": "count", "schema": CLOSED, "strict": True}
    out = translated(response_format={"type": "json_schema", "json_schema": named})
    assert out["output_config"]["format"]["type"] == "json_schema"
    assert out["output_config"]["format"]["schema"]["additionalProperties"] is False
    assert "tools" not in out


@pytest.mark.parametrize(
    "wanted",
    [
        {"type": "json_object"},
        {
            "type": "json_schema",
            "json_schema": {
                "name": "m",
                "schema": {"type": "object", "additionalProperties": {"type": "string"}},
            },
        },
    ],
)
def test_json_that_cannot_be_promised_is_the_input_of_a_tool(wanted: Json) -> None:
    out = translated(response_format=wanted)
    assert [tool["name"] for tool in out["tools"]] == [JSON_TOOL]
    assert out["tool_choice"] == {"type": "tool", "name": JSON_TOOL, "disable_parallel_tool_use": True}
    with_tools = translated(response_format=wanted, tools=[WEATHER])
    assert [tool["name"] for tool in with_tools["tools"]] == ["weather", JSON_TOOL]
    assert with_tools["tool_choice"] == {"type": "any"}
    forced = translated(response_format=wanted, tools=[WEATHER], tool_choice="required")
    assert [tool["name"] for tool in forced["tools"]] == ["weather"]


@pytest.mark.parametrize(
    ("effort", "thinking", "said"),
    [
        ("none", {"type": "disabled"}, None),
        ("minimal", None, {"effort": "low"}),
        ("high", {"type": "adaptive"}, {"effort": "high"}),
        ("max", {"type": "adaptive"}, {"effort": "max"}),
    ],
)
def test_reasoning_effort_is_effort_and_adaptive_thinking(effort: str, thinking: Any, said: Any) -> None:
    out = translated(reasoning_effort=effort)
    assert (out.get("thinking"), out.get("output_config")) == (thinking, said)


def test_a_tool_that_must_be_called_keeps_thinking_off() -> None:
    out = translated(reasoning_effort="high", tools=[WEATHER], tool_choice="required")
    assert "thinking" not in out
    assert out["output_config"] == {"effort": "high"}


def test_images_and_files_are_handed_on() -> None:
    content = [
        {"type": "text", "text": "Look:", "cache_control": {"type": "ephemeral"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD", "detail": "high"}},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
        {
            "type": "file",
            "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,QUJD"},
        },
    ]
    assert turns(user(content))[0]["content"] == [
        {"type": "text", "text": "Look:", "cache_control": {"type": "ephemeral"}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}},
        {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "QUJD"},
            "title": "a.pdf",
        },
    ]


def test_thinking_goes_back_as_it_came() -> None:
    block = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
    answer = {"role": "assistant", "content": "Four.", "thinking_blocks": [{"index": 0, **block}]}
    assert turns(user("2+2?"), answer, user("Sure?"))[1]["content"] == [
        block,
        {"type": "text", "text": "Four."},
    ]


def test_empty_text_is_left_out_since_anthropic_refuses_it() -> None:
    assert turns(user(""), user("Hi"), {"role": "assistant", "content": " "}, user("So?")) == [
        user([{"type": "text", "text": "Hi"}, {"type": "text", "text": "So?"}])
    ]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"verbosity": "low"}, "verbosity"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"stop": ["\n"]}, "stop"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0]"),
        ({"messages": [user([{"type": "input_audio", "input_audio": {}}])]}, "messages[0].content[0]"),
        (
            {"messages": [user([{"type": "file", "file": {"file_id": "file-1"}}])]},
            "messages[0].content[0].file",
        ),
        (
            {"messages": [user([{"type": "image_url", "image_url": {"url": "data:image/bmp;base64,QQ=="}}])]},
            "messages[0].content[0].image_url",
        ),
        (
            {"messages": [user("a"), {"role": "assistant", "tool_calls": [called("f", "[1]")]}]},
            "messages[1].tool_calls[0].function.arguments",
        ),
    ],
)
def test_what_anthropic_cannot_be_told_is_refused_by_name(fields: Json, param: str) -> None:
    with pytest.raises(Untranslatable) as caught:
        messages_of_chat({"model": "claude", "messages": [user("Hi")], **fields}, 100)
    assert caught.value.param == param
    assert str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 1},
        {"logprobs": False, "top_logprobs": 0, "logit_bias": {}},
        {"frequency_penalty": 0, "presence_penalty": 0.0, "verbosity": "medium", "modalities": ["text"]},
        {"store": True, "metadata": {"a": "b"}, "service_tier": "flex", "prompt_cache_key": "k", "seed": 1},
    ],
)
def test_what_changes_nothing_is_dropped(fields: Json) -> None:
    assert translated(**fields) == translated()


@pytest.mark.parametrize(
    ("messages", "where"),
    [
        (None, "messages"),
        ([], "messages"),
        ([{"role": "system", "content": "x"}], "messages"),
        ([user("a"), {"role": "robot"}], r"messages\[1\].role"),
        ([user([7])], r"messages\[0\].content\[0\]"),
        ([user(7)], r"messages\[0\].content"),
        ([{"role": "tool", "content": "x"}], r"messages\[0\].tool_call_id"),
    ],
)
def test_malformed_messages_are_refused_with_their_place(messages: Any, where: str) -> None:
    with pytest.raises(Invalid, match=where):
        messages_of_chat({"model": "claude", "messages": messages}, 100)
