"""The side that holds the tests: it calls the program in the other process and judges the answers.

The program's objects never come here, only data: a value whose `==` is always true, a patched builtin or
an exit in the other process change nothing on this side.
"""

from __future__ import annotations

import builtins
import random
import traceback
from typing import Any

from raymill.evaluate.sandbox.wire import Closed, Line, TooLong, decode, encode

LETTERS = 500
REASONS = {"AssertionError": "wrong", "MemoryError": "memory", "SystemExit": "exited"}


class Candidate:
    """Called like the program's function. What the function raises is raised here, as a class of Python's own."""

    def __init__(self, line: Line) -> None:
        self._line = line

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        given = list(arguments)
        self._line.send({"arguments": encode(given), "named": encode(named)})
        reply = self.reply()
        for mine, theirs in zip(given, decode(reply["arguments"]), strict=True):
            _follow(mine, theirs)
        return decode(reply["value"])

    def reply(self) -> Any:
        """The next line of the program.

        Raises:
            BaseException: what the program has raised.
        """
        reply = self._line.receive()
        if "error" in reply:
            name, text = (str(part)[:LETTERS] for part in reply["error"])
            kind = getattr(builtins, name, None)
            if isinstance(kind, type) and issubclass(kind, BaseException):
                raise _made(kind, text)
            raise RuntimeError(f"{name}: {text}")
        return reply


def _made(kind: type[BaseException], text: str) -> BaseException:
    try:
        return kind(text)
    except TypeError:  # such as UnicodeDecodeError, which takes five arguments
        return RuntimeError(f"{kind.__name__}: {text}")


def _follow(mine: Any, theirs: Any) -> None:
    """Have an argument that can change be as the program has left it."""
    if isinstance(mine, list | bytearray) and isinstance(theirs, list | bytearray):
        mine[:] = theirs
    elif isinstance(mine, dict | set) and type(theirs) is type(mine):
        mine.clear()
        mine.update(theirs)


def check(prompt: str, test: str, entry_point: str, line: Line) -> dict[str, Any]:
    """Run `test` and its `check(candidate)`; `passed`, or `reason` and `detail`.

    Args:
        prompt: Python that the tests may refer to, such as helpers that stand before the function.
    """
    candidate = Candidate(line)
    names: dict[str, Any] = {"__name__": "tests"}
    random.seed(0)  # tests draw inputs; the same for every program
    try:
        refused = line.receive()["refused"]
        if refused is not None:
            return {"refused": refused}
        candidate.reply()
        exec(compile(prompt, "prompt.py", "exec"), names)
        names[entry_point] = candidate
        exec(compile(test, "tests.py", "exec"), names)
        names["check"](candidate)
    except Closed:
        return {"passed": False, "reason": "lost", "detail": ""}
    except TooLong:
        return {"passed": False, "reason": "output", "detail": "an answer is longer than answers may be"}
    except BaseException as error:  # noqa: BLE001 (every error is a verdict)
        name = type(error).__name__
        return {"passed": False, "reason": REASONS.get(name, "error"), "detail": _detail(error, test)}
    return {"passed": True, "reason": None, "detail": ""}


def _detail(error: BaseException, test: str) -> str:
    """The error's last line; for an assertion without words, the line of the test."""
    said = "".join(traceback.format_exception_only(error)).strip().splitlines()
    text = said[-1] if said else type(error).__name__
    if text == "AssertionError":
        lines = test.splitlines()
        places = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename == "tests.py"
        ]
        if places and places[-1] is not None and places[-1] <= len(lines):
            text = f"AssertionError: {lines[places[-1] - 1].strip()}"
    return text[:LETTERS]
