"""The samples of evaluations: which file holds them, what each example scored, and which examples two have in common.

An example is known by `doc_hash`, the hash of what is asked and wanted, whatever a model's template makes of it.
Samples without one are known by the prompt as it was rendered. Bytes are held against their registered digests
before they are read.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy.orm import Session

from raymill.policies import statistics
from raymill.policies.errors import Invalid, NotFound
from raymill.policies.statistics import Comparison, Scores
from raymill.registry.artifact_access import Artifacts
from raymill.registry.artifacts import FileDigest, Tampered
from raymill.registry.tables import Artifact, Evaluation, Job

AGAIN = "evaluate it again"
COLUMNS = ("variant", "index", "doc_hash", "prompt", "reference", "score", "metric", "higher_is_better")
SHOWN = (*COLUMNS, "answer", "reason", "error")
"""What people are shown of an example, as far as its task keeps it."""

ANSWER_COLUMNS = ("variant", "index", "doc_hash", "prompt", "reference", "answer")


@dataclass(frozen=True, kw_only=True)
class SampleFile:
    """Where the samples of one evaluation lie."""

    label: str
    """Whose they are, for messages."""

    task: str
    artifact_name: str
    file: FileDigest
    variant: str
    """Quantization type; empty for the weights."""


@dataclass(frozen=True, kw_only=True)
class Samples:
    """The examples of one evaluation that have a score, in the order of the data.

    Several answers to one example (HumanEval's) count as one, with their mean score: they are no examples of their own.
    """

    label: str
    documents: list[str] | None
    """Their `doc_hash`es; None where it was not kept."""

    prompts: list[str]
    """Hashes of the rendered prompt with the reference."""

    scores: Scores
    metric: str | None
    higher_is_better: bool
    rows: list[dict[str, Any]]
    """The columns that were asked for, of several answers the first's, with `answers`: how many there are."""


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Two evaluations of a task, compared on the examples that both have."""

    statistics: Comparison
    only_a: int
    """Examples that only A was asked."""

    only_b: int
    asked_differently: int
    """Examples that the two were asked in different words: other templates, other examples before them."""


def file_of(session: Session, evaluation: Evaluation, label: str) -> SampleFile:
    """Raises NotFound: the evaluation kept no samples of its task."""
    job = session.get(Job, evaluation.job_id)
    artifact = session.get(Artifact, ((job and job.result) or {}).get("artifact", ""))
    path = f"{evaluation.task.replace('/', '_')}.parquet"
    found = [file for file in artifact.files if file["path"] == path] if artifact else []
    if not artifact or not found:
        raise NotFound(f"the evaluation of {label} kept no samples of {evaluation.task}: {AGAIN}")
    return SampleFile(
        label=label,
        task=evaluation.task,
        artifact_name=artifact.name,
        file=FileDigest(**found[0]),
        variant=evaluation.variant,
    )


def read(store: Artifacts, where: SampleFile, columns: Sequence[str] = COLUMNS) -> Samples:
    """Read and check a file of samples.

    Args:
        columns: at least COLUMNS.

    Raises:
        NotFound: the artifact is gone from the store.
        Tampered: its bytes are not those that were registered.
        Invalid: no example has a score.
    """
    with store.hold_file(where.artifact_name, where.file) as path:
        rows = _rows_of(path, where, columns)
    if rows and "score" not in rows[0]:
        raise Invalid(f"samples of {where.task} of {where.label} are older than scores by example: {AGAIN}")
    rows = [row for row in rows if row["score"] is not None]
    if not rows:
        raise Invalid(f"{where.task} gives no score for a single example: it cannot be compared by example")
    if not all(math.isfinite(row["score"]) for row in rows):
        raise Invalid(f"a score of {where.task} of {where.label} is not finite: it cannot be compared")
    rows = _by_index(rows)
    documents = [row.get("doc_hash") for row in rows]
    return Samples(
        label=where.label,
        documents=[str(each) for each in documents] if None not in documents else None,
        prompts=[_hash(row) for row in rows],
        scores=np.array([row["score"] for row in rows], dtype=np.float64),
        metric=rows[0].get("metric"),
        higher_is_better=rows[0].get("higher_is_better") is not False,
        rows=rows,
    )


def read_answers(directory: Path, where: SampleFile) -> list[dict[str, Any]]:
    """`index`, `doc_hash`, `prompt`, `reference` and `answer` of each example, of several answers the first.

    Args:
        directory: of the artifact.

    Raises:
        Tampered: its bytes are not those that were registered.
        Invalid: there are no answers, or nothing that tells an example.
    """
    found: dict[object, dict[str, Any]] = {}
    for row in _rows_of(directory / where.file.path, where, ANSWER_COLUMNS):
        if any(row.get(name) is None for name in ANSWER_COLUMNS if name != "variant"):
            raise Invalid(
                f"samples of {where.task} of {where.label} have no answers to read: take another task"
            )
        found.setdefault(row["doc_hash"], row)
    return list(found.values())


def _rows_of(path: Path, where: SampleFile, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a file, or of its variant. Raises Tampered."""
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != where.file.sha256:
        raise Tampered(
            f"{where.file.path} in artifact {where.artifact_name} is not what was registered: "
            "restore it from a backup"
        )
    rows = _rows(content, columns)
    return [row for row in rows if row["variant"] == where.variant] if where.variant else rows


def pair(a: Samples, b: Samples) -> Paired:
    """Compare A and B on the examples that both have. Raises as `in_both`."""
    both = in_both(a, b)
    rows_a, rows_b = map(list, zip(*both, strict=True))
    return Paired(
        statistics=statistics.compare(
            a.scores[rows_a], b.scores[rows_b], higher_is_better=a.higher_is_better
        ),
        only_a=len(a.prompts) - len(both),
        only_b=len(b.prompts) - len(both),
        asked_differently=sum(a.prompts[one] != b.prompts[other] for one, other in both),
    )


def in_both(a: Samples, b: Samples) -> list[tuple[int, int]]:
    """The places in A and in B of the examples that both have, in A's order; the n-th of equal examples with the n-th.

    Raises:
        Invalid: they have no example in common, or were scored by different metrics.
    """
    if a.metric != b.metric:
        raise Invalid(
            f"{a.label} was scored by {a.metric} and {b.label} by {b.metric}: evaluate both with one metric"
        )
    by_document = a.documents is not None and b.documents is not None
    keys_a, keys_b = (_numbered(each.documents if by_document else each.prompts) for each in (a, b))
    place_in_b = {key: place for place, key in enumerate(keys_b)}
    both = [(place, place_in_b[key]) for place, key in enumerate(keys_a) if key in place_in_b]
    if not both:
        raise Invalid(
            f"none of the {len(keys_a)} examples of {a.label} is among the {len(keys_b)} of {b.label}: "
            "evaluate both on the same held-out rows"
        )
    return both


def _rows(content: bytes, columns: Sequence[str]) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(io.BytesIO(content))
    rows: list[dict[str, Any]] = file.read(
        [name for name in columns if name in file.schema.names]
    ).to_pylist()
    return rows


def _by_index(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each example, with the mean score of its answers and how many there are."""
    answers: dict[object, list[dict[str, Any]]] = {}
    for place, row in enumerate(rows):
        answers.setdefault(row.get("index", f"row {place}"), []).append(row)
    return [
        {**each[0], "score": sum(row["score"] for row in each) / len(each), "answers": len(each)}
        for each in answers.values()
    ]


def _hash(row: dict[str, Any]) -> str:
    return hashlib.sha256(f"{row['prompt']}\0{row['reference']}".encode()).hexdigest()


def _numbered(keys: Sequence[str] | None) -> list[tuple[str, int]]:
    """Equal keys told apart by how many came before."""
    seen: Counter[str] = Counter()
    found = []
    for key in keys or ():
        found.append((key, seen[key]))
        seen[key] += 1
    return found
