"""Rows in the public layouts of the benchmarks, made of words, and the same rows as lm-eval's own data sets have them."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]

WORDS = [
    "the",
    "parcel",
    "invoice",
    "screen",
    "is",
    "late",
    "broken",
    "wrong",
    "please",
    "help",
    "refund",
    "my",
    "order",
    "now",
]
SUBJECTS = ("abstract_algebra", "anatomy", "world_religions")


def words(seed: int, shortest: int = 3) -> str:
    return " ".join(
        WORDS[(seed * 7 + step * step * (seed % 5 + 1)) % len(WORDS)] for step in range(shortest + seed % 6)
    )


def mmlu(count: int, shift: int = 0) -> list[Row]:
    return [
        {
            "subject": SUBJECTS[n % len(SUBJECTS)],
            "question": f"{words(n + shift)} ({n + shift})?",
            "choices": [words(n + shift + choice, 1) for choice in range(4)],
            "answer": n % 4,
        }
        for n in range(count)
    ]


def hellaswag(count: int, shift: int = 0) -> list[Row]:
    return [
        {
            "ind": n,
            "activity_label": "Shipping",
            "ctx_a": f"[header] {words(n + shift, 8)} [title] {n}.",
            "ctx_b": words(n, 2),
            "endings": [words(n + shift + ending, 4) + "  [step] now." for ending in range(4)],
            "label": str(n % 4),
        }
        for n in range(count)
    ]


def arc_challenge(count: int, shift: int = 0) -> list[Row]:
    return [
        {
            "id": f"row-{n}",
            "question": f"{words(n + shift)} {n}?",
            "choices": {
                "text": [words(n + shift + choice, 1) for choice in range(3 + n % 2)],
                "label": list("ABCD"[: 3 + n % 2]),
            },
            "answerKey": "ABC"[n % 3],
        }
        for n in range(count)
    ]


def truthfulqa(count: int) -> list[Row]:
    """As TruthfulQA's own table has them."""
    return [
        {
            "Type": "Adversarial",
            "Category": "Parcels",
            "Question": f"{words(n)} {n}?",
            "Best Answer": words(n, 4),
            "Correct Answers": f"{words(n, 4)}; {words(n + 1, 5)}",
            "Incorrect Answers": "; ".join(words(n + 2 + answer, 2) for answer in range(2 + n % 3)),
        }
        for n in range(count)
    ]


def truthfulqa_of_lm_eval(rows: list[Row]) -> list[Row]:
    """The same, as the data set has them that lm-eval would download."""
    found = []
    for row in rows:
        true, false = (
            [part.strip() for part in row[name].split(";") if part.strip()]
            for name in ("Correct Answers", "Incorrect Answers")
        )
        found.append(
            {
                "question": row["Question"],
                "mc1_targets": {"choices": [row["Best Answer"], *false], "labels": [1] + [0] * len(false)},
                "mc2_targets": {"choices": true + false, "labels": [1] * len(true) + [0] * len(false)},
            }
        )
    return found


def gsm8k(count: int, shift: int = 0) -> list[Row]:
    return [
        {
            "question": f"{words(n + shift)} {n}?",
            "answer": f"{words(n + shift, 2)} <<{n}+1={n + 1}>>{n + 1}\n#### {n + 1}",
        }
        for n in range(count)
    ]


def humaneval(number: int, **changed: Any) -> Row:
    """A problem: to add `number`."""
    return {
        "task_id": f"Small/{number}",
        "prompt": f'import math\n\ndef add(x):\n    """Add {number}."""\n',
        "canonical_solution": f"    return x + {number}\n",
        "test": f"def check(candidate):\n    assert candidate(1) == {number + 1}\n",
        "entry_point": "add",
        **changed,
    }
