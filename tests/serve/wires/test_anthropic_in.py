"""Messages requests as chat requests; the types of the openai package judge them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from tests.serve.wires.checking import called, check_chat_request, check_messages_request

from raymill.policies.errors import Invalid
from raymill.serve.gateway.wires.anthropic_in import chat_of_messages, count_of_messages, wants_thinking
from raymill.serve.gateway.wires.anthropic_out import messages_of_chat
from raymill.serve.gateway.wires.errors import Untranslatable

Json = dict[str, Any]

HI: Json = {"role": "user", "content": "Hi"}
WEATHER: Json = {
    "name": "weather",
    "description": "Looks.",
    "input_schema": {"type": "object", "properties": {}},
}
CALL: Json = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Bonn"}}
PIXELS: Json = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}}


def translated(**fields: Any) -> Json:
    body = {"model": "gpt", "max_tokens": 100, "messages": [HI], **fields}
    check_messages_request(body)
    before = copy.deepcopy(body)
    out = chat_of_messages(body)
    assert body == before
    check_chat_request(out)
    return out


def turns(*messages: Json) -> list[Json]:
    made: list[Json] = translated(messages=list(messages))["messages"]
    return made


def test_a_plain_request_keeps_its_meaning() -> None:
    assert translated(
        system="Be brief.",
        temperature=0.5,
        top_p=0.9,
        top_k=5,
        stop_sequences=["END"],
        metadata={"user_id": "ada"},
        stream=True,
        service_tier="auto",
        cache_control={"type": "ephemeral"},
    ) == {
        "model": "gpt",
        "messages": [{"role": "system", "content": "Be brief."}, HI],
        "max_tokens": 100,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 5,
        "stop": ["END"],
        "user": "ada",
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_blocks_of_the_system_are_one_message() -> None:
    blocks = [
        {"type": "text", "text": "One."},
        {"type": "text", "text": "Two.", "cache_control": {"type": "ephemeral"}},
    ]
    assert translated(system=blocks)["messages"][0] == {"role": "system", "content": "One.\n\nTwo."}


def test_system_messages_stay_in_their_place() -> None:
    assert turns(HI, {"role": "system", "content": "New rule."}, HI)[1] == {
        "role": "system",
        "content": "New rule.",
    }


def test_calls_and_their_results() -> None:
    result = {
        "type": "tool_result",
        "tool_use_id": "toolu_1",
        "content": [{"type": "text", "text": "rain"}, {"type": "text", "text": "all day"}],
    }
    failed = {"type": "tool_result", "tool_use_id": "toolu_2", "content": "no window", "is_error": True}
    empty = {"type": "tool_result", "tool_use_id": "toolu_3"}
    thinking = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
    said = {"type": "text", "text": "Let me look."}
    made = turns(
        HI,
        {
            "role": "assistant",
            "content": [thinking, said, CALL, CALL | {"id": "toolu_2"}, CALL | {"id": "toolu_3"}],
        },
        {"role": "user", "content": [{"type": "text", "text": "And?"}, result, failed, empty]},
    )
    assert made[1:] == [
        {
            "role": "assistant",
            "content": "Let me look.",
            "tool_calls": [called("weather", '{"city":"Bonn"}', f"toolu_{number}") for number in (1, 2, 3)],
        },
        {"role": "tool", "tool_call_id": "toolu_1", "content": "rain\nall day"},
        {"role": "tool", "tool_call_id": "toolu_2", "content": "Error: no window"},
        {"role": "tool", "tool_call_id": "toolu_3", "content": ""},
        {"role": "user", "content": "And?"},
    ]


def test_an_image_in_a_result_moves_behind_all_results() -> None:
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [PIXELS]}
    other = {"type": "tool_result", "tool_use_id": "toolu_2", "content": "x"}
    made = turns(
        HI,
        {"role": "assistant", "content": [CALL, CALL | {"id": "toolu_2"}]},
        {"role": "user", "content": [result, other]},
    )
    assert [message["role"] for message in made] == ["user", "assistant", "tool", "tool", "user"]
    assert made[-1]["content"] == [
        {"type": "text", "text": "From the result of tool call toolu_1:"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}},
    ]


def test_images_and_documents() -> None:
    pdf = {"type": "base64", "media_type": "application/pdf", "data": "QUJD"}
    text = {"type": "text", "media_type": "text/plain", "data": "Once."}
    content = [
        PIXELS,
        {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
        {"type": "document", "source": pdf, "title": "a.pdf"},
        {"type": "document", "source": text, "context": "A tale."},
        {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "Part."}]}},
        {
            "type": "search_result",
            "source": "https://example.org",
            "title": "Found",
            "content": [{"type": "text", "text": "It."}],
        },
    ]
    assert turns({"role": "user", "content": content})[0]["content"] == [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
        {"type": "text", "text": "a.pdf"},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,QUJD"}},
        {"type": "text", "text": "A tale."},
        {"type": "text", "text": "Once."},
        {"type": "text", "text": "Part."},
        {"type": "text", "text": "Found (https://example.org)\nIt."},
    ]


@pytest.mark.parametrize(
    ("choice", "said", "parallel"),
    [
        (None, None, None),
        ({"type": "auto"}, "auto", None),
        ({"type": "any", "disable_parallel_tool_use": True}, "required", False),
        ({"type": "none"}, "none", None),
        ({"type": "tool", "name": "weather"}, {"type": "function", "function": {"name": "weather"}}, None),
    ],
)
def test_tools_and_choices(choice: Any, said: Any, parallel: Any) -> None:
    fields = {} if choice is None else {"tool_choice": choice}
    out = translated(tools=[WEATHER], **fields)
    assert (out.get("tool_choice"), out.get("parallel_tool_calls")) == (said, parallel)
    function = {"name": "weather", "description": "Looks.", "parameters": WEATHER["input_schema"]}
    assert out["tools"] == [{"type": "function", "function": function}]


@pytest.mark.parametrize(("closed", "strict"), [(True, True), (False, False)])
def test_a_structured_output_is_a_response_format(closed: bool, strict: bool) -> None:
    schema: Json = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    if closed:
        schema["additionalProperties"] = False
    out = translated(output_config={"format": {"type": "json_schema", "schema": schema}})
    assert out["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": schema, "strict": strict},
    }


@pytest.mark.parametrize(
    ("fields", "effort"),
    [
        ({}, None),
        ({"output_config": {"effort": "xhigh"}}, "xhigh"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "low"),
        ({"thinking": {"type": "enabled", "budget_tokens": 10000}}, "medium"),
        ({"thinking": {"type": "enabled", "budget_tokens": 50000}}, "high"),
        ({"thinking": {"type": "adaptive"}}, None),
        ({"thinking": {"type": "disabled"}}, None),
    ],
)
def test_effort_and_thinking_budgets_are_reasoning_effort(fields: Json, effort: str | None) -> None:
    assert translated(**fields).get("reasoning_effort") == effort
    assert wants_thinking(fields) is (fields.get("thinking", {}).get("type") in {"enabled", "adaptive"})


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0]"),
        ({"inference_geo": "eu"}, "inference_geo"),
        ({"container": "c"}, "container"),
        ({"mcp_servers": [{"url": "x"}]}, "mcp_servers"),
        ({"messages": [HI, {"role": "assistant", "content": "The answer is ("}]}, "messages"),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "image", "source": {"type": "file", "file_id": "f"}}],
                    }
                ]
            },
            "messages[0].content[0].source",
        ),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "server_tool_use", "id": "s"}]}, HI]},
            "messages[0].content[0]",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {
                                "type": "document",
                                "source": {"type": "text", "media_type": "text/plain", "data": "x"},
                                "citations": {"enabled": True},
                            }
                        ],
                    }
                ]
            },
            "messages[0].content[0].citations",
        ),
    ],
)
def test_what_only_anthropic_can_do_is_refused_by_name(fields: Json, param: str) -> None:
    with pytest.raises(Untranslatable) as caught:
        chat_of_messages({"model": "m", "max_tokens": 5, "messages": [HI], **fields})
    assert caught.value.param == param


def test_a_refused_tool_is_named_with_the_cure() -> None:
    tools = [WEATHER, {"type": "web_search_20250305", "name": "web_search"}]
    with pytest.raises(Untranslatable, match=r"tools\[1\], 'web_search'.*leave it out, give it as a tool"):
        chat_of_messages({"model": "m", "max_tokens": 5, "messages": [HI], "tools": tools})


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, r"messages\[0\].role"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, r"messages\[0\].content\[0\].text"),
        ({"system": 5}, "system"),
        ({"tools": [{"name": 5}]}, r"tools\[0\].name"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tool_choice": {"type": "some"}}, "tool_choice"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"temperature": "hot"}, "temperature"),
    ],
)
def test_malformed_requests_are_refused_with_the_place(fields: Json, where: str) -> None:
    with pytest.raises(Invalid, match=where):
        chat_of_messages({"model": "m", "max_tokens": 5, "messages": [HI], **fields})


def test_tokens_are_counted_without_a_limit_for_the_answer() -> None:
    few = count_of_messages({"model": "m", "messages": [HI]})["input_tokens"]
    many = count_of_messages({"model": "m", "messages": [HI], "system": "word " * 400, "tools": [WEATHER]})
    assert 0 < few < 20
    assert 500 < many["input_tokens"] < 600


def test_a_conversation_survives_the_way_to_chat_and_back() -> None:
    body: Json = {
        "model": "m",
        "max_tokens": 100,
        "system": "Be brief.",
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Weather?"}, PIXELS]},
            {"role": "assistant", "content": [{"type": "text", "text": "Looking."}, CALL]},
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "rain"}],
            },
        ],
        "tools": [WEATHER],
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
        "stop_sequences": ["END"],
        "temperature": 0.3,
        "metadata": {"user_id": "ada"},
    }
    assert messages_of_chat(chat_of_messages(body), 1) == body
