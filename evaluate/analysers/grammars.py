"""Whether code parses, by tree-sitter's grammars, one package for each language: nothing is fetched at run time."""

from __future__ import annotations

import functools
import importlib
from typing import NamedTuple

from tree_sitter import Language, Node, Parser

GRAMMARS: dict[str, tuple[str, str]] = {
    "python": ("tree_sitter_python", "language"),
    "javascript": ("tree_sitter_javascript", "language"),
    "typescript": ("tree_sitter_typescript", "language_typescript"),
    "tsx": ("tree_sitter_typescript", "language_tsx"),
    "go": ("tree_sitter_go", "language"),
    "java": ("tree_sitter_java", "language"),
    "c": ("tree_sitter_c", "language"),
    "cpp": ("tree_sitter_cpp", "language"),
    "rust": ("tree_sitter_rust", "language"),
    "csharp": ("tree_sitter_c_sharp", "language"),
    "php": ("tree_sitter_php", "language_php"),
    "sql": ("tree_sitter_sql", "language"),
}
MOST_NODES = 200_000
"""Looked at in search of the first error."""


class Parsed(NamedTuple):
    """`line`: the first that does not parse; 0 when all does."""

    tree: Node
    line: int


@functools.cache
def parser(language: str) -> Parser:
    module, function = GRAMMARS[language]
    return Parser(Language(getattr(importlib.import_module(module), function)()))


def parse(language: str, file: str, source: bytes) -> Parsed:
    """Parse `source`; `language` is one of `GRAMMARS`."""
    root = parser("tsx" if file.lower().endswith(".tsx") else language).parse(source).root_node
    return Parsed(root, _first_error(root) if root.has_error else 0)


def _first_error(root: Node) -> int:
    """The line of the first node that is an error or missing."""
    waiting, looked = [root], 0
    while waiting and looked < MOST_NODES:
        node, looked = waiting.pop(), looked + 1
        if node.is_error or node.is_missing:
            return node.start_point[0] + 1
        waiting.extend(child for child in reversed(node.children) if child.has_error or child.is_missing)
    return 1
