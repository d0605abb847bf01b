"""docs/threat-model.md names tests that exist, one at least in each row."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "docs" / "threat-model.md"
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
ROW = re.compile(r"^\| [STRIDE]( [STRIDE])* \|")


@cache
def functions_of(path: str) -> frozenset[str]:
    """Names of the test functions in a file."""
    tree = ast.parse((ROOT / path).read_text()) if (ROOT / path).is_file() else ast.Module([], [])
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in tree.body if isinstance(node, kinds))


def test_every_threat_names_a_test_and_every_test_is_there() -> None:
    rows = [line for line in MODEL.read_text().splitlines() if ROW.match(line)]
    assert len(rows) > 40
    assert [row for row in rows if not NAMED.search(row)] == []
    named = set(NAMED.findall(MODEL.read_text()))
    assert sorted(f"{path}::{name}" for path, name in named if name not in functions_of(path)) == []
