"""The measures of answers to held-out rows: exact match, F1 of words, JSON of a given form.

Each judges the same answers, which are generated once. Knows nothing of how they came to be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from raymill.evaluate.config import HELDOUT, HELDOUT_F1, JsonSchemaTask
from raymill.evaluate.exact_match import is_exact
from raymill.evaluate.json_schema import read_schema
from raymill.evaluate.samples import Record
from raymill.evaluate.token_f1 import token_f1

Judge = Callable[[Record], dict[str, Any]]
"""An answer's record -> its `score`, and whatever else is told of it."""

Means = dict[str, Callable[[Record], float]]
"""Name of a metric -> what it is the mean of; the first is the one that is reported."""


def judge_of(task: str | JsonSchemaTask) -> tuple[Judge, Means]:
    """How a task judges an answer, and which metrics come of it.

    Raises:
        NotFound, Invalid: as `json_schema.read_schema`.
    """
    if isinstance(task, JsonSchemaTask):
        return schema_judge(task), {
            "valid": lambda record: float(record["score"]),
            "parsed": lambda record: float(record["reason"] != "no_json"),
        }
    if task == HELDOUT_F1:
        return f1_judge, {
            "f1": lambda record: float(record["score"]),
            "precision": lambda record: float(record["precision"]),
            "recall": lambda record: float(record["recall"]),
        }
    assert task == HELDOUT
    return exact_judge, {"exact_match": lambda record: float(record["score"])}


def exact_judge(record: Record) -> dict[str, Any]:
    return {"score": float(is_exact(record["answer"], record["reference"]))}


def f1_judge(record: Record) -> dict[str, Any]:
    found = token_f1(record["answer"], record["reference"])
    return {"score": found.f1, "precision": found.precision, "recall": found.recall}


def schema_judge(task: JsonSchemaTask) -> Judge:
    """Names the schema in `metric`, so that shares under two schemas are never compared."""
    schema = read_schema(task)
    metric = f"valid by schema {schema.digest[:12]}"

    def judge(record: Record) -> dict[str, Any]:
        verdict = schema.judge(record["answer"])
        return {
            "score": float(not verdict.reason),
            "reason": verdict.reason,
            "detail": verdict.detail,
            "metric": metric,
        }

    return judge


def metrics_of(records: Sequence[Record], means: Means) -> dict[str, float]:
    """The mean over the records of each metric."""
    return {name: sum(map(of, records)) / len(records) for name, of in means.items()}
