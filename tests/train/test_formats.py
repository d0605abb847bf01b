"""Every format becomes its normal form, and every broken rule is told in words for the row's author."""

from __future__ import annotations

import json
from typing import Any

import pytest

from raymill.train.formats import FORMATS, SHAPES, detect, normalize, question_of
from raymill.train.values import UnusableRow


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def human(text: str) -> dict[str, Any]:
    return {"from": "human", "value": text}


def gpt(text: str) -> dict[str, Any]:
    return {"from": "gpt", "value": text}


def normal(row: dict[str, Any]) -> dict[str, Any]:
    return normalize(row, detect(row))


SYSTEM = {"role": "system", "content": "Be brief."}
CHAT = {"messages": [user("hi"), said("hello")]}
LONG = {"messages": [SYSTEM, user("hi"), said("hello"), user("bye"), said("ciao")]}
PAIR = {"prompt": [user("hi")], "chosen": [said("hello")], "rejected": [said("no")]}
LATER = {
    "prompt": [SYSTEM, user("hi"), said("hello"), user("bye")],
    "chosen": [said("ciao")],
    "rejected": [said("no")],
}
JUDGED = {"prompt": [user("hi")], "completion": [said("hello")], "label": True}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (CHAT, CHAT),
        (LONG, LONG),
        ({"messages": [{"role": "developer", "content": "Be brief."}, *LONG["messages"][1:]]}, LONG),
        ({"messages": [user([{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]), said("hello")]}, CHAT),  # type: ignore[arg-type]
        ({"messages": json.dumps(CHAT["messages"])}, CHAT),
        ({"conversations": [human("hi"), gpt("hello")]}, CHAT),
        ({"conversations": [user("hi"), said("hello")]}, CHAT),
        ({"conversations": [human("hi"), gpt("hello"), human("bye"), gpt("ciao")], "system": "Be brief."}, LONG),
        ({"instruction": "hi", "input": "", "output": "hello"}, CHAT),
        ({"instruction": "hi", "output": "hello", "system": "", "history": None}, CHAT),
        ({"instruction": "bye", "output": "ciao", "system": "Be brief.", "history": [["hi", "hello"]]}, LONG),
        ({"instruction": "bye", "output": "ciao", "system": "Be brief.", "history": '[["hi", "hello"]]'}, LONG),
        ({"prompt": "hi", "completion": "hello"}, CHAT),
        ({"prompt": [user("hi")], "completion": [said("hello")]}, CHAT),
        ({"prompt": "hi", "completion": "hello", "label": None}, CHAT),
        ({"prompt": "hi", "chosen": "hello", "rejected": "no"}, PAIR),
        ({"prompt": [user("hi")], "chosen": [said("hello")], "rejected": [said("no")]}, PAIR),
        ({"chosen": [user("hi"), said("hello")], "rejected": [user("hi"), said("no")]}, PAIR),
        ({"prompt": "hi", "chosen": [user("hi"), said("hello")], "rejected": [user("hi"), said("no")]}, PAIR),
        ({"conversations": [human("hi")], "chosen": gpt("hello"), "rejected": gpt("no")}, PAIR),
        ({"messages": [user("hi")], "chosen": said("hello"), "rejected": said("no")}, PAIR),
        ({"instruction": "hi", "input": "", "chosen": "hello", "rejected": "no"}, PAIR),
        ({"chosen": [*LONG["messages"][:4], said("ciao")], "rejected": [*LONG["messages"][:4], said("no")]}, LATER),
        ({"prompt": "hi", "completion": "hello", "label": True}, JUDGED),
        ({"prompt": [user("hi")], "completion": [said("hello")], "label": False}, JUDGED | {"label": False}),
        ({"prompt": "hi", "completion": "hello", "label": "True"}, JUDGED),
        ({"messages": [user("hi"), said("hello")], "kto_tag": True}, JUDGED),
        ({"messages": [user("hi"), said("hello")], "label": True}, JUDGED),
        ({"conversations": [human("hi"), gpt("hello")], "kto_tag": True}, JUDGED),
        ({"instruction": "hi", "output": "hello", "kto_tag": False}, JUDGED | {"label": False}),
        ({"text": "Once upon\na time."}, {"text": "Once upon\na time."}),
    ],
)  # fmt: skip
def test_each_layout_becomes_its_normal_form(row: dict[str, Any], expected: dict[str, Any]) -> None:
    assert normal(row) == expected


WEATHER = {"name": "weather", "description": "Now.", "parameters": {"type": "object", "properties": {}}}
TIME = {"name": "time"}
TOOLS = [{"type": "function", "function": WEATHER}, {"type": "function", "function": TIME}]


def call(name: str, arguments: Any, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}, **more}


def calling(*calls: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": "", "tool_calls": list(calls)}


def result(text: str, **more: str) -> dict[str, Any]:
    return {"role": "tool", "content": text, **more}


CALLED = {
    "messages": [user("hi"), calling(call("weather", {"city": "Rome"})), result("21"), said("It is 21.")],
    "tools": TOOLS,
}


@pytest.mark.parametrize(
    "row",
    [
        CALLED,
        {**CALLED, "tools": json.dumps(TOOLS)},
        {**CALLED, "tools": [WEATHER, TIME]},
        {
            "messages": [
                user("hi"),
                {"role": "assistant", "content": None, "tool_calls": [call("weather", '{"city": "Rome"}')]},
                result("21"),
                said("It is 21."),
            ],
            "tools": TOOLS,
        },
        {
            "conversations": [
                human("hi"),
                {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Rome"}}'},
                {"from": "observation", "value": "21"},
                gpt("It is 21."),
            ],
            "tools": json.dumps([WEATHER, TIME]),
        },
    ],
)
def test_each_layout_of_tool_calls_becomes_openai_s_with_arguments_as_an_object(row: dict[str, Any]) -> None:
    assert normal(row) == CALLED


def test_calls_at_once_keep_their_ids_and_are_answered_in_any_order() -> None:
    row = {
        "messages": [
            user("hi"),
            calling(call("weather", {}, id="a"), call("time", "", id="b")),
            result("noon", tool_call_id="b"),
            result("", tool_call_id="a"),
            said("It is noon."),
        ],
        "tools": TOOLS,
    }
    messages = normal(row)["messages"]
    assert messages[1]["tool_calls"][1] == {"id": "b", **call("time", {})}
    assert messages[2:4] == row["messages"][2:4]


def test_a_pair_and_a_judged_row_may_have_tools() -> None:
    prompt, good, bad = [user("hi")], calling(call("time", {})), calling(call("weather", {}))
    pair = {"prompt": prompt, "chosen": [good], "rejected": [bad], "tools": TOOLS}
    assert normal(pair) == pair
    judged = {"prompt": prompt, "completion": [good], "label": False, "tools": TOOLS}
    assert normal(judged) == judged


def test_an_empty_list_of_tools_is_none() -> None:
    assert normal({**CHAT, "tools": "[]"}) == CHAT


def test_what_is_said_wins_over_what_the_keys_tell() -> None:
    row = {"prompt": "hi", "completion": "hello", "label": "greeting", "text": "hi hello"}
    assert detect(row) == "kto"
    assert normalize(row, "completion", said=True) == CHAT
    assert normalize(row, "text", said=True) == {"text": "hi hello"}
    with pytest.raises(UnusableRow, match="has no messages"):
        normalize(row, "messages", said=True)


@pytest.mark.parametrize("format", FORMATS)
def test_a_said_format_needs_its_keys(format: Any) -> None:
    with pytest.raises(UnusableRow, match=r"^(has no |label is null)"):
        normalize({"other": 1}, format, said=True)


def test_each_format_has_one_shape() -> None:
    assert set(SHAPES) == set(FORMATS)


def test_a_question_is_what_stands_before_the_answer() -> None:
    assert question_of(normal(LONG)) == LONG["messages"][:-1]
    assert question_of(normal(PAIR)) == question_of(normal(JUDGED)) == [user("hi")]
    assert question_of({"text": "all"}) == "all"


def turns(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": list(messages), **more}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"instruction": "a", "output": "b", "history": [["a"]]}, "history: round 1 is no list of a question"),
        ({"instruction": "a", "output": "b", "history": [["a", ""]]}, "history: round 1 is empty"),
        ({"instruction": "a", "output": "b", "history": {}}, "history is an object, not a list"),
        ({**CHAT, "system": 3}, "system is the number 3, not text"),
        ({**LONG, "system": "Be long."}, "has a system text and a system turn"),
        ({"prompt": "a", "completion": []}, "completion has no turns"),
        ({"prompt": {}, "completion": "b"}, "prompt is an object, not text"),
        ({"prompt": [user("a")], "completion": [user("b")]}, "there is no assistant turn"),
        (turns(user("a"), {**said("b"), "tool_calls": "x"}, tools=TOOLS), "turn 2: tool_calls is no JSON"),
        (turns(user("a"), calling(), tools=TOOLS), "turn 2: content is empty"),
        (turns({**user("a"), "tool_calls": [call("time", {})]}, said("b")), "turn 1 has tool_calls, but is by the user"),
        (turns(user("a"), calling(call("time", {})), result("1")), "turn 2 calls 'time', which tools does not have: none"),
        (turns(user("a"), calling(call("tim", {})), tools=TOOLS), "calls 'tim', which tools does not have: weather, time"),
        (turns(user("a"), calling(call("time", [])), tools=TOOLS), "call 1: arguments is a list, not an object"),
        (turns(user("a"), calling(call("time", "{")), tools=TOOLS), "call 1: arguments is no JSON"),
        (turns(user("a"), calling(call("time", {"a": float("inf")})), tools=TOOLS), "arguments has inf"),
        (turns(user("a"), calling(call("time", {"a": "\udc00"})), tools=TOOLS), "arguments has half a surrogate"),
        (turns(user("a"), calling({"function": {}}), tools=TOOLS), "call 1 has no name"),
        (turns(user("a"), calling({"type": "code", "function": TIME}), tools=TOOLS), "call 1 has the type 'code'"),
        (turns(user("a"), result("1"), said("b"), tools=TOOLS), "turn 2 is a tool's result, but no call waits"),
        (turns(user("a"), calling(call("time", {})), said("b"), tools=TOOLS), "turn 3 comes before the results of 1 tool"),
        (turns(user("a"), calling(call("time", {}, id="x")), result("1", tool_call_id="y"), said("b"), tools=TOOLS),
         "turn 3 answers the call 'y', which nobody made"),
        (turns(user("a"), calling(call("time", {})), result("1"), tools=TOOLS), "the last turn is not the assistant's"),
        ({**CHAT, "tools": "{"}, "tools is no JSON"),
        ({**CHAT, "tools": {"name": "time"}}, "tools is an object, not a list"),
        ({**CHAT, "tools": ["time"]}, "tool 1 is text, not an object"),
        ({**CHAT, "tools": [{"description": "x"}]}, "tool 1 has no name"),
        ({**CHAT, "tools": [TIME, TIME]}, "tools has 'time' twice"),
        ({**CHAT, "tools": [{"name": "time", "parameters": []}]}, "tool 1: parameters is a list, not an object"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "chosen and rejected are the same"),
        ({"prompt": "a", "chosen": "", "rejected": "b"}, "chosen is empty"),
        ({"prompt": "a", "chosen": [user("b")], "rejected": [said("c")]}, "chosen begins with a turn by the user"),
        ({"prompt": [user("a"), said("b")], "chosen": "c", "rejected": "d"}, "prompt and chosen: turns 2 and 3 are both"),
        ({"chosen": "b", "rejected": "c"}, "has no prompt, and chosen and rejected are not both whole"),
        ({"chosen": [user("a"), said("b")], "rejected": [user("z"), said("c")]}, "begin differently, so there is no prompt"),
        ({"chosen": [user("a"), said("b")], "rejected": [user("a")]}, "rejected has no answer of its own"),
        ({"chosen": [user("a"), said("b")], "rejected": [user("a"), said("b")]}, "are the same"),
        ({"prompt": [user("a")], "chosen": [user("a"), said("b")], "rejected": [user("a"), said("c")]},
         "has the prompt twice"),
        ({"prompt": "a", "completion": "b", "label": 1}, "label is the number 1, not true or false: mend it, or set format"),
        ({"prompt": "a", "completion": "b", "label": "yes"}, "label is text, not true or false"),
        ({"messages": [user("a"), said("b")], "kto_tag": "maybe"}, "kto_tag is text, not true or false"),
        ({"prompt": "a", "completion": [user("b"), said("c")], "label": True}, "completion begins with a turn by the user"),
        ({"text": ""}, "text is empty"),
        ({"text": ["a"]}, "text is a list, not text"),
        ({"text": "a\0b"}, "text has a null character"),
    ],
)  # fmt: skip
def test_a_row_that_breaks_a_rule_says_which(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnusableRow) as caught:
        normal(row)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
