"""Tools and their calls in a row: OpenAI's shape, the bare one of ShareGPT sets, and text that holds either as JSON.

In normal form a tool is {"type": "function", "function": {"name", "description"?, "parameters"?}} and a call
{"type": "function", "function": {"name", "arguments"}}, arguments as an object. Knows no roles.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raymill.train.values import UnusableRow, check_json, embedded, kind_of, text_of

Tool = dict[str, Any]
Call = dict[str, Any]


def tools_of(value: Any) -> list[Tool]:
    """The tools of a row; none when `value` is missing, null, empty text or an empty list.

    Raises:
        UnusableRow: it is no list of tools, or two have the same name.
    """
    if value is None or value == "":
        return []
    listed = embedded(value, "tools")
    if not isinstance(listed, list):
        raise UnusableRow(f"tools is {kind_of(listed)}, not a list")
    tools = [tool_of(tool, f"tool {number}") for number, tool in enumerate(listed, start=1)]
    names = names_of(tools)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UnusableRow(f"tools has {twice!r} twice")
    return tools


def names_of(tools: list[Tool]) -> list[str]:
    return [tool["function"]["name"] for tool in tools]


def tool_of(value: Any, name: str) -> Tool:
    function = function_of(value, name)
    text_of(function["name"], f"{name}: name")
    if function.get("description") is not None:
        text_of(function["description"], f"{name}: description", may_be_empty=True)
    parameters = function.get("parameters")
    if parameters is not None and not isinstance(parameters, Mapping):
        raise UnusableRow(f"{name}: parameters is {kind_of(parameters)}, not an object")
    check_json(function, name)
    kept = {key: inner for key, inner in function.items() if inner is not None}
    return {"type": "function", "function": kept}


def calls_of(value: Any, name: str) -> list[Call]:
    """The calls of one assistant turn; `value` is a list of them, one alone, or JSON of either.

    Raises:
        UnusableRow: it is neither.
    """
    listed = embedded(value, name)
    if isinstance(listed, Mapping):
        listed = [listed]
    if not isinstance(listed, list):
        raise UnusableRow(f"{name} is {kind_of(listed)}, not a list")
    if not listed:
        raise UnusableRow(f"{name} is an empty list")
    return [call_of(call, f"{name}: call {number}") for number, call in enumerate(listed, start=1)]


def call_of(value: Any, name: str) -> Call:
    function = function_of(value, name)
    called = text_of(function["name"], f"{name}: name")
    arguments = function.get("arguments")
    arguments = {} if arguments in (None, "") else embedded(arguments, f"{name}: arguments")
    if not isinstance(arguments, Mapping):
        raise UnusableRow(f"{name}: arguments is {kind_of(arguments)}, not an object")
    check_json(arguments, f"{name}: arguments")
    call: Call = {"type": "function", "function": {"name": called, "arguments": dict(arguments)}}
    if isinstance(value.get("id"), str) and value["id"]:
        call = {"id": text_of(value["id"], f"{name}: id"), **call}
    return call


def function_of(value: Any, name: str) -> Mapping[str, Any]:
    """What lies under `function`, or `value` itself in the bare shape."""
    if not isinstance(value, Mapping):
        raise UnusableRow(f"{name} is {kind_of(value)}, not an object")
    if value.get("type") not in (None, "function"):
        raise UnusableRow(f"{name} has the type {str(value['type'])[:40]!r}: only 'function' is known")
    function = value.get("function") or value
    if not isinstance(function, Mapping):
        raise UnusableRow(f"{name}: function is {kind_of(function)}, not an object")
    if function.get("name") is None:
        raise UnusableRow(f"{name} has no name")
    return {key: inner for key, inner in function.items() if key != "type"} if function is value else function
