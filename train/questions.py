"""Conversations of the formats with one answer: who asks what, and what was said to it. Checked as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raymill.train.tool_calls import tools_of
from raymill.train.turns import Message, check_turns, turn_of, turns_of
from raymill.train.values import UnusableRow, embedded, kind_of, text_of

Row = Mapping[str, Any]
NormalRow = dict[str, Any]


def conversation(row: Row, messages: list[Message]) -> NormalRow:
    """The normal form of `messages` with the row's tools.

    Raises:
        UnusableRow: the turns are in no order that can be trained on.
    """
    tools = tools_of(row.get("tools"))
    check_turns(messages, tools)
    return {"messages": messages, "tools": tools} if tools else {"messages": messages}


def from_turns(row: Row, key: str) -> list[Message]:
    """The turns under `key`, after the row's own system text if it has one."""
    if key not in row:
        raise UnusableRow(f"has no {key}")
    messages = turns_of(row[key], key)
    system = system_of(row)
    if system and messages and messages[0]["role"] == "system":
        raise UnusableRow("has a system text and a system turn: leave one out")
    return [*system, *messages]


def from_alpaca(row: Row) -> list[Message]:
    if "output" not in row:
        raise UnusableRow("has no output")
    return [*alpaca_question(row), {"role": "assistant", "content": text_of(row["output"], "output")}]


def alpaca_question(row: Row) -> list[Message]:
    """System, earlier rounds, and the instruction with its input."""
    if "instruction" not in row:
        raise UnusableRow("has no instruction")
    question = text_of(row["instruction"], "instruction")
    extra = row.get("input")
    if extra is not None and extra != "":
        question = f"{question}\n\n{text_of(extra, 'input')}"
    return [*system_of(row), *history_of(row.get("history")), {"role": "user", "content": question}]


def system_of(row: Row) -> list[Message]:
    system = row.get("system")
    if system is None or system == "":
        return []
    return [{"role": "system", "content": text_of(system, "system")}]


def history_of(value: Any) -> list[Message]:
    """Earlier rounds, each [question, answer]."""
    if value is None or value == "":
        return []
    rounds = embedded(value, "history")
    if not isinstance(rounds, list):
        raise UnusableRow(f"history is {kind_of(rounds)}, not a list")
    messages: list[Message] = []
    for number, pair in enumerate(rounds, start=1):
        if not isinstance(pair, list) or len(pair) != 2:
            raise UnusableRow(f"history: round {number} is no list of a question and an answer")
        asked, said = (text_of(text, f"history: round {number}") for text in pair)
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
    return messages


def from_completion(row: Row) -> list[Message]:
    return [*prompt_of(row), *answer_of(row, "completion")]


def prompt_of(row: Row) -> list[Message]:
    """`prompt`: one question as text, or turns."""
    value = row.get("prompt")
    if is_turns(value):
        return from_turns(row, "prompt")
    if "prompt" not in row:
        raise UnusableRow("has no prompt")
    return [*system_of(row), {"role": "user", "content": text_of(value, "prompt")}]


def answer_of(row: Row, key: str) -> list[Message]:
    """What the assistant says under `key`: text, one turn, or turns."""
    if key not in row:
        raise UnusableRow(f"has no {key}")
    value = row[key]
    if isinstance(value, Mapping):
        return [turn_of(value, key)]
    if is_turns(value):
        turns = turns_of(value, key)
        if not turns:
            raise UnusableRow(f"{key} has no turns")
        return turns
    return [{"role": "assistant", "content": text_of(value, key)}]


def is_turns(value: Any) -> bool:
    """A list, or text that holds a list of objects as JSON, as a csv file has them."""
    return isinstance(value, list) or (isinstance(value, str) and value.startswith(('[{"role"', '[{"from"')))
