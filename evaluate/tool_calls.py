"""Reads the calls of tools out of what a model wrote, in the ways that models are trained to write them.

    Hermes, Qwen, our own bases    <tool_call>{"name": ..., "arguments": {...}}</tool_call>, once for each call
    Llama 3, Mistral, others       {"name": ..., "parameters": {...}} or "arguments"; several in a list, or one after another
    Llama 4, Gemma, BFCL's prompt  [name(argument=value), ...] as Python

As vLLM's parsers, an answer is one or the other as a whole: where a call cannot be read, none is.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any, NamedTuple

TAGGED = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
FENCED = re.compile(r"\A```\w*\n(.*?)\n?```\Z", re.DOTALL)
MARKERS = ("[TOOL_CALLS]", "<|python_tag|>")
"""Stand before calls; most tokenizers leave them out of decoded text."""

DECODER = json.JSONDecoder()


class Call(NamedTuple):
    name: str
    arguments: dict[str, Any]


class Unreadable(Exception):
    """The answer begins as a call and does not go on as one; `str(error)` says why."""


def read_calls(answer: str) -> list[Call]:
    """The calls of an answer in their order; none when it is plain words.

    Raises:
        Unreadable: it has what looks like a call, but is none.
    """
    if tagged := TAGGED.findall(answer):
        return [call for text in tagged for call in json_calls(text)]
    text = answer.strip()
    for marker in MARKERS:
        text = text.removeprefix(marker).strip()
    if (fenced := FENCED.match(text)) is not None:
        text = fenced[1].strip()
    if text.startswith("[") and re.match(r"\[\s*[A-Za-z_][\w.]*\s*\(", text):
        return python_calls(text)
    return json_calls(text) if text.startswith(("{", "[")) else []


def json_calls(text: str) -> list[Call]:
    """Objects, or lists of them, one after another; white space and semicolons may stand between."""
    found: list[Call] = []
    rest = text.strip()
    while rest:
        try:
            value, end = DECODER.raw_decode(rest)
        except (ValueError, RecursionError) as error:
            raise Unreadable(f"its call is no JSON: {error}") from error
        found += [call_of(each) for each in (value if isinstance(value, list) else [value])]
        rest = rest[end:].lstrip(" \t\r\n;")
    if not found:
        raise Unreadable("there is no call where one is announced")
    return found


def call_of(value: Any) -> Call:
    """One call as JSON; `arguments` may be an object, or text that holds one."""
    inner = value.get("function", value) if isinstance(value, dict) else value
    if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
        raise Unreadable("its call has no name")
    arguments = inner.get("arguments", inner.get("parameters", {}))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            raise Unreadable(f"the arguments of its call are no JSON: {error}") from error
    if not isinstance(arguments, dict):
        raise Unreadable("the arguments of its call are no object")
    return Call(inner["name"], arguments)


def python_calls(text: str) -> list[Call]:
    """A Python list of calls with keyword arguments, which are literals. Nothing is run."""
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Unreadable(f"its call is no Python: {error}") from error
    found: list[Call] = []
    for part in tree.elts if isinstance(tree, ast.List) else [tree]:
        if not isinstance(part, ast.Call) or part.args or any(each.arg is None for each in part.keywords):
            raise Unreadable("its call is not written as name(argument=value)")
        try:
            arguments = {str(each.arg): ast.literal_eval(each.value) for each in part.keywords}
        except (ValueError, TypeError, RecursionError, MemoryError) as error:
            raise Unreadable(f"an argument of its call is no plain value: {error}") from error
        found.append(Call(ast.unparse(part.func), arguments))
    return found
