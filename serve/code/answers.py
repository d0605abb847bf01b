"""What a model must answer, step by step, and how its text is read.

A problem is told in our own words: what the model wrote must not come back to it outside the delimited block.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from raymill.evaluate.analysers.findings import EVIDENCE_LETTERS, TITLE_LETTERS, Level

MOST_LETTERS = 2_000_000
MOST_FINDINGS = 500

Text = Annotated[str, StringConstraints(max_length=4000)]
FENCED = re.compile(r"```[\w+#-]*\n(.*?)\n?```", re.DOTALL)


class Unusable(ValueError):
    """An answer that nothing can be made of; the message is ours and holds nothing of the answer."""


class Answer(BaseModel):
    model_config = ConfigDict(extra="ignore")


class SaidFinding(Answer):
    file: str = Field(max_length=200)
    title: str = Field(min_length=1, max_length=TITLE_LETTERS)
    cwe: str | None = Field(default=None, pattern=r"^CWE-\d{1,5}$")
    severity: Level
    line_start: int = Field(ge=1)
    line_end: int = Field(ge=1)
    evidence: str = Field(default="", max_length=4 * EVIDENCE_LETTERS)
    confidence: Level = "medium"


class ForensicAnswer(Answer):
    summary: Text
    findings: list[SaidFinding] = Field(max_length=MOST_FINDINGS)


class RebuiltFile(Answer):
    name: str
    text: str


class RebuildAnswer(Answer):
    files: list[RebuiltFile] = Field(min_length=1)


class Change(Answer):
    what: Text
    why: Text


class Verdict(Answer):
    id: str = Field(max_length=24)
    verdict: Literal["resolved", "not_resolved"]
    why: Text = ""


class QualityAnswer(Answer):
    changes: list[Change] = Field(max_length=200)
    findings: list[Verdict] = Field(max_length=2 * MOST_FINDINGS)
    confidence: int = Field(ge=0, le=100)
    reason: Text = ""


Read = TypeVar("Read", bound=Answer)


def read(schema: type[Read], text: str) -> Read:
    """The answer in `text`: JSON by itself, in a fence, or after some words.

    Raises:
        Unusable: there is none, or it is not by the schema.
    """
    if not text.strip():
        raise Unusable("it is empty")
    if len(text) > MOST_LETTERS:
        raise Unusable(f"it has more than {MOST_LETTERS} letters")
    data = _json_in(text)
    if not all(map(_storable, _texts(data))):
        raise Unusable("it holds a NUL or half a character")
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        # Names of fields are the schema's, numbers are places in lists.
        known = ".".join(
            str(part) for part in first["loc"] if isinstance(part, int) or str(part).isidentifier()
        )
        raise Unusable(f"it is not by the schema at {known[:80] or 'its root'} ({first['type']})") from None


def _texts(data: object) -> Iterator[str]:
    """Every text in some JSON, names included."""
    waiting = [data]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict):
            waiting += [*one, *one.values()]
        elif isinstance(one, list):
            waiting += one


def _storable(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)


def _json_in(text: str) -> object:
    candidates = [text.strip(), *(found.strip() for found in FENCED.findall(text)[:3])]
    start = text.find("{")
    if start >= 0:
        candidates.append(text[start:].strip())
    for candidate in candidates:
        if candidate.startswith("{"):
            try:
                data, _ = json.JSONDecoder().raw_decode(candidate)
            except (ValueError, RecursionError):
                continue
            return data
    raise Unusable("it holds no JSON object, or one that breaks off")
