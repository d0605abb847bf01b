"""What people read: the dossier, and the quality report with its measured part.

The measured part is made of what analysers, parsers and tests say of both versions. What a model says stands beside it and
changes none of it; the rating is never above what was measured allows.
"""

from __future__ import annotations

import difflib
import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from raymill.evaluate.analysers.findings import (
    EVIDENCE_LETTERS,
    Analysis,
    Difference,
    Finding,
    line_at,
    numbered,
    split_lines,
)
from raymill.registry.tables import JsonObject
from raymill.serve.code.answers import ForensicAnswer, QualityAnswer, SaidFinding

MODEL = "model"
NEAR_LINES = 1

AT_MOST = {"high": 20, "medium": 50, "low": 80}
"""The rating while a finding of that severity remains or is new."""

AT_MOST_UNCHECKED = 40
"""While something could not be looked at again, does not parse, or a test fails."""

AT_MOST_PATTERNS = 90
"""Where no analyser but patterns has looked."""


def said_findings(answer: ForensicAnswer, texts: dict[str, str]) -> list[Finding]:
    """The model's findings that name a file and lines that are there, with our own evidence from the lines."""
    kept = []
    for each in answer.findings:
        if each.file not in texts:
            continue
        lines = split_lines(texts[each.file])  # as the model was shown them
        if 1 <= each.line_start <= len(lines):
            kept.append(_finding(each, lines))
    return kept


def _finding(said: SaidFinding, lines: list[str]) -> Finding:
    return Finding(
        title=said.title,
        cwe=said.cwe,
        severity=said.severity,
        file=said.file,
        line_start=said.line_start,
        line_end=min(max(said.line_start, said.line_end), len(lines)),
        evidence=line_at(lines, said.line_start)[:EVIDENCE_LETTERS],
        confidence=said.confidence,
        sources=(MODEL,),
        rule=MODEL,
    )


def joined(facts: Sequence[Finding], said: Sequence[Finding]) -> list[Finding]:
    """Facts as they are, with the model as one more source where it names the same weakness at the same place; then
    what the model alone has seen."""
    found = list(facts)
    for claim in said:
        for index, fact in enumerate(found):
            if (
                (fact.file, fact.cwe) == (claim.file, claim.cwe)
                and claim.line_start <= fact.line_end + NEAR_LINES
                and fact.line_start - NEAR_LINES <= claim.line_end
            ):
                found[index] = replace(fact, sources=tuple(dict.fromkeys([*fact.sources, MODEL])))
                break
        else:
            found.append(claim)
    return numbered(found)


def dossier(summary: str, findings: Sequence[Finding], analysis: Analysis) -> str:
    """Markdown. Evidence and words of the model are quoted, so that neither becomes a heading or a link."""
    lines = [
        "# Forensic analysis",
        "",
        "## Summary (by the model)",
        "",
        *_quoted(summary),
        "",
        "## Findings",
        "",
    ]
    if not findings:
        lines += ["None.", ""]
    for each in findings:
        place = f"{each.file}:{each.line_start}" + (
            f"-{each.line_end}" if each.line_end > each.line_start else ""
        )
        lines += [
            f"### {each.id}: {each.cwe or 'no CWE'}, {each.severity}",
            "",
            *_quoted(each.title),
            "",
            f"`{_plain(place)}`, confidence {each.confidence}, found by {', '.join(each.sources)}",
            "",
            *(f"    {line}" for line in each.evidence.split("\n")),
            "",
        ]
    lines += ["## What was looked at", ""]
    for file in analysis.files:
        parses = {True: "parses", False: "does not parse", None: "was not parsed"}[file.parses]
        lines.append(
            f"- `{_plain(file.file)}` ({file.language or 'unknown language'}): {parses}; "
            f"analysers: {', '.join(file.analysers) or 'none'}"
        )
        lines += [f"  - {_plain(problem)}" for problem in file.problems]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> list[str]:
    return [f"> {line}" for line in text.replace("\r", "").split("\n")]


def _plain(text: str) -> str:
    return text.replace("`", "'").replace("\n", " ")


def unified(before: Sequence[JsonObject], after: Sequence[JsonObject]) -> str:
    """The difference of all files, as `patch` takes it."""
    old = {file["name"]: file["text"] for file in before}
    pieces: list[str] = []
    for file in after:
        lines = difflib.unified_diff(
            lines_of(old.get(file["name"], "")),
            lines_of(file["text"]),
            f"a/{file['name']}",
            f"b/{file['name']}",
        )
        pieces += [
            line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines
        ]
    return "".join(pieces)


def lines_of(text: str) -> list[str]:
    """With their ends, as `patch` counts them: `splitlines` also ends one at a form feed and the like."""
    return io.StringIO(text).readlines()


def measured(
    before: Analysis, after: Analysis, difference: Difference, tests: JsonObject | None
) -> JsonObject:
    """The measured part: numbers and lists that no model and no text in the code has a say in."""
    return {
        "resolved": len(difference.resolved),
        "remaining": len(difference.remaining),
        "new": len(difference.new),
        "unchecked": len(difference.unchecked),
        "findings_before": len(before.findings),
        "findings_after": len(after.findings),
        "removed_share": round(len(difference.resolved) / len(before.findings), 4)
        if before.findings
        else None,
        "parses_before": _parses(before),
        "parses_after": _parses(after),
        "analysers": sorted({name for file in after.files for name in file.analysers}),
        "problems": [f"{file.file}: {problem}" for file in after.files for problem in file.problems],
        "tests": tests,
    }


def _parses(analysis: Analysis) -> bool | None:
    """None: there was a file that no parser has looked at."""
    states = [file.parses for file in analysis.files]
    return None if None in states else all(states)


def rating_bound(facts: JsonObject, difference: Difference) -> int:
    """The highest rating that what was measured allows."""
    bounds = [100]
    bounds += [AT_MOST[each.severity] for each in (*difference.remaining, *difference.new)]
    if difference.unchecked or facts["parses_after"] is not True:
        bounds.append(AT_MOST_UNCHECKED)
    tests = facts["tests"]
    if tests is not None and not (tests["after"] or {}).get("passed"):
        bounds.append(AT_MOST_UNCHECKED)
    if set(facts["analysers"]) <= {"patterns"}:
        bounds.append(AT_MOST_PATTERNS)
    return min(bounds)


def outcomes(findings: Sequence[Finding], difference: Difference, answer: QualityAnswer) -> dict[str, str]:
    """What became of each finding: measured where an analyser had seen it, else what the model says, marked so."""
    verdicts = {each.id: each.verdict for each in answer.findings}
    places = {
        name: [_weakness(each) for each in getattr(difference, name)] for name in ("resolved", "unchecked")
    }
    found: dict[str, str] = {}
    for each in findings:
        if set(each.sources) == {MODEL}:
            found[each.id] = f"said_{verdicts[each.id]}" if each.id in verdicts else "not_judged"
        else:
            found[each.id] = next((name for name in places if _weakness(each) in places[name]), "remaining")
    return found


def _weakness(finding: Finding) -> tuple[Any, ...]:
    return finding.file, finding.cwe or finding.rule, finding.line_start, finding.evidence


def quality(
    answer: QualityAnswer, facts: JsonObject, difference: Difference, findings: Sequence[Finding]
) -> JsonObject:
    """The whole report as JSON."""
    bound = rating_bound(facts, difference)
    ids = {each.id for each in findings}
    return {
        "measured": facts,
        "rating": min(answer.confidence, bound),
        "rating_at_most": bound,
        "model": {
            "confidence": answer.confidence,
            "reason": answer.reason,
            "changes": [change.model_dump() for change in answer.changes],
            "findings": [verdict.model_dump() for verdict in answer.findings if verdict.id in ids],
        },
    }
