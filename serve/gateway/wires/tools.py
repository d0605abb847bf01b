"""The tools of a chat request, old spelling and new, in one shape that other wires can be made of.

Source: OpenAI API reference, Chat Completions (`tools`, `tool_choice`, `parallel_tool_calls`, and the
deprecated `functions`, `function_call`).
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import msgspec

from raymill.policies.errors import Invalid
from raymill.serve.gateway.wires.errors import Untranslatable
from raymill.serve.gateway.wires.shape import Json, a_list, a_text, an_object, objects, told, wrong

EMPTY_SCHEMA: Json = {"type": "object", "properties": {}}


class Function(NamedTuple):
    name: str
    description: str | None
    parameters: Json
    strict: bool
    cache_control: Any
    """Anthropic's, as OpenAI-wire clients hand it through; None when absent."""


class Tools(NamedTuple):
    functions: list[Function]
    choice: Literal["auto", "none", "required", "named"]
    name: str | None
    """The function that must be called, when the choice is named."""

    parallel: bool
    """Whether several calls in one answer are welcome."""

    @property
    def forced(self) -> bool:
        """The model has to call a function."""
        return self.choice in {"required", "named"}


class ToolCall(NamedTuple):
    """A call that the model made earlier in the conversation."""

    id: str
    name: str
    arguments: Json
    extra: Json
    """The call as it was sent, for what only one provider knows."""


def tools_of_chat(body: Json) -> Tools | None:
    """The functions that the model may call; None when there are none.

    An `allowed_tools` choice leaves only the functions it names.

    Raises:
        Untranslatable: a custom tool, or a choice that has no counterpart.
        Invalid: something is no tool at all.
    """
    functions: list[Function] = []
    if body.get("tools"):
        for where, tool in objects(body["tools"], "tools"):
            kind = tool.get("type", "function")
            if kind != "function":
                raise Untranslatable(
                    f"{where} is of type {told(kind)}: only function tools can be handed on, "
                    "or use a target of the OpenAI wire",
                    param=where,
                )
            functions.append(_function(tool.get("function"), f"{where}.function", tool.get("cache_control")))
    elif body.get("functions"):
        functions = [
            _function(function, where, None) for where, function in objects(body["functions"], "functions")
        ]
    if not functions:
        return None
    parallel = body.get("parallel_tool_calls") is not False
    choice = body.get("tool_choice")
    if choice is None and body.get("function_call") is not None:
        legacy = body["function_call"]
        choice = {"type": "function", "function": legacy} if isinstance(legacy, dict) else legacy
    return _chosen(functions, choice, parallel)


def _function(value: Any, where: str, cache_control: Any) -> Function:
    function = an_object(value, where)
    description = function.get("description")
    parameters = function.get("parameters")
    return Function(
        name=a_text(function.get("name"), f"{where}.name"),
        description=None if description is None else a_text(description, f"{where}.description"),
        parameters=EMPTY_SCHEMA if not parameters else an_object(parameters, f"{where}.parameters"),
        strict=function.get("strict") is True,
        cache_control=cache_control,
    )


def _chosen(functions: list[Function], choice: Any, parallel: bool) -> Tools:
    if choice is None or choice == "auto":
        return Tools(functions, "auto", None, parallel)
    if choice == "none":
        return Tools(functions, "none", None, parallel)
    if choice == "required":
        return Tools(functions, "required", None, parallel)
    if isinstance(choice, str):
        raise Invalid(f"tool_choice is {told(choice)}: use auto, none or required", param="tool_choice")
    chosen = an_object(choice, "tool_choice")
    kind = chosen.get("type")
    if kind == "function":
        function = an_object(chosen.get("function"), "tool_choice.function")
        return Tools(functions, "named", a_text(function.get("name"), "tool_choice.function.name"), parallel)
    if kind == "allowed_tools":
        return _allowed(
            functions, an_object(chosen.get("allowed_tools"), "tool_choice.allowed_tools"), parallel
        )
    raise Untranslatable(
        f"tool_choice of type {told(kind)} has no counterpart: use auto, none, required or a function",
        param="tool_choice",
    )


def _allowed(functions: list[Function], allowed: Json, parallel: bool) -> Tools:
    where = "tool_choice.allowed_tools.tools"
    names = set()
    for place, tool in objects(a_list(allowed.get("tools"), where), where):
        function = an_object(tool.get("function"), f"{place}.function")
        names.add(a_text(function.get("name"), f"{place}.function.name"))
    left = [function for function in functions if function.name in names]
    if not left:
        raise Invalid(f"{where} names none of the tools: name one of them", param=where)
    mode = allowed.get("mode", "auto")
    if mode not in ("auto", "required"):
        raise wrong(mode, "tool_choice.allowed_tools.mode", "send auto or required")
    return Tools(left, mode, None, parallel)


def calls_of(message: Json, where: str) -> list[ToolCall]:
    """The calls that an assistant message holds; an old `function_call` gets its name as its id.

    Raises:
        Untranslatable: a custom tool's call, or arguments that are no JSON object.
    """
    calls = []
    if message.get("tool_calls"):
        for place, call in objects(message["tool_calls"], f"{where}.tool_calls"):
            kind = call.get("type", "function")
            if kind != "function":
                raise Untranslatable(
                    f"{place} is of type {told(kind)}: only function calls can be handed on", param=place
                )
            call_id = a_text(call.get("id"), f"{place}.id")
            calls.append(_call(call_id, call.get("function"), f"{place}.function", call))
    elif message.get("function_call"):
        place = f"{where}.function_call"
        function = an_object(message["function_call"], place)
        calls.append(_call(str(function.get("name")), function, place, {}))
    return calls


def _call(call_id: str, value: Any, where: str, extra: Json) -> ToolCall:
    function = an_object(value, where)
    name = a_text(function.get("name"), f"{where}.name")
    return ToolCall(call_id, name, arguments_of(function.get("arguments"), f"{where}.arguments"), extra)


def arguments_of(value: Any, where: str) -> Json:
    """Arguments, which the OpenAI wire carries as JSON text, as an object."""
    if value is None or value == "":
        return {}
    try:
        arguments = msgspec.json.decode(a_text(value, where))
    except (msgspec.DecodeError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise Untranslatable(f"{where} is {told(value)}: send a JSON object as text", param=where)
    return arguments
