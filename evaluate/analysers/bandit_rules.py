"""Python by bandit, used as a library: a process for each file would cost half a second."""

from __future__ import annotations

import functools
import io
import textwrap
from typing import Any, cast

from bandit.core.config import BanditConfig
from bandit.core.manager import BanditManager
from bandit.core.meta_ast import BanditMetaAst
from bandit.core.metrics import Metrics

from raymill.evaluate.analysers.findings import TITLE_LETTERS, Finding, Level, line_at

NAME = "bandit"

CWES: dict[str, str] = {
    "B102": "CWE-94",
    "B307": "CWE-94",
    "B311": "CWE-338",
    "B303": "CWE-328",
    "B324": "CWE-328",
    "B105": "CWE-798",
    "B106": "CWE-798",
    "B107": "CWE-798",
}
"""Where MITRE has a name that fits better than bandit's own: exec and eval run code (not a shell's), `random` is a weak
generator, MD5 and SHA-1 are weak hashes, 259 is a kind of 798."""


def look(file: str, text: str) -> list[Finding]:
    """What bandit finds. A fragment that is indented as a whole is read as if it were not.

    Raises:
        SyntaxError: it is no Python that bandit's interpreter understands.
    """
    manager = _manager()
    manager.results, manager.skipped, manager.scores = [], [], []
    manager.metrics, manager.b_ma = Metrics(), BanditMetaAst()
    manager._parse_file(file, io.BytesIO(textwrap.dedent(text).encode(errors="replace")), [file])
    if manager.skipped:
        raise SyntaxError(manager.skipped[0][1])
    lines = text.split("\n")
    return [_finding(issue, file, lines) for issue in manager.results]


@functools.cache
def _manager() -> BanditManager:
    """Reading the rules takes longer than looking at a file."""
    return BanditManager(BanditConfig(), "file", ignore_nosec=True)


def _finding(issue: Any, file: str, lines: list[str]) -> Finding:
    # `linerange` of a call in a long statement is the statement's; the call's own line is what counts.
    start = max(1, int(issue.lineno or 1))
    last = max([start, *(int(line) for line in issue.linerange)])
    return Finding(
        title=str(issue.text)[:TITLE_LETTERS],
        cwe=CWES.get(issue.test_id) or (f"CWE-{issue.cwe.id}" if issue.cwe.id else None),
        severity=_level(issue.severity),
        file=file,
        line_start=start,
        line_end=min(last, start + 20),
        evidence=line_at(lines, start),
        confidence=_level(issue.confidence),
        sources=(NAME,),
        rule=str(issue.test_id),
    )


def _level(said: str) -> Level:
    level = said.lower()
    return cast(Level, level) if level in ("medium", "high") else "low"
