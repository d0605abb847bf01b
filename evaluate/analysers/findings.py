"""What is found in code, in one form for all analysers and models; merged by line and CWE, compared between two versions.

Lines count from 1. Severity and confidence are low, medium or high.
"""

from __future__ import annotations

import hashlib
import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

Level = Literal["low", "medium", "high"]
LEVELS: tuple[Level, ...] = ("low", "medium", "high")

EVIDENCE_LETTERS = 300
TITLE_LETTERS = 200


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One weakness at one place."""

    title: str
    cwe: str | None
    """Such as `CWE-89`; None: the rule has none."""

    severity: Level
    file: str
    line_start: int
    line_end: int
    evidence: str
    """The line itself, as it stands in the code."""

    confidence: Level
    sources: tuple[str, ...]
    """Who found it: names of analysers, or `model`."""

    rule: str = ""
    """The analyser's own name of what it looks for; the same weakness elsewhere has the same."""

    id: str = ""
    """Stable for the same rule on the same text; given by `numbered`."""

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "sources": list(self.sources)}

    @staticmethod
    def from_json(data: dict[str, Any]) -> Finding:
        return Finding(**{**data, "sources": tuple(data["sources"])})


@dataclass(frozen=True, kw_only=True)
class FileReport:
    """What is known of one file."""

    file: str
    language: str | None
    parses: bool | None
    """None: there is no parser for it."""

    analysers: tuple[str, ...]
    """That have looked at it to the end."""

    problems: tuple[str, ...] = ()
    """Why a part of the work could not be done, such as the first place that does not parse."""


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """All that the analysers say of one version of the code."""

    findings: tuple[Finding, ...]
    files: tuple[FileReport, ...]
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "findings": [finding.to_json() for finding in self.findings],
            "files": [
                {**asdict(file), "analysers": list(file.analysers), "problems": list(file.problems)}
                for file in self.files
            ],
            "seconds": round(self.seconds, 4),
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> Analysis:
        files = [
            FileReport(**{**each, "analysers": tuple(each["analysers"]), "problems": tuple(each["problems"])})
            for each in data["files"]
        ]
        return Analysis(
            findings=tuple(map(Finding.from_json, data["findings"])),
            files=tuple(files),
            seconds=data["seconds"],
        )


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What became of the findings of one version in the next."""

    resolved: tuple[Finding, ...] = ()
    remaining: tuple[Finding, ...] = ()
    """As they stand in the newer version."""

    new: tuple[Finding, ...] = ()
    unchecked: tuple[Finding, ...] = field(default=())
    """Of files that the analysers could not look at again: nothing is known of these."""

    def to_json(self) -> dict[str, Any]:
        return {
            name: [finding.to_json() for finding in getattr(self, name)]
            for name in ("resolved", "remaining", "new", "unchecked")
        }


def merge(findings: Iterable[Finding]) -> list[Finding]:
    """Findings of the same file and CWE whose lines overlap become one, with the sources of all.

    The first one gives title and rule; severity and confidence are the highest. Those without a CWE stay as they
    are, unless one rule says the same twice. Ordered by file and line.
    """
    kept: list[Finding] = []
    places: dict[tuple[str, str], list[int]] = defaultdict(list)
    for finding in sorted(findings, key=lambda each: (each.file, each.line_start, each.line_end)):
        key = (finding.file, finding.cwe or finding.rule)
        for index in places[key]:
            known = kept[index]
            if finding.line_start <= known.line_end and known.line_start <= finding.line_end:
                kept[index] = _joined(known, finding)
                break
        else:
            places[key].append(len(kept))
            kept.append(finding)
    return numbered(kept)


def _joined(one: Finding, other: Finding) -> Finding:
    return replace(
        one,
        line_end=max(one.line_end, other.line_end),
        severity=max(one.severity, other.severity, key=LEVELS.index),
        confidence=max(one.confidence, other.confidence, key=LEVELS.index),
        sources=tuple(dict.fromkeys([*one.sources, *other.sources])),
    )


def numbered(findings: Sequence[Finding]) -> list[Finding]:
    """With ids: 8 hex digits of what was found in which text, and a number where that occurs again."""
    seen: dict[str, int] = defaultdict(int)
    named = []
    for finding in findings:
        said = "\0".join([finding.file, finding.cwe or finding.rule, squeezed(finding.evidence)])
        digest = hashlib.sha256(said.encode(errors="replace")).hexdigest()[:8]
        seen[digest] += 1
        named.append(replace(finding, id=digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"))
    return named


def squeezed(text: str) -> str:
    """Without the white space that a reformatted line differs in."""
    return "".join(text.split())


def compare(before: Analysis, after: Analysis) -> Difference:
    """What was resolved, what is still there and what is new.

    Lines move when code is repaired, so findings of a file are paired by weakness: first those on the same text,
    then those that are left, in their order, unless an analyser that saw both tells them apart by its rules. A finding
    counts as resolved only where every analyser that saw it has looked at the newer file as well.
    """
    looked = {report.file: set(report.analysers) for report in after.files}
    left: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for finding in after.findings:
        left[_weakness(finding)].append(finding)
    unpaired: list[Finding] = []
    remaining: list[Finding] = []
    for finding in before.findings:
        same = [
            each for each in left[_weakness(finding)] if squeezed(each.evidence) == squeezed(finding.evidence)
        ]
        if same:
            left[_weakness(finding)].remove(same[0])
            remaining.append(same[0])
        else:
            unpaired.append(finding)
    resolved: list[Finding] = []
    unchecked: list[Finding] = []
    for finding in unpaired:
        alike = [each for each in left[_weakness(finding)] if _alike(finding, each)]
        if alike:
            left[_weakness(finding)].remove(alike[0])
            remaining.append(alike[0])
        elif set(finding.sources) <= looked.get(finding.file, set()):
            resolved.append(finding)
        else:
            unchecked.append(finding)
    new = [finding for findings in left.values() for finding in findings]
    return Difference(
        resolved=tuple(resolved), remaining=tuple(remaining), new=tuple(new), unchecked=tuple(unchecked)
    )


def _weakness(finding: Finding) -> tuple[str, str]:
    return finding.file, finding.cwe or finding.rule


def _alike(one: Finding, other: Finding) -> bool:
    return one.rule == other.rule or not set(one.sources) & set(other.sources)


def split_lines(text: str) -> list[str]:
    """As analysers and parsers count them: a line ends at `\\n`, `\\r\\n` or `\\r`; `str.splitlines` also ends one at a form
    feed and the like."""
    return io.StringIO(text, newline=None).getvalue().split("\n")


def line_at(lines: Sequence[str], number: int) -> str:
    """The text of a line that an analyser has named, cut to what is kept of it."""
    return lines[number - 1].strip()[:EVIDENCE_LETTERS] if 1 <= number <= len(lines) else ""
