"""Which rule says what: each sentence of a refusal with its rule's place in the file, and the values that it looked at.

Works on the text of the rules: every `refused contains` and `objections contains` is given a name of its own besides, and asked alone. What a
rule looks at is the keys of the input that it, or a helper that it calls, names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from regopy import Interpreter, LogLevel

from raymill.policies.engine import ENTRYPOINT, TESTS, UNREADABLE

PACKAGE = "package " + ENTRYPOINT.rpartition("/")[0].replace("/", ".")
# But for the one that has the objections among the refusals.
REFUSAL = re.compile(r"^(refused|objections) contains\b(?!.*\n\tnot satisfied$)", re.MULTILINE)
HEAD = re.compile(r"^(?:default )?(\w+)[^\n]*$", re.MULTILINE)
WORD = re.compile(r"\w+")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A sentence against a promotion, and where it comes from."""

    sentence: str
    rule: str
    """File and line, such as promotion.rego:182."""

    source: str
    """Text of the rule."""

    looked_at: dict[str, Any]
    """Of the input; of what is told by metric or type, what the sentence is about."""


def explain(files: Mapping[str, str], question: Mapping[str, Any]) -> tuple[Finding, ...]:
    """What the rules have against `question`, by rule. Empty where they cannot be asked one by one."""
    named: dict[str, tuple[str, str]] = {}
    interpreter = Interpreter()
    interpreter.log_level = LogLevel.NONE
    helpers = _helpers("\n".join(files.values()))
    try:
        for file, source in sorted(files.items()):
            if not file.endswith(TESTS):
                interpreter.add_module(file, _with_names(file, source, named))
        if not named:
            return ()
        entry = ENTRYPOINT.rpartition("/")[0]
        bundle = interpreter.build(None, [f"{entry}/{name}" for name in named])
        interpreter.set_input_term(json.dumps(question))
        found = []
        for name, (rule, text) in named.items():
            output = interpreter.query_bundle_entrypoint(bundle, f"{entry}/{name}")
            for sentence in output.results[0].expressions[0] if output.results else ():
                seen = _looked_at(str(sentence), text, helpers, question)
                found.append(Finding(sentence=str(sentence), rule=rule, source=text, looked_at=seen))
    except UNREADABLE:
        return ()
    return tuple(sorted(found, key=lambda each: (each.sentence, each.rule)))


def _with_names(file: str, source: str, named: dict[str, tuple[str, str]]) -> str:
    """The source with each refusal under a name of its own, and rules that gather them again."""
    if not re.search(rf"^{re.escape(PACKAGE)}\s*$", source, re.MULTILINE):
        return source
    pieces, end = [], 0
    gather = ""
    for match in REFUSAL.finditer(source):
        name = f"refused_by_{len(named)}"
        line = source.count("\n", 0, match.start()) + 1
        named[name] = (f"{file}:{line}", _block(source, match.start()))
        pieces += [source[end : match.start()], f"{name} contains"]
        gather += f"\n{match[1]} contains each if {{\n\tsome each in {name}\n}}\n"
        end = match.end()
    return "".join(pieces) + source[end:] + gather


def _block(source: str, start: int) -> str:
    """A rule from its head to the line before the next one at the margin."""
    lines = source[start:].split("\n")
    body = [lines[0]]
    for line in lines[1:]:
        if line and not line[0].isspace() and not line.startswith("}"):
            break
        body.append(line)
    return "\n".join(body).rstrip()


def _helpers(source: str) -> dict[str, str]:
    """Name of a rule -> the text of all rules of that name."""
    found: dict[str, str] = {}
    for match in HEAD.finditer(source):
        if match[1] not in {"package", "import", "refused", "objections", "allow", "decision"}:
            found[match[1]] = found.get(match[1], "") + _block(source, match.start())
    return found


def _looked_at(
    sentence: str, text: str, helpers: Mapping[str, str], question: Mapping[str, Any]
) -> dict[str, Any]:
    words: set[str] = set()
    waiting = [text]
    while waiting:
        new = set(WORD.findall(waiting.pop())) - words
        words |= new
        waiting += [helpers[word] for word in new if word in helpers]
    return {key: _about(question[key], sentence) for key in sorted(words & question.keys())}


def _about(value: Any, sentence: str) -> Any:
    if not isinstance(value, dict):
        return value
    about = {
        key: item for key, item in value.items() if re.search(rf"(?<!\w){re.escape(key)}(?!\w)", sentence)
    }
    return about or value
