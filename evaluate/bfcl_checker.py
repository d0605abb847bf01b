"""Is a call the one that was asked for? The rules of BFCL's AST checker for Python functions, one call at a time.

Values are compared as BFCL has it: text without case, blanks and the characters `,./-_*^`, with either kind of quotation mark;
lists in their order; an argument may be left out where `""` is among its allowed values. Types are those of the function's
description; a whole number stands for a float, but not inside a list.

Source: Patil et al., The Berkeley Function Calling Leaderboard, ICML 2025; `simple_function_checker` in
`bfcl_eval/eval_checker/ast_eval/ast_checker.py` of the package bfcl-eval 2026.3.23.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from raymill.evaluate.tool_calls import Call

TYPES: dict[str, type] = {
    "string": str,
    "integer": int,
    "float": float,
    "number": float,
    "boolean": bool,
    "array": list,
    "tuple": list,
    "dict": dict,
    "object": dict,
    "any": str,
}
"""How descriptions call types; `number` and `object` are JSON Schema's words for `float` and `dict`."""

OMITTED = ""
"""Among allowed values: the argument may be left out."""

IGNORED = re.compile(r"[ ,./\-_*^]")

Reason = Literal[
    "", "no_call", "unreadable", "count", "name", "missing", "unexpected", "type", "value", "left_out"
]


class Verdict(NamedTuple):
    reason: Reason
    """Empty: the call is right."""

    detail: str


RIGHT = Verdict("", "")


@dataclass(frozen=True, kw_only=True)
class Parameter:
    type: str
    """A key of TYPES."""

    items: str | None = None
    """Type of the elements of a list."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The call that is right, and what the function takes."""

    name: str
    parameters: dict[str, Parameter]
    required: tuple[str, ...]
    allowed: dict[str, list[Any]]
    """Argument -> the values that are right."""


def check(call: Call, wanted: Wanted) -> Verdict:
    """The first thing that is wrong with `call`."""
    if call.name != wanted.name:
        return Verdict("name", f"it calls {call.name!r}, not {wanted.name!r}")
    for name in wanted.required:
        if name not in call.arguments:
            return Verdict("missing", f"{name} is required and missing")
    for name, value in call.arguments.items():
        if name not in wanted.parameters or name not in wanted.allowed:
            return Verdict("unexpected", f"{name} is not to be given")
        verdict = check_value(name, value, wanted.parameters[name], wanted.allowed[name])
        if verdict.reason:
            return verdict
    for name, allowed in wanted.allowed.items():
        if name not in call.arguments and OMITTED not in allowed:
            return Verdict("left_out", f"{name} is missing, and this question asks for it")
    return RIGHT


def check_value(name: str, value: Any, parameter: Parameter, allowed: Sequence[Any]) -> Verdict:
    """Whether a value has the right type and is among those that are allowed."""
    expected = TYPES[parameter.type]
    nested = TYPES[parameter.items] if expected is list and parameter.items is not None else None
    if expected is list and isinstance(value, tuple):
        value = list(value)
    if expected is float and type(value) is int:
        value = float(value)
    kind = kind_of(allowed)
    # Where the allowed values are of another type than the description says, that type is right too, and is
    # compared as it stands.
    plain = kind is not None and kind is not expected
    if type(value) is expected:
        if (
            nested is not None
            and isinstance(value, list)
            and not any(all_of(value, each, nested) for each in allowed)
        ):
            return Verdict("type", f"{name} should be a list of {parameter.items}, got {shown(value)}")
    elif type(value) is kind:
        plain = True
    else:
        return Verdict("type", f"{name} should be {parameter.type}, got {shown(value)}")
    if is_allowed(value, allowed, None if plain else expected, nested):
        return RIGHT
    return Verdict("value", f"{name} is {shown(value)}, right is any of {shown(list(allowed))}")


def kind_of(allowed: Sequence[Any]) -> type | None:
    """Type of the first allowed value; None where an argument can only be left out."""
    return next((type(each) for each in allowed if each != OMITTED), None)


def all_of(values: list[Any], allowed: Any, nested: type) -> bool:
    """Whether each element has the type, or that of the first element of an allowed list."""
    if not isinstance(allowed, list):
        return True
    kind = kind_of(allowed)
    return all(type(each) is nested or (kind is not None and type(each) is kind) for each in values)


def is_allowed(value: Any, allowed: Sequence[Any], expected: type | None, nested: type | None) -> bool:
    if expected is dict:
        return any(same_dict(value, each) for each in allowed if each != OMITTED)
    if expected is list and nested is dict:
        return any(same_dicts(value, each) for each in allowed)
    if expected is str:
        return standard(value) in [standard(each) for each in allowed if isinstance(each, str)]
    if expected is list:
        texts = [standard(each) for each in value]
        return any(texts == [standard(inner) for inner in each] for each in allowed)
    return value in allowed


def same_dict(value: dict[str, Any], allowed: Any) -> bool:
    """Whether every key is known and has one of its allowed values, and none that is needed is missing."""
    if not isinstance(allowed, dict):
        return False
    right = all(
        key in allowed and standard(inner) in [standard(each) for each in allowed[key]]
        for key, inner in value.items()
    )
    return right and all(key in value or OMITTED in values for key, values in allowed.items())


def same_dicts(values: list[Any], allowed: Any) -> bool:
    return len(values) == len(allowed) and all(map(same_dict, values, allowed))


def standard(value: Any) -> Any:
    """Text as it is compared; anything else as it stands."""
    return IGNORED.sub("", value).lower().replace("'", '"') if isinstance(value, str) else value


def shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:199] + "…"
