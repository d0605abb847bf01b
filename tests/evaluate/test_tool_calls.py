from __future__ import annotations

import pytest

from raymill.evaluate.tool_calls import Call, Unreadable, read_calls

ADD = Call("math.add", {"a": 1, "b": [2.5]})


@pytest.mark.parametrize(
    "answer",
    [
        '<tool_call>\n{"name": "math.add", "arguments": {"a": 1, "b": [2.5]}}\n</tool_call>',
        'I add.\n<tool_call>{"name": "math.add", "arguments": {"a": 1, "b": [2.5]}}',  # cut before its end
        '{"name": "math.add", "parameters": {"a": 1, "b": [2.5]}}',
        '<|python_tag|>{"type": "function", "name": "math.add", "parameters": {"a": 1, "b": [2.5]}}',
        '[TOOL_CALLS][{"name": "math.add", "arguments": {"a": 1, "b": [2.5]}}]',
        '```json\n{"name": "math.add", "arguments": "{\\"a\\": 1, \\"b\\": [2.5]}"}\n```',
        '{"type": "function", "function": {"name": "math.add", "arguments": {"a": 1, "b": [2.5]}}}',
        "[math.add(a=1, b=[2.5])]",
    ],
)
def test_a_call_is_read_as_models_write_it(answer: str) -> None:
    assert read_calls(answer) == [ADD]


@pytest.mark.parametrize(
    "answer",
    [
        '<tool_call>{"name": "f"}</tool_call>\n<tool_call>{"name": "g"}</tool_call>',
        '{"name": "f", "parameters": {}}; {"name": "g", "parameters": {}}',
        '[{"name": "f", "arguments": {}}, {"name": "g", "arguments": {}}]',
        "[f(), g()]",
    ],
)
def test_several_calls_keep_their_order(answer: str) -> None:
    assert [call.name for call in read_calls(answer)] == ["f", "g"]


@pytest.mark.parametrize("answer", ["", "The sum is 3.", "add(1, 2) is 3", "(see [1])"])
def test_plain_words_call_nothing(answer: str) -> None:
    assert read_calls(answer) == []


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ('<tool_call>{"name": "f", "arguments": {"a": </tool_call>', "its call is no JSON"),
        ('{"name": "f", "arguments": {"a": 1}', "its call is no JSON"),
        ("<tool_call></tool_call>", "there is no call"),
        ("[1, 2]", "its call has no name"),
        ('{"intent": "refund"}', "its call has no name"),
        ('{"name": "f", "arguments": [1]}', "the arguments of its call are no object"),
        ('{"name": "f", "arguments": "a=1"}', "the arguments of its call are no JSON"),
        ("[f(1)]", r"its call is not written as name\(argument=value\)"),
        ("[f(**{'a': 1})]", r"its call is not written as name\(argument=value\)"),
        ("[f(a=g(1))]", "an argument of its call is no plain value"),
        ("[f(a=1]", "its call is no Python"),
        ("[" * 100_000, "its call is no JSON"),
    ],
)
def test_what_begins_as_a_call_and_is_none_is_told(answer: str, why: str) -> None:
    with pytest.raises(Unreadable, match=f"^{why}"):
        read_calls(answer)


def test_python_in_an_answer_is_read_and_never_run() -> None:
    with pytest.raises(Unreadable, match="no plain value"):
        read_calls("[f(a=__import__('os').getcwd())]")
