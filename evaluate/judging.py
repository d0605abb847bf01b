"""Ask a judge about examples, and make numbers of its verdicts.

    pairwise   both orders are asked; verdicts that differ with the order are a tie, and counted as position bias
    rubric     one mark for each answer
    failures   no verdict after two further tries, or a refusal: recorded with the reason, no win, no loss, no tie

Source of the swap and of ties: Zheng et al., Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena, 2023, arXiv:2306.05685.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raymill.evaluate.endpoint import Asker, Question, Reply
from raymill.evaluate.judge_config import Judgement
from raymill.evaluate.prompts import Conversation
from raymill.evaluate.samples import Record
from raymill.evaluate.verdicts import Form, Read, asked_again, asked_of, form_of, read_verdict
from raymill.policies.agreement import Agreement, agreement
from raymill.policies.statistics import ALPHA, mcnemar, score_interval, verdict_of

TRIES = 3
"""Of one verdict: the first, and two that are told what was wrong."""

LABELS = ("a", "tie", "b")
SCORES = {"a": 1.0, "tie": 0.5, "b": 0.0}


@dataclass(frozen=True, kw_only=True)
class Example:
    """What is judged: answers to the same question."""

    index: int
    doc_hash: str
    question: str
    reference: str
    answers: tuple[str, ...]
    """Of A, and of B where there is one."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What came of one request to the judge."""

    value: Mapping[str, Any] | None
    problem: str
    tries: int

    @property
    def reason(self) -> str:
        return str(self.value["reason"]) if self.value is not None else ""


class Judge:
    """A judge with what it was asked to do."""

    def __init__(self, asker: Asker, config: Judgement) -> None:
        self.config = config
        self.form: Form = form_of(config)
        self.keys: list[str] = []
        """Of all questions so far."""

        self._asker = asker

    def verdicts(self, asked: Mapping[str, Conversation]) -> dict[str, Verdict]:
        """Key -> verdict. What cannot be read is asked again with what is wrong, twice at most."""
        found: dict[str, Verdict] = {}
        turns = dict(asked)
        for number in range(1, TRIES + 1):
            questions = [
                Question(key=f"{key}/{number}", messages=each, max_tokens=self.config.max_new_tokens)
                for key, each in turns.items()
            ]
            self.keys += [each.key for each in questions]
            replies = self._asker.ask("verdicts" if number == 1 else f"verdicts, try {number}", questions)
            for key, reply in zip(list(turns), replies, strict=True):
                read = self._read(reply)
                found[key] = Verdict(value=read.value, problem=read.problem, tries=number)
                if read.value is not None or reply["error"]:
                    del turns[key]
                else:
                    turns[key] = asked_again(turns[key], reply["text"], read.problem, self.form)
            if not turns:
                break
        return found

    def _read(self, reply: Reply) -> Read:
        return Read(None, reply["error"]) if reply["error"] else read_verdict(self.form, reply["text"])

    def conversation(self, example: Example, *order: int) -> Conversation:
        """About the answers of an example, by their places."""
        shown = [example.answers[place] for place in order]
        return asked_of(self.config, self.form, example.question, example.reference, shown)


def judge_pairs(judge: Judge, examples: Sequence[Example]) -> list[Record]:
    """A sample for each example: `verdict` a, b or tie, null for a failure; `score` of A: 1, 0.5 or 0."""
    asked = {
        f"{name}/{example.index}": judge.conversation(example, *order)
        for example in examples
        for name, order in (("ab", (0, 1)), ("ba", (1, 0)))
    }
    found = judge.verdicts(asked)
    return [
        pair_record(example, found[f"ab/{example.index}"], found[f"ba/{example.index}"])
        for example in examples
    ]


def pair_record(example: Example, ab: Verdict, ba: Verdict) -> Record:
    """
    Args:
        ab, ba: when A stood first, and when B did.
    """
    one = None if ab.value is None else {"first": "a", "second": "b", "tie": "tie"}[ab.value["verdict"]]
    other = None if ba.value is None else {"first": "b", "second": "a", "tie": "tie"}[ba.value["verdict"]]
    usable = one is not None and other is not None
    verdict = None if not usable else one if one == other else "tie"
    return {
        **about(example),
        "answer_a": example.answers[0],
        "answer_b": example.answers[1],
        "verdict": verdict,
        "score": None if verdict is None else SCORES[verdict],
        "verdict_ab": one,
        "verdict_ba": other,
        "consistent": one == other if usable else None,
        "reason_ab": ab.reason,
        "reason_ba": ba.reason,
        "failure": "; ".join(filter(None, (ab.problem, ba.problem))),
        "tries": ab.tries + ba.tries,
    }


def judge_marks(judge: Judge, examples: Sequence[Example], metric: str) -> list[Record]:
    """A sample for each example: `mark` on the scale, and `score` from 0 to 1; null for a failure.

    Args:
        metric: what tells this rubric, scale and judge from others, whose scores are not compared with these.
    """
    found = judge.verdicts({f"mark/{each.index}": judge.conversation(each, 0) for each in examples})
    records: list[Record] = []
    for example in examples:
        verdict = found[f"mark/{example.index}"]
        mark = None if verdict.value is None else int(verdict.value["mark"])
        records.append(
            {
                **about(example),
                "answer": example.answers[0],
                "mark": mark,
                "score": None if mark is None else (mark - 1) / (judge.config.scale - 1),
                "reason": verdict.reason,
                "failure": verdict.problem,
                "tries": verdict.tries,
                "metric": metric,
            }
        )
    return records


def about(example: Example) -> Record:
    return {
        "index": example.index,
        "doc_hash": example.doc_hash,
        "prompt": example.question,
        "reference": example.reference,
    }


def numbers_of(records: Sequence[Record], key: str) -> dict[str, Any]:
    """`examples`, `failures`, and of the others `mean`, `low` and `high`: Wilson's where every score is 0 or 1, else the
    bootstrap's; null where there are none.

    Args:
        key: what the mean is called.
    """
    scores = np.array([each["score"] for each in records if each["score"] is not None], dtype=np.float64)
    interval = score_interval(scores) if len(scores) else None
    return {
        "examples": len(records),
        "failures": len(records) - len(scores),
        key: float(scores.mean()) if len(scores) else None,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
    }


def pair_numbers(records: Sequence[Record]) -> dict[str, Any]:
    """The win rate of A, in which a tie is half a win, and what it is made of; position bias; a verdict on A.

    The verdict is a sign test's: of the examples that are no tie, is one preferred more often than chance has it?
    """
    usable = [each for each in records if each["verdict"] is not None]
    wins, losses, ties = (sum(each["verdict"] == label for each in usable) for label in ("a", "b", "tie"))
    first = sum((each["verdict_ab"], each["verdict_ba"]) == ("a", "b") for each in usable)
    second = sum((each["verdict_ab"], each["verdict_ba"]) == ("b", "a") for each in usable)
    differ = sum(not each["consistent"] for each in usable)
    p_value = mcnemar(wins, losses)
    return {
        **numbers_of(records, "win_rate"),
        "wins": wins,
        "losses": losses,
        "ties": ties,
        "p_value": p_value,
        "verdict": verdict_of(wins - losses, p_value, ALPHA),
        "position_bias": {
            "rate": differ / len(usable) if usable else None,
            "inconsistent": differ,
            "toward_first": first,
            "toward_second": second,
        },
    }


def agreement_of(records: Sequence[Record], config: Judgement) -> Agreement | None:
    """Of the judge with the labels, on the examples that have both; None where there are none."""
    key = "verdict" if config.kind == "pairwise" else "mark"
    both = [(each[key], each["label"]) for each in records if None not in (each[key], each["label"])]
    if not both:
        return None
    ours, theirs = map(list, zip(*both, strict=True))
    categories: Sequence[str | int] = LABELS if config.kind == "pairwise" else range(1, config.scale + 1)
    return agreement(ours, theirs, categories, quadratic=config.kind == "rubric")
