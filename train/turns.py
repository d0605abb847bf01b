"""The turns of a conversation: read from the shapes they come in, and checked for an order that can be trained on.

A turn in normal form is {"role": "system" | "user" | "assistant" | "tool", "content": text}, an assistant's with
"tool_calls" when it calls tools, a tool's with "tool_call_id" or "name" when the row has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from raymill.train.tool_calls import Tool, calls_of, names_of
from raymill.train.values import UnusableRow, embedded, kind_of, text_of

Message = dict[str, Any]

ROLES = ("system", "user", "assistant", "tool")
OPENAI_ROLES = {role: role for role in ROLES} | {"developer": "system"}
SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "system": "system",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
}


def turns_of(value: Any, name: str) -> list[Message]:
    """The turns in `value`: a list of {"role", "content"} or of {"from", "value"}, or JSON of one."""
    turns = embedded(value, name)
    if not isinstance(turns, list):
        raise UnusableRow(f"{name} is {kind_of(turns)}, not a list")
    return [turn_of(turn, f"turn {number}") for number, turn in enumerate(turns, start=1)]


def turn_of(turn: Any, name: str) -> Message:
    if not isinstance(turn, Mapping):
        raise UnusableRow(f"{name} is {kind_of(turn)}, not an object")
    return sharegpt_turn(turn, name) if "from" in turn or "value" in turn else openai_turn(turn, name)


def sharegpt_turn(turn: Mapping[str, Any], name: str) -> Message:
    role = role_of(turn, "from", SHAREGPT_ROLES, name)
    if turn.get("value") is None:
        raise UnusableRow(f"{name} has no value")
    if turn["from"] == "function_call":
        calls = calls_of(turn["value"], f"{name}: value")
        return {"role": role, "content": "", "tool_calls": calls}
    return {"role": role, "content": content_of(turn["value"], f"{name}: value", may_be_empty=role == "tool")}


def openai_turn(turn: Mapping[str, Any], name: str) -> Message:
    role = role_of(turn, "role", OPENAI_ROLES, name)
    given = turn.get("tool_calls") or None
    if given is not None and role != "assistant":
        raise UnusableRow(f"{name} has tool_calls, but is by the {role}: only the assistant calls tools")
    calls = None if given is None else calls_of(given, f"{name}: tool_calls")
    content = turn.get("content")
    if content is None and calls is not None:
        content = ""
    if content is None:
        raise UnusableRow(f"{name} has no content")
    may_be_empty = role == "tool" or calls is not None
    message: Message = {
        "role": role,
        "content": content_of(content, f"{name}: content", may_be_empty=may_be_empty),
    }
    if calls is not None:
        message["tool_calls"] = calls
    if role == "tool":
        kept = {key: turn[key] for key in ("tool_call_id", "name") if turn.get(key) is not None}
        message |= {key: text_of(value, f"{name}: {key}") for key, value in kept.items()}
    return message


def role_of(turn: Mapping[str, Any], key: str, roles: Mapping[str, str], name: str) -> str:
    role = turn.get(key)
    if role is None:
        raise UnusableRow(f"{name} has no {key}")
    known = roles.get(role) if isinstance(role, str) else None
    if known is None:
        raise UnusableRow(f"{name} has the unknown role {str(role)[:40]!r}: use {', '.join(roles)}")
    return known


def content_of(value: Any, name: str, *, may_be_empty: bool = False) -> str:
    """Text, also when it comes in OpenAI's parts."""
    if isinstance(value, list) and value and all(isinstance(part, Mapping) for part in value):
        for part in value:
            if part.get("type") != "text":
                kind = str(part.get("type"))[:40]
                raise UnusableRow(f"{name} has a part of the type {kind!r}: only text can be trained on")
        value = "".join(text_of(part.get("text"), f"{name}: text", may_be_empty=True) for part in value)
    return text_of(value, name, may_be_empty=may_be_empty)


def check_turns(messages: list[Message], tools: list[Tool]) -> None:
    """The order that training needs: an optional system turn, then questions, each with its answer.

    Tools are called by the assistant alone, each by a name that `tools` has, and each call has its result
    before anyone else speaks, unless the row ends with the call.
    """
    if not messages:
        raise UnusableRow("there are no turns")
    roles = [message["role"] for message in messages]
    if "system" in roles[1:]:
        raise UnusableRow(f"turn {roles.index('system', 1) + 1} is a system turn: only the first may be one")
    if "assistant" not in roles:
        raise UnusableRow("there is no assistant turn, so nothing to learn from")
    if "user" not in roles[: roles.index("assistant")]:
        raise UnusableRow("the assistant speaks before any user turn")
    check_calls(messages, names_of(tools))
    for number, (role, following) in enumerate(pairwise(roles), start=1):
        if role == following and role != "tool":
            raise UnusableRow(f"turns {number} and {number + 1} are both by the {role}")
    if roles[-1] != "assistant":
        raise UnusableRow("the last turn is not the assistant's")


def check_calls(messages: list[Message], known: list[str]) -> None:
    """Each call is of a known tool and has its result; each result has its call."""
    waiting: list[str | None] = []
    for number, message in enumerate(messages, start=1):
        if message["role"] == "tool":
            if not waiting:
                raise UnusableRow(f"turn {number} is a tool's result, but no call waits for one")
            answered = message.get("tool_call_id")
            if answered is not None and any(waiting):
                if answered not in waiting:
                    raise UnusableRow(f"turn {number} answers the call {answered[:40]!r}, which nobody made")
                waiting.remove(answered)
            else:
                waiting.pop(0)
            continue
        if waiting:
            raise UnusableRow(f"turn {number} comes before the results of {len(waiting)} tool calls")
        for call in message.get("tool_calls", ()):
            called = call["function"]["name"]
            if called not in known:
                there = ", ".join(known)[:80] or "none"
                raise UnusableRow(f"turn {number} calls {called[:40]!r}, which tools does not have: {there}")
            waiting.append(call.get("id"))
