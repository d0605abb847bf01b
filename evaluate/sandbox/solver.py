"""The side that holds the program: it runs once, then its function is called with what arrives.

Nothing here is trusted by anybody: the program may change all of it. It has never held the tests.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

from raymill.evaluate.sandbox.wire import Closed, Line, decode, encode

ERROR_LETTERS = 500


def solve(solution: str, entry_point: str, line: Line) -> None:
    """Run `solution`, tell that it stands or why not, and answer calls of `entry_point` until there are no more."""
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module  # dataclasses and others look their module up
    sys.argv = ["solution.py"]
    try:
        exec(compile(solution, "solution.py", "exec"), module.__dict__)
        function = module.__dict__[entry_point]
    except KeyError:
        line.send({"error": ["NameError", f"the program defines no {entry_point}"]})
        return
    except BaseException as error:  # noqa: BLE001 (whatever a program may raise is its result)
        line.send({"error": describe(error)})
        return
    line.send({"ready": True})
    try:
        while True:
            line.send(answer(function, line.receive()))
    except Closed:
        return


def answer(function: Callable[..., Any], call: dict[str, Any]) -> dict[str, Any]:
    """The value, and the arguments as they are afterwards: a test may look at a list that was sorted in place."""
    try:
        arguments, named = decode(call["arguments"]), decode(call["named"])
        value = function(*arguments, **named)
        return {"value": encode(value), "arguments": encode(arguments)}
    except BaseException as error:  # noqa: BLE001 (as above)
        return {"error": describe(error)}


def describe(error: BaseException) -> list[str]:
    """Name of the class and text."""
    try:
        text = str(error)[:ERROR_LETTERS]
    except BaseException:  # noqa: BLE001 (the class may be the program's own)
        text = ""
    return [type(error).__name__, text.encode(errors="replace").decode()]
