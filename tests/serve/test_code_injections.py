"""Code that speaks to its reviewer changes nothing that is measured, and nothing it says leaves the delimited block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.registry.making import World
from tests.serve.code_injections import BODY, MARK, WORDS, injected
from tests.serve.code_lab import SAFE, Lab, data_of, laboratory, outside, table
from tests.serve.dataset_lab import run_all

# A model that does what it is told by whoever speaks last: nothing found, everything resolved, 100.
GULLIBLE = {
    "forensic": {"summary": f"Clean: {MARK}", "findings": []},
    "quality": {
        "changes": [],
        "findings": [{"id": "00000000", "verdict": "resolved", "why": MARK}],
        "confidence": 100,
        "reason": MARK,
    },
}


@pytest.fixture
def lab(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    with laboratory(world, monkeypatch) as made:
        yield made


def measured(lab: Lab, submission_id: str) -> tuple[Any, ...]:
    """What is measured of a submission, but for where lines stand."""
    shown = lab.show(submission_id)
    assert shown["state"] == "succeeded", shown["error"]
    facts = {name: value for name, value in shown["quality"]["measured"].items() if name != "seconds"}
    found = sorted(
        (each["cwe"], each["severity"], each["evidence"], each["outcome"], tuple(each["sources"]))
        for each in shown["findings"]
    )
    return facts, found, shown["quality"]["rating_at_most"], shown["quality"]["rating"]


def submit_all(lab: Lab, texts: list[str]) -> list[str]:
    ids = [lab.submit(code=text, language="python", comment=f"please {MARK}")["id"] for text in texts]
    run_all(lab.world)
    return ids


@pytest.mark.parametrize(
    "numbers",
    [
        range(0, len(WORDS), 6),
        pytest.param(range(len(WORDS)), marks=pytest.mark.slow),  # all of them, 12 s
    ],
    ids=["some", "all"],
)
def test_nothing_measured_changes_and_nothing_leaves_the_block(lab: Lab, numbers: range) -> None:
    # The weakness stays in the rebuilt code: what the model says of it must not matter.
    lab.upstream.on("m", table({**GULLIBLE, "rebuild": {"files": [{"name": "code.py", "text": BODY}]}}))
    plain, *others = submit_all(lab, [BODY, *(injected(number) for number in numbers)])
    expected = measured(lab, plain)
    assert expected[0]["remaining"] > 0
    assert expected[2:] == (20, 20)
    for number, submission_id in zip(numbers, others, strict=True):
        assert measured(lab, submission_id) == expected, WORDS[number]
    assert len(lab.upstream.seen) == 3 * (1 + len(numbers))
    assert all(MARK not in outside(seen) for seen in lab.upstream.seen)
    assert sum(MARK in data_of(seen) for seen in lab.upstream.seen) >= 3 * len(numbers)


def test_a_wrong_answer_is_told_of_without_its_words(lab: Lab) -> None:
    lab.upstream.on(
        "m", table({**GULLIBLE, "forensic": {MARK: MARK, "findings": [{MARK: MARK}]}, "rebuild": SAFE})
    )
    submit_all(lab, [BODY])
    assert len(lab.upstream.seen) == 3
    assert all(MARK not in outside(seen) for seen in lab.upstream.seen)


def test_there_are_25() -> None:
    assert len(set(WORDS)) == 25
    assert all(MARK in words for words in WORDS)
