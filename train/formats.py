"""The shapes that a conversation comes in, and the one shape they all become.

A row is a mapping, wherever it was read from; the normal form is a list of {"role", "content"}. Knows
nothing of files. A row that breaks a rule raises BadConversation with the reason, in words for its author.

    messages    {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}
    sharegpt    {"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}]}
    alpaca      {"instruction": "…", "input": "…", "output": "…"}
    completion  {"prompt": "…", "completion": "…"}
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, Literal, assert_never

Message = dict[str, str]
Format = Literal["messages", "sharegpt", "alpaca", "completion"]
Row = Mapping[str, Any]

SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "system": "system",
}
ROLES = ("system", "user", "assistant")


class BadConversation(Exception):
    """A row cannot be used; `str(error)` is the reason."""


def detect(row: Row) -> Format:
    """The format that the row's keys tell.

    Raises:
        BadConversation: the keys belong to no format.
    """
    if "messages" in row:
        return "messages"
    if "conversations" in row:
        return "sharegpt"
    if "instruction" in row and "output" in row:
        return "alpaca"
    if "prompt" in row and "completion" in row:
        return "completion"
    keys = ", ".join(sorted(str(key) for key in row)[:6]) or "none"
    raise BadConversation(
        f"no known format has the keys {keys}: use messages, conversations, instruction and output, "
        "or prompt and completion"
    )


def normalize(row: Row, expected: Format) -> list[Message]:
    """The conversation in `row`.

    Raises:
        BadConversation: the row has another format than the rows before, or breaks a rule.
    """
    found = detect(row)
    if found != expected:
        raise BadConversation(f"is in {found} format, the rows before are in {expected}")
    messages = readers()[found](row)
    check_turns(messages)
    return messages


def readers() -> dict[Format, Callable[[Row], list[Message]]]:
    return {
        "messages": lambda row: from_turns(row["messages"], "messages", "role", "content"),
        "sharegpt": lambda row: from_turns(row["conversations"], "conversations", "from", "value"),
        "alpaca": from_alpaca,
        "completion": from_completion,
    }


def from_turns(turns: Any, name: str, role_key: str, text_key: str) -> list[Message]:
    """Turns under `name`; a string is JSON, as a csv file must hold them."""
    if isinstance(turns, str):
        try:
            turns = json.loads(turns)
        except json.JSONDecodeError as error:
            raise BadConversation(f"{name} is no JSON: {error.msg}") from error
    if not isinstance(turns, list):
        raise BadConversation(f"{name} is {kind_of(turns)}, not a list")
    messages: list[Message] = []
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, Mapping):
            raise BadConversation(f"turn {number} is {kind_of(turn)}, not an object")
        for key in (role_key, text_key):
            if turn.get(key) is None:
                raise BadConversation(f"turn {number} has no {key}")
        role = turn[role_key]
        known = role if name == "messages" else SHAREGPT_ROLES.get(role) if isinstance(role, str) else None
        if known not in ROLES:
            raise BadConversation(
                f"turn {number} has the unknown role {str(role)[:40]!r}: use {', '.join(ROLES)}"
            )
        messages.append({"role": known, "content": text_of(turn[text_key], f"turn {number}: {text_key}")})
    return messages


def from_alpaca(row: Row) -> list[Message]:
    question = text_of(row["instruction"], "instruction")
    extra = row.get("input")
    if extra is not None and extra != "":
        question = f"{question}\n\n{text_of(extra, 'input')}"
    messages = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": text_of(row["output"], "output")},
    ]
    system = row.get("system")
    if system is not None and system != "":
        messages.insert(0, {"role": "system", "content": text_of(system, "system")})
    return messages


def from_completion(row: Row) -> list[Message]:
    return [
        {"role": "user", "content": text_of(row["prompt"], "prompt")},
        {"role": "assistant", "content": text_of(row["completion"], "completion")},
    ]


def text_of(value: Any, name: str) -> str:
    """`value` when it is text that can be trained on."""
    if not isinstance(value, str):
        raise BadConversation(f"{name} is {kind_of(value)}, not text")
    if not value.strip():
        raise BadConversation(f"{name} is empty")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise BadConversation(f"{name} has half a surrogate pair, which UTF-8 cannot hold")
    return value


def kind_of(value: Any) -> str:
    """How JSON calls the type of `value`."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"the number {value}"
    kinds = {type(None): "null", bool: "true or false", str: "text", list: "a list", dict: "an object"}
    return kinds.get(type(value), f"a {type(value).__name__}")


def check_turns(messages: list[Message]) -> None:
    """The order that training needs: an optional system turn, then questions, each with its answer."""
    if not messages:
        raise BadConversation("there are no turns")
    roles = [message["role"] for message in messages]
    if "system" in roles[1:]:
        raise BadConversation(
            f"turn {roles.index('system', 1) + 1} is a system turn: only the first may be one"
        )
    if "assistant" not in roles:
        raise BadConversation("there is no assistant turn, so nothing to learn from")
    if "user" not in roles[: roles.index("assistant")]:
        raise BadConversation("the assistant speaks before any user turn")
    for number, (role, following) in enumerate(pairwise(roles), start=1):
        if role == following:
            raise BadConversation(f"turns {number} and {number + 1} are both by the {role}")
    if roles[-1] != "assistant":
        raise BadConversation("the last turn is not the assistant's")


def describe(kind: Format) -> str:
    """The format in words, for a person."""
    match kind:
        case "messages":
            return "messages (role, content)"
        case "sharegpt":
            return "ShareGPT (from, value)"
        case "alpaca":
            return "alpaca (instruction, input, output)"
        case "completion":
            return "prompt and completion"
        case _:
            assert_never(kind)
