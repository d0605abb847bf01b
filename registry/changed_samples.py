"""The examples that two evaluations of a task did not answer alike, by page.

A page begins where the one before ended: at an example's place in A's samples. Files of samples never change, so a place
stays the example's; a cursor of other files is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from raymill.policies.errors import Invalid
from raymill.registry import samples
from raymill.registry.artifact_access import Artifacts
from raymill.registry.samples import SampleFile, Samples

Side = Literal["a", "b", "either", "neither"]

CHANGED: dict[Side, Callable[[float, bool], bool]] = {
    "a": lambda gain, _: gain > 0,
    "b": lambda gain, _: gain < 0,
    "either": lambda gain, _: gain != 0,
    "neither": lambda gain, differs: gain == 0 and differs,
}
"""Who did better -> whether an example counts, by A's gain over B and whether their answers differ."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one of the two made of an example."""

    prompt: str
    score: float
    text: str | None
    """None where the task keeps no answers."""

    answers: int
    """That were scored; `text` is the first."""

    reason: str | None
    """Why it scored so, where the task tells."""


@dataclass(frozen=True, kw_only=True)
class ChangedSample:
    """An example that A and B did not answer alike."""

    place: int
    """In A's samples, from 0."""

    index: int | None
    """In the data."""

    reference: str
    gain: float
    """Above 0 where A does better."""

    a: Answer
    b: Answer


@dataclass(frozen=True, kw_only=True)
class ChangedPage:
    data: list[ChangedSample]
    next_cursor: str | None


def changed_page(
    store: Artifacts, files: tuple[SampleFile, SampleFile], better: Side, limit: int, cursor: str | None
) -> ChangedPage:
    """The next `limit` examples on which `better` did better, in the order of the data.

    Raises:
        Invalid: `cursor` is none of ours, or of other files of samples. And as `samples.read` and `samples.in_both`.
    """
    stamp = "-".join(file.file.sha256[:12] for file in files)
    first = _place(cursor, stamp)
    a, b = (samples.read(store, file, samples.SHOWN) for file in files)
    found = list(islice(_changed(a, b, better, first), limit + 1))
    page, more = found[:limit], len(found) > limit
    return ChangedPage(data=page, next_cursor=f"{page[-1].place + 1}.{stamp}" if more else None)


def _place(cursor: str | None, stamp: str) -> int:
    if cursor is None:
        return 0
    place, _, of = cursor.partition(".")
    if not (place.isdecimal() and of):
        raise Invalid(f"cursor {cursor[:40]!r} is none of ours: use next_cursor as it came", param="cursor")
    if of != stamp:
        raise Invalid(
            "what is compared was measured anew since that page: begin at the first", param="cursor"
        )
    return int(place)


def _changed(a: Samples, b: Samples, better: Side, first: int) -> Iterator[ChangedSample]:
    """Those from place `first` of A on."""
    counts = CHANGED[better]
    for place, other in samples.in_both(a, b):
        difference = float(a.scores[place] - b.scores[other])
        gain = difference if a.higher_is_better else -difference
        row, of_b = a.rows[place], b.rows[other]
        if place >= first and counts(gain, row.get("answer") != of_b.get("answer")):
            yield ChangedSample(
                place=place,
                index=row.get("index"),
                reference=str(row["reference"]),
                gain=gain,
                a=_answer(row),
                b=_answer(of_b),
            )


def _answer(row: dict[str, Any]) -> Answer:
    return Answer(
        prompt=str(row["prompt"]),
        score=row["score"],
        text=row.get("answer"),
        answers=row["answers"],
        reason=row.get("reason") or row.get("error") or None,
    )
