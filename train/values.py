"""Plain values of a row, checked: text that can be trained on, JSON that can be kept. Knows no format.

A value that breaks a rule raises UnusableRow with the reason, in words for the row's author.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

MAX_DEPTH = 64
"""Levels of a JSON value that is kept (a tool's schema, a call's arguments); templates render it recursively."""


class UnusableRow(Exception):
    """A row cannot be used; `str(error)` is the reason."""


def text_of(value: Any, name: str, *, may_be_empty: bool = False) -> str:
    """`value` when it is text that can be trained on."""
    if not isinstance(value, str):
        raise UnusableRow(f"{name} is {kind_of(value)}, not text")
    if not may_be_empty and not value.strip():
        raise UnusableRow(f"{name} is empty")
    if "\0" in value:
        raise UnusableRow(f"{name} has a null character, at which C programs end a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UnusableRow(f"{name} has half a surrogate pair, which UTF-8 cannot hold") from error
    return value


def kind_of(value: Any) -> str:
    """How JSON calls the type of `value`."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"the number {str(value)[:40]}"
    kinds = {type(None): "null", bool: "true or false", str: "text", list: "a list", dict: "an object"}
    return kinds.get(type(value), f"a {type(value).__name__}")


def parse_json(text: str) -> Any:
    """JSON as the standard has it: no NaN, no Infinity, no key twice.

    Raises:
        UnusableRow: what is wrong, and where.
    """
    try:
        return STRICT.decode(text)
    except json.JSONDecodeError as error:
        raise UnusableRow(f"is no JSON: {error.msg} at column {error.colno}") from error
    except ValueError as error:  # a number of thousands of digits
        raise UnusableRow(f"is no JSON: {error}") from error
    except RecursionError as error:
        raise UnusableRow("is nested too deeply") from error


def refuse_constant(name: str) -> NoReturn:
    raise UnusableRow(f"has {name}, which is no JSON number")


def finite(number: str) -> float:
    value = float(number)
    if math.isinf(value):
        raise UnusableRow(f"has the number {number[:40]}, which no computer number holds")
    return value


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise UnusableRow(f"has the key {twice[:40]!r} twice")
    return found


STRICT = json.JSONDecoder(parse_constant=refuse_constant, parse_float=finite, object_pairs_hook=unique_keys)


def embedded(value: Any, name: str) -> Any:
    """`value`, or what it says as JSON when it is text: a csv cell can hold nothing else."""
    if not isinstance(value, str):
        return value
    try:
        return parse_json(value)
    except UnusableRow as error:
        raise UnusableRow(f"{name} {error}") from error


def check_json(value: Any, name: str, depth: int = 0) -> None:
    """Refuse what a JSON text cannot hold: numbers that are not finite, half characters, endless nesting."""
    if depth > MAX_DEPTH:
        raise UnusableRow(f"{name} is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, str):
        text_of(value, name, may_be_empty=True)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise UnusableRow(f"{name} has {value}, which is no JSON number")
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            text_of(key, f"a key of {name}", may_be_empty=True)
            check_json(inner, name, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            check_json(inner, name, depth + 1)
    elif value is not None and not isinstance(value, bool | int):
        raise UnusableRow(f"{name} has {kind_of(value)}, which is no JSON")
