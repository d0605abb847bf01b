"""Weak places by the patterns of `patterns.toml`: for languages that have no analyser which can be used offline beside
our other packages, and for what the analysers of C and Python leave out.

A pattern looks at code without its comments. It knows nothing of where data comes from, and says so by its confidence.
"""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tree_sitter import Node

from raymill.evaluate.analysers.findings import Finding, Level, line_at

NAME = "patterns"
RULES = Path(__file__).with_name("patterns.toml")
MOST_LETTERS = 2_000
"""Of a line that is looked at: in longer ones, such as minified code, nobody would find the place."""


class Rule(NamedTuple):
    id: str
    languages: frozenset[str]
    cwe: str
    severity: Level
    confidence: Level
    title: str
    pattern: re.Pattern[str]
    unread: bool
    """Only for files that the language's analyser cannot read."""


@functools.cache
def rules() -> tuple[Rule, ...]:
    """All there are."""
    found = tomllib.loads(RULES.read_text(encoding="utf-8"))["rule"]
    return tuple(
        Rule(
            id=each["id"],
            languages=frozenset(each["languages"]),
            cwe=each["cwe"],
            severity=each["severity"],
            confidence=each.get("confidence", "low"),
            title=each["title"],
            pattern=re.compile(each["pattern"]),
            unread=each.get("unread", False),
        )
        for each in found
    )


def look(language: str, file: str, source: bytes, tree: Node | None, *, read: bool = True) -> list[Finding]:
    """What the patterns find.

    Args:
        tree: tells where the comments are.
        read: the language's own analyser could read the file.
    """
    code = bytearray(source)
    for start, end in _comments(tree) if tree is not None else ():
        code[start:end] = bytes(32 if byte != 10 else 10 for byte in code[start:end])
    lines = source.decode(errors="replace").split("\n")
    ours = [rule for rule in rules() if language in rule.languages and not (rule.unread and read)]
    return [
        Finding(
            title=rule.title,
            cwe=rule.cwe,
            severity=rule.severity,
            file=file,
            line_start=number,
            line_end=number,
            evidence=line_at(lines, number),
            confidence=rule.confidence,
            sources=(NAME,),
            rule=rule.id,
        )
        for number, line in enumerate(code.decode(errors="replace").split("\n"), start=1)
        for rule in ours
        if rule.pattern.search(line[:MOST_LETTERS])
    ]


def _comments(root: Node) -> Iterator[tuple[int, int]]:
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if "comment" in node.type:
            yield node.start_byte, node.end_byte
        else:
            waiting.extend(node.children)
