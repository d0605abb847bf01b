"""How much of what is known to be weak the analysers find, and how fast submissions go through all steps. `make bench-code`.

The rows are snippets of public code (python, c, cpp), each with the CWE of one weak line. A row counts as found where a
finding of that very CWE lies within three lines of it. Snippets that do not parse by themselves are counted apart:
their analysers see less of them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import code_pipeline, report
from benchmarks.code_pipeline import Plan
from benchmarks.goals import Goal, Results, at
from benchmarks.peers import ROOT

from raymill.evaluate.analysers.findings import Analysis
from raymill.evaluate.analysers.runner import Analysers

DATA = ROOT.parent / "shared" / "data" / "code" / "insecure_snippets.jsonl"
FILES = {"python": "snippet.py", "c": "snippet.c", "cpp": "snippet.cpp"}
NEAR_LINES = 3
QUICK_ROWS = 30
QUICK = Plan(submissions=32)
GOALS = (
    Goal("submissions.per_s", ">=", 5.0),
    Goal("submissions.lost", "<=", 0),
    Goal("submissions.doubled", "<=", 0),
)
TOLD = ("bandit", "flawfinder", "ruff", "tree-sitter")


class Snippet(NamedTuple):
    """One labelled row."""

    language: str
    cwe: str
    code: str
    lines: frozenset[int]
    """Where the weak line stands; more than one where the same text occurs again."""

    @property
    def file(self) -> str:
        return FILES[self.language]


class Found(NamedTuple):
    """What the analysers made of a row."""

    language: str
    parses: bool
    cwe: bool
    """A finding of the labelled CWE is near."""

    line: bool
    """Any finding is near."""


def read(path: Path, most: int | None = None) -> list[Snippet]:
    """The rows of the file; with `most`, so many from all over it."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    step = max(1, len(rows) // most) if most else 1
    return [snippet(row) for row in rows[::step]]


def snippet(row: dict[str, Any]) -> Snippet:
    wanted = row["line_text"].strip().split("\n")[0].strip()
    numbered = enumerate(row["origin_code"].split("\n"), start=1)
    return Snippet(
        language=row["language"],
        cwe=row["cwe_identifier"],
        code=row["origin_code"],
        lines=frozenset(number for number, line in numbered if wanted in line),
    )


def judge(row: Snippet, seen: Analysis) -> Found:
    near = [
        each
        for each in seen.findings
        if any(each.line_start - NEAR_LINES <= line <= each.line_end + NEAR_LINES for line in row.lines)
    ]
    (file,) = seen.files
    return Found(row.language, bool(file.parses), any(each.cwe == row.cwe for each in near), bool(near))


def recall(found: Iterable[Found]) -> Results:
    """Shares of rows, over all and by language; null where there are none."""
    rows = list(found)
    by_language = {name: _shares([row for row in rows if row.language == name]) for name in FILES}
    return {**_shares(rows), "by_language": by_language}


def _shares(rows: list[Found]) -> Results:
    counts = Counter(cwe=sum(row.cwe for row in rows), line=sum(row.line for row in rows))
    return {
        "rows": len(rows),
        "cwe_recall": round(counts["cwe"] / len(rows), 4) if rows else None,
        "line_recall": round(counts["line"] / len(rows), 4) if rows else None,
    }


def measure(rows: list[Snippet]) -> Results:
    """What the analysers alone find."""
    analysers = Analysers()
    analysers.analyse({row.file: row.code for row in rows[:3]})  # its start is not what is measured
    found, started = [], time.monotonic()
    for row in rows:
        found.append(judge(row, analysers.analyse({row.file: row.code}, {row.file: row.language})))
    seconds = time.monotonic() - started
    analysers.close()
    whole, parts = [row for row in found if row.parses], [row for row in found if not row.parses]
    return {
        "analyser_cwe_recall": recall(whole)["cwe_recall"],
        "analysers": {
            "isolation": analysers.isolation,
            "parse_alone": recall(whole),
            "fragments": recall(parts),
            "all": recall(found),
            "seconds_per_snippet": round(seconds / len(rows), 4),
        },
    }


def goals(results: Results) -> dict[str, Results]:
    """Each goal with its value."""
    judged: dict[str, Results] = {}
    for goal in GOALS:
        value = at(results, goal.name)
        met = None if value is None else goal.met(float(value))
        judged[goal.name] = {"goal": f"{goal.sign} {goal.bound:g}", "value": value, "met": met}
    return judged


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench-code ARGS=…", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a first look, written to .bench/")
    parser.add_argument("--data", type=Path, default=DATA, help="the file of labelled snippets")
    given = parser.parse_args()
    if not given.data.is_file():
        sys.stderr.write(
            f"bench-code: there is no {given.data.name} beside the repository: say --data FILE\n"
        )
        return 1
    rows = read(given.data, QUICK_ROWS if given.quick else None)
    plan = QUICK if given.quick else Plan()
    results: Results = {
        "date": report.now(),
        "machine": report.machine(),
        "versions": report.versions(TOLD),
        "plan": asdict(plan),
        **measure(rows),
    }
    # Not below root's home: Postgres runs as another user, who must get in.
    folder = Path(tempfile.mkdtemp(prefix="raymill-bench-code-"))
    folder.chmod(0o755)
    try:
        texts = [(row.file, row.language, row.code) for row in rows]
        results |= code_pipeline.measure(texts, plan, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    results["goals"] = goals(results)
    for name in ("parse_alone", "fragments", "all"):
        cell = results["analysers"][name]
        print(f"{name:12} {cell['rows']:>4} rows   CWE {cell['cwe_recall']}   line {cell['line_recall']}")
    print(report.verdicts(results["goals"]))
    print(f"written to {report.write(results, 'code.json', whole=not given.quick)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
