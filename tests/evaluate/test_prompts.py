"""Held-out rows of every shape: what is asked, and what should be said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.lines import write_lines

from raymill.evaluate.prompts import read_rows
from raymill.policies.errors import Invalid

USER = {"role": "user", "content": "hi"}
YES = {"role": "assistant", "content": "yes"}
NO = {"role": "assistant", "content": "no"}
CLOCK = {"type": "function", "function": {"name": "clock"}}
CALL = {"type": "function", "function": {"name": "clock", "arguments": {"zone": "é"}}}


def write(path: Path, *rows: dict[str, Any]) -> Path:
    return write_lines(path, rows)


def test_the_chosen_and_the_good_answer_are_what_should_be_said(tmp_path: Path) -> None:
    pairs = read_rows(write(tmp_path / "a", {"prompt": [USER], "chosen": [YES], "rejected": [NO]}))
    assert [(row.messages, row.reference) for row in pairs] == [([USER], "yes")]
    judged = [{"prompt": [USER], "completion": [answer], "label": answer is YES} for answer in (NO, YES)]
    assert [(row.index, row.reference) for row in read_rows(write(tmp_path / "b", *judged))] == [(0, "yes")]


def test_tools_are_asked_with_and_a_call_is_text(tmp_path: Path) -> None:
    row = {"messages": [USER, {"role": "assistant", "content": "", "tool_calls": [CALL]}], "tools": [CLOCK]}
    (found,) = read_rows(write(tmp_path / "rows", row))
    assert found.tools == (CLOCK,)
    assert found.reference == '<tool_call>\n{"name": "clock", "arguments": {"zone": "é"}}\n</tool_call>'


def test_plain_text_asks_nothing(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="rows:1 is plain text, which asks nothing"):
        read_rows(write(tmp_path / "rows", {"text": "hi"}))
