"""Public benchmarks from local files: MMLU, HellaSwag, ARC-Challenge, TruthfulQA (MC1, MC2) and GSM8K.

Reads each one's public layout, refuses a row that is not in it, and lays the rows out in the columns that lm-eval's
own task reads. The prompts, choices and metrics are that task's (`benchmark_tasks.py`); nothing of them is repeated
here. Imports neither lm-eval nor torch, so that a file is checked before any model is loaded.

Sources: Hendrycks et al. 2021, arXiv:2009.03300 (MMLU); Zellers et al. 2019, arXiv:1905.07830 (HellaSwag);
Clark et al. 2018, arXiv:1803.05457 (ARC); Lin et al. 2022, arXiv:2109.07958 (TruthfulQA); Cobbe et al. 2021,
arXiv:2110.14168 (GSM8K).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from raymill.evaluate.benchmark_config import BenchmarkTask
from raymill.evaluate.row_files import check_file, rows_of
from raymill.policies.errors import Invalid

Columns = dict[str, Any]
"""One row as lm-eval's task reads it."""

HELLASWAG_SPLIT = ("activity_label", "ctx_a", "ctx_b")
"""What HellaSwag's prompt is made of. A file that has `ctx` alone is asked with that."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkRows:
    """The rows of one task of lm-eval."""

    rows: list[Columns]
    index: list[int]
    """Place of each row in its file, from 0."""

    examples: list[Columns]
    """Solved ones, in the order of their file."""


def read_benchmark(task: BenchmarkTask) -> dict[str, BenchmarkRows]:
    """The rows of a benchmark by the name of lm-eval's task: one, or one for each subject of MMLU.

    Raises:
        NotFound: a file is not there.
        Invalid: a file is another than the task says, holds no row, or a row is not in the layout; a subject has
            fewer solved examples than are asked for.
    """
    asked = _read(task.benchmark, Path(task.file), task.sha256)
    solved = (
        []
        if task.fewshot_file is None
        else _read(task.benchmark, Path(task.fewshot_file), task.fewshot_sha256)
    )
    kept = sorted(_in_turn(asked)[: task.limit])
    rows: dict[str, list[int]] = defaultdict(list)
    for number in kept:
        rows[_leaf(task.benchmark, asked[number])].append(number)
    examples: dict[str, list[Columns]] = defaultdict(list)
    for row in solved:
        examples[_leaf(task.benchmark, row)].append(row)
    for leaf in rows:
        if len(examples[leaf]) < task.shots:
            raise Invalid(
                f"{task.fewshot_file} has {len(examples[leaf])} examples for {leaf}, but {task.shots} are asked for: "
                "add some, or lower num_fewshot"
            )
    return {
        leaf: BenchmarkRows(
            rows=[asked[number] for number in numbers], index=numbers, examples=examples[leaf]
        )
        for leaf, numbers in rows.items()
    }


def _leaf(benchmark: str, row: Columns) -> str:
    return f"mmlu_{row['subject']}" if benchmark == "mmlu" else benchmark


def _in_turn(rows: list[Columns]) -> list[int]:
    """Places of the rows: the first of each subject, then the second of each... Without subjects, as they stand."""
    seen: dict[Any, int] = defaultdict(int)
    turns: list[tuple[int, int]] = []
    for number, row in enumerate(rows):
        subject = row.get("subject")
        turns.append((seen[subject], number))
        seen[subject] += 1
    return [number for _, number in sorted(turns)]


def _read(benchmark: str, path: Path, sha256: str | None) -> list[Columns]:
    check_file(path, sha256, f"one in the layout of {benchmark}")
    rows: list[Columns] = []
    for number, row in enumerate(rows_of(path), start=1):
        try:
            if not isinstance(row, dict):
                raise ValueError(f"is no object, but {type(row).__name__}")
            rows.append(LAYOUTS[benchmark](row))
        except ValueError as error:
            raise Invalid(
                f"{path.name}, row {number} {error}: give a file in the layout of {benchmark}"
            ) from error
    if not rows:
        raise Invalid(f"{path.name} holds no row: give a file in the layout of {benchmark}")
    if len({frozenset(row) for row in rows}) > 1:
        raise Invalid(f"{path.name} has rows of two layouts: give it one")
    return rows


def _mmlu(row: Columns) -> Columns:
    subject = _text(row, "subject")
    if subject not in subjects():
        raise ValueError(f"has the subject {subject!r}, which MMLU does not")
    choices = _texts(row, "choices", row)
    if len(choices) != 4:
        raise ValueError(f"has {len(choices)} choices, MMLU has 4")
    answer = row.get("answer")
    if isinstance(answer, str) and answer in "ABCD" and len(answer) == 1:
        answer = "ABCD".index(answer)
    return {
        "question": _text(row, "question"),
        "subject": subject,
        "choices": choices,
        "answer": _place(answer, "answer", 4),
    }


def _hellaswag(row: Columns) -> Columns:
    endings = _texts(row, "endings", row)
    label = _place(row.get("label"), "label", len(endings))
    # lm-eval has the label as text.
    common = {"endings": endings, "label": str(label)}
    if any(name in row for name in HELLASWAG_SPLIT):
        texts = {name: row.get(name) for name in HELLASWAG_SPLIT}
        for name, text in texts.items():
            if not isinstance(text, str):
                raise ValueError(f"has no text {name!r}")
        return {**texts, **common}
    return {"ctx": _text(row, "ctx"), **common}


def _arc(row: Columns) -> Columns:
    choices = row.get("choices")
    if not isinstance(choices, dict):
        raise ValueError("has no object 'choices' of text and label")
    texts, labels = _texts(choices, "text", row), _texts(choices, "label", row)
    if len(texts) != len(labels) or len(set(labels)) < len(labels):
        raise ValueError(f"has {len(texts)} choices with the labels {', '.join(labels)}")
    key = _text(row, "answerKey")
    if key not in labels:
        raise ValueError(f"has the answerKey {key!r}, which is none of {', '.join(labels)}")
    return {"question": _text(row, "question"), "choices": {"text": texts, "label": labels}, "answerKey": key}


def _truthfulqa(row: Columns) -> Columns:
    """Hugging Face's layout, or TruthfulQA's own table, from which that was made: the true answers come first."""
    if "mc1_targets" in row or "mc2_targets" in row:
        return {
            "question": _text(row, "question"),
            "mc1_targets": _targets(row, "mc1_targets"),
            "mc2_targets": _targets(row, "mc2_targets"),
        }
    best = _text(row, "Best Answer").strip()
    true, false = _split(row, "Correct Answers"), _split(row, "Incorrect Answers")
    return {
        "question": _text(row, "Question").strip(),
        "mc1_targets": {"choices": [best, *false], "labels": [1] + [0] * len(false)},
        "mc2_targets": {"choices": true + false, "labels": [1] * len(true) + [0] * len(false)},
    }


def _targets(row: Columns, name: str) -> Columns:
    targets = row.get(name)
    if not isinstance(targets, dict):
        raise ValueError(f"has no object {name!r} of choices and labels")
    choices, labels = _texts(targets, "choices", row), targets.get("labels")
    if (
        not isinstance(labels, list)
        or len(labels) != len(choices)
        or not set(map(repr, labels)) == {"0", "1"}
    ):
        raise ValueError(f"has {name} whose labels are not a 0 or a 1 for each choice, with both among them")
    if name == "mc1_targets" and (labels[0] != 1 or sum(labels) != 1):
        raise ValueError(
            "has mc1_targets whose first choice is not the one true one, as lm-eval takes it to be"
        )
    return {"choices": choices, "labels": labels}


def _split(row: Columns, name: str) -> list[str]:
    if not (answers := [part for text in _text(row, name).split(";") if (part := text.strip())]):
        raise ValueError(f"has no answer in {name!r}")
    return answers


def _gsm8k(row: Columns) -> Columns:
    answer = _text(row, "answer")
    if re.search(r"#### (\-?[0-9\.\,]+)", answer) is None:
        raise ValueError("has an answer that does not end in '#### NUMBER'")
    return {"question": _text(row, "question"), "answer": answer}


LAYOUTS: dict[str, Callable[[Columns], Columns]] = {
    "mmlu": _mmlu,
    "hellaswag": _hellaswag,
    "arc_challenge": _arc,
    "truthfulqa_mc1": _truthfulqa,
    "truthfulqa_mc2": _truthfulqa,
    "gsm8k": _gsm8k,
}


def _text(row: Columns, name: str) -> str:
    text = row.get(name)
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"has no text {name!r}")
    return text


def _texts(part: Columns, name: str, row: Columns) -> list[str]:
    texts = part.get(name)
    if (
        not isinstance(texts, list)
        or len(texts) < 2
        or not all(isinstance(text, str) and text for text in texts)
    ):
        where = name if part is row else f"choices.{name}"
        raise ValueError(f"needs in {where!r} a list of two or more texts")
    return texts


def _place(value: Any, name: str, count: int) -> int:
    """A choice's number, as a number or in digits."""
    if isinstance(value, str) and re.fullmatch("[0-9]{1,3}", value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < count:
        raise ValueError(f"has {name} {value!r}, which is none of the choices 0 to {count - 1}")
    return value


def packaged_tasks() -> Path:
    """The folder of the tasks that lm-eval ships. Finding it imports nothing of lm-eval."""
    spec = find_spec("lm_eval")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / "tasks"


@cache
def subjects() -> frozenset[str]:
    """Names of MMLU's subjects."""
    files = (packaged_tasks() / "mmlu" / "default").glob("mmlu_*.yaml")
    return frozenset(file.stem.removeprefix("mmlu_") for file in files)
