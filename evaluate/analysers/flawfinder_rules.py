"""C and C++ by flawfinder, used as a library. It keeps its state in the module, so one thread at a time may use it."""

from __future__ import annotations

import contextlib
import io
import re
import sys

import flawfinder

from raymill.evaluate.analysers.findings import TITLE_LETTERS, Finding, Level, line_at

NAME = "flawfinder"

LEAST_LEVEL = 1
"""Of flawfinder's risk levels, 0 (no risk) to 5."""

CWE = re.compile(r"CWE-\d+")
CWES = {"random": "CWE-338"}
"""By flawfinder's category, where MITRE has a name that fits better than its own."""

flawfinder.quiet, flawfinder.showheading = 1, 0
flawfinder.never_ignore = 1
flawfinder.expand_ruleset(flawfinder.c_ruleset)


def look(file: str, text: str) -> list[Finding]:
    """What flawfinder finds."""
    flawfinder.hitlist.clear()
    given = sys.stdin
    sys.stdin = io.StringIO(text)
    try:
        # It complains on standard output of a comment that does not end; that is the parser's to tell.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            flawfinder.process_c_file("-", None)
    finally:
        sys.stdin = given
    lines = text.split("\n")
    return [_finding(hit, file, lines) for hit in flawfinder.hitlist if hit.level >= LEAST_LEVEL]


def _finding(hit: flawfinder.Hit, file: str, lines: list[str]) -> Finding:
    named = CWE.search(hit.warning)
    severity: Level = "high" if hit.level >= 4 else "medium" if hit.level >= 2 else "low"
    return Finding(
        title=f"{hit.name}: {hit.warning}"[:TITLE_LETTERS],
        cwe=CWES.get(hit.category) or (named[0] if named else None),
        severity=severity,
        file=file,
        line_start=hit.line,
        line_end=hit.line,
        evidence=line_at(lines, hit.line),
        confidence="medium",
        sources=(NAME,),
        rule=str(hit.name),
    )
