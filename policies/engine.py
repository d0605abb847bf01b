"""Decides by rules written in Rego, in this process.

The rules decide; this module only shows them the input and reads the answer. What cannot be evaluated is
refused. Knows no database and no model.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regopy import Interpreter, LogLevel, RegoError

from raymill.policies.errors import Invalid

RULES = Path(__file__).resolve().parent
"""The folder of the rules that Raymill ships."""

TESTS = "_test.rego"
"""How files of tests end: they are no part of the bundle."""

ENTRYPOINT = "raymill/promotion/decision"

UNREADABLE = (RegoError, json.JSONDecodeError, LookupError, TypeError)
"""No answer. regopy gives some errors as a successful output whose text is no JSON, hence the second."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the rules said, and the digests that let anyone ask the same rules the same question again."""

    allowed: bool
    reasons: tuple[str, ...]
    """Why not: one sentence for each rule that refuses, sorted. Empty when it is allowed."""

    input: dict[str, Any]
    """What the rules were shown. JSON: numbers that are not finite are strings in it."""

    input_digest: str
    """sha256, hex, of `input` as JSON with sorted keys and without spaces."""

    bundle_digest: str
    """sha256, hex, over sorted lines `<sha256>  <file>`, one for each .rego file."""


def read_rules(folder: Path) -> dict[str, str]:
    """Name -> text of every `*.rego` file in a folder, those of tests too.

    Raises:
        Invalid: there are none, or one is no text.
    """
    try:
        files = {path.name: path.read_text() for path in sorted(folder.glob("*.rego"))}
    except UnicodeDecodeError as error:
        raise Invalid(f"a *.rego file in {folder} is no text ({error.reason}): write it in UTF-8") from error
    if not files:
        raise Invalid(f"no *.rego file lies in {folder}: name a folder with promotion rules")
    return files


def digest_of(files: Mapping[str, str]) -> str:
    """The `bundle_digest` of rules: files of tests do not count."""
    lines = (
        f"{hashlib.sha256(files[name].encode()).hexdigest()}  {name}\n"
        for name in sorted(files)
        if not name.endswith(TESTS)
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


class PolicyEngine:
    """Rules, compiled once. Threads may share it; they take turns."""

    def __init__(self, files: Mapping[str, str]) -> None:
        """Compile the rules among `files`. rego-cpp may end the process for rules that it was never shown: see `trial.py`.

        Raises:
            Invalid: they do not compile; the message holds the compiler's words.
        """
        self.bundle_digest = digest_of(files)
        self._turn = threading.Lock()
        self._interpreter = Interpreter()
        self._interpreter.log_level = LogLevel.NONE  # it would print what the exception says as well
        try:
            for name, source in sorted(files.items()):
                if not name.endswith(TESTS):
                    self._interpreter.add_module(name, source)
            self._bundle = self._interpreter.build(None, [ENTRYPOINT])
            self._answer("{}")
        except UNREADABLE as error:
            raise Invalid(f"the rules give no {ENTRYPOINT}: {_cause(error)}") from error

    def decide(self, question: Mapping[str, Any]) -> Decision:
        """Ask the rules. An answer that cannot be had, or read, is a refusal with its reason; nothing is raised.

        Args:
            question: JSON-like, as described at the top of `promotion.rego`.
        """
        shown, text = _as_json(question)
        allowed, reasons = self._ask(text)
        return Decision(
            allowed=allowed,
            reasons=reasons,
            input=shown,
            input_digest=hashlib.sha256(text.encode()).hexdigest(),
            bundle_digest=self.bundle_digest,
        )

    def _ask(self, text: str) -> tuple[bool, tuple[str, ...]]:
        try:
            allowed, reasons = self._answer(text)
        except UNREADABLE as error:
            return False, (
                f"the rules cannot judge this input ({_cause(error)}): check its numbers and types",
            )
        if not allowed and not reasons:
            return False, ("no rule allows this promotion: check the types of the values in its input",)
        return allowed and not reasons, reasons

    def _answer(self, text: str) -> tuple[bool, tuple[str, ...]]:
        with self._turn:
            self._interpreter.set_input_term(text)
            output = self._interpreter.query_bundle_entrypoint(self._bundle, ENTRYPOINT)
        answer = output.results[0].expressions[0]
        return answer["allow"] is True, tuple(str(reason) for reason in answer["refused"])


def refusal(question: Mapping[str, Any], bundle_digest: str, reason: str) -> Decision:
    """The decision where the rules cannot be asked at all."""
    shown, text = _as_json(question)
    return Decision(
        allowed=False,
        reasons=(reason,),
        input=shown,
        input_digest=hashlib.sha256(text.encode()).hexdigest(),
        bundle_digest=bundle_digest,
    )


@functools.cache
def shipped_rules() -> PolicyEngine:
    """The rules that Raymill ships, compiled once in a process: compiling takes some thirty times as long as deciding."""
    return PolicyEngine(read_rules(RULES))


def _as_json(question: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """What the rules are shown, and the text of it that its digest is over."""
    shown = _finite(question)
    text = json.dumps(shown, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return shown, text


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: as strings they reach the rules, which refuse them by name."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _cause(error: Exception) -> str:
    """One line out of rego-cpp's error trees, which come as an exception's text or in place of JSON."""
    if isinstance(error, LookupError):
        return "it is undefined"
    text = error.doc if isinstance(error, json.JSONDecodeError) else str(error)
    found = re.search(r"\(errormsg \d+:([^)]*)\)", text)
    place = re.search(r"\((?:error|group) \d+:([^|]+\.rego)\|", text)
    line = found.group(1) if found else " ".join(text.split())[:200]
    return f"{line} in {place.group(1)}" if place else line
