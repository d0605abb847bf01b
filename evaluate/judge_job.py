"""The handler of the job kind `judge`: a model judges answers that evaluations have kept.

It may be killed at any moment: every reply of the judge lies in `context.work_dir`, and the next attempt asks for the others
alone.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raymill.cluster.context import JobContext, JsonObject, Outcome
from raymill.evaluate.judge_config import Judgement, LabelsConfig
from raymill.evaluate.judging import (
    LABELS,
    Example,
    Judge,
    agreement_of,
    judge_marks,
    judge_pairs,
    numbers_of,
    pair_numbers,
)
from raymill.evaluate.row_files import check_file, rows_of
from raymill.evaluate.samples import Record, write_parquet
from raymill.evaluate.target_job import open_remote, told_of
from raymill.policies.errors import Invalid
from raymill.registry.artifacts import FileDigest, canonical_json
from raymill.registry.samples import SampleFile, read_answers

KEYS = {"index": int, "doc_hash": str}
"""What tells a labelled example."""

LABELLED = "a file with label and index or doc_hash in each row"


def run_judge(context: JobContext) -> Outcome:
    """Judge the samples of one evaluation, or of two.

    Raises:
        Tampered: samples are not what was registered.
        Invalid: the two share no example, samples have no answers, or the labels are not in their layout.
        As `Asker.ask`.
    """
    started = time.monotonic()
    config = Judgement.model_validate(context.config["judgement"])
    examples = examples_of(context, config)
    labels = read_labels(config.labels, config, examples) if config.labels else {}
    with open_remote(context, config.target, "judge") as (asker, costs):
        judge = Judge(asker, config)
        if config.kind == "pairwise":
            records = judge_pairs(judge, examples)
            numbers = pair_numbers(records)
        else:
            records = judge_marks(judge, examples, metric_of(config))
            numbers = numbers_of(records, "score")
        told = told_of(asker, costs, {config.name: judge.keys})
    if numbers["failures"] == numbers["examples"]:
        raise Invalid(
            f"{config.judge} gave no verdict on any of {len(records)} examples ({records[0]['failure'][:200]}): take another "
            "judge, or raise max_new_tokens"
        )
    agreed = None
    if config.labels is not None:
        records = [{**record, "label": labels.get(record["index"])} for record in records]
        agreed = agreement_with(config.labels, records, config)
    published = context.publish("judgement", written(context, config, records))
    return Outcome(
        result={
            "digest": published.digest,
            "artifact": published.name,
            "kind": config.kind,
            "a": config.a,
            "b": config.b,
            "judge": config.target,
            "task": config.task,
            "name": config.name,
            **numbers,
            "agreement": agreed,
            **told,
            "seconds": round(time.monotonic() - started, 3),
        },
        artifacts=(published,),
    )


def examples_of(context: JobContext, config: Judgement) -> list[Example]:
    """What both answered, in the order of A's data."""
    given = [context.config[side] for side in ("a", "b") if context.config.get(side)]
    files = [SampleFile(**{**each, "file": FileDigest(**each["file"])}) for each in given]
    sides = [read_answers(context.path(file.artifact_name), file) for file in files]
    others = {str(row["doc_hash"]): row for row in sides[-1]}
    examples = [
        Example(
            index=int(row["index"]),
            doc_hash=str(row["doc_hash"]),
            question=str(row["prompt"]),
            reference=str(row["reference"]),
            answers=tuple(
                str(each["answer"]) for each in (row, *([others[str(row["doc_hash"])]] if config.b else []))
            ),
        )
        for row in sides[0]
        if str(row["doc_hash"]) in others
    ]
    if not examples:
        raise Invalid(
            f"{config.a} and {config.b} share no example of {config.task}: evaluate both on the same rows"
        )
    return examples[: config.limit]


def read_labels(config: LabelsConfig, judged: Judgement, examples: Sequence[Example]) -> dict[int, Any]:
    """Index of an example -> its label.

    Raises:
        NotFound, Invalid: there is no such file, it has changed, a row is not in the layout (the message has its number),
            or none is of an example.
    """
    path = Path(config.file)
    check_file(path, config.sha256, LABELLED)
    known: list[Any] = list(LABELS) if judged.kind == "pairwise" else list(range(1, judged.scale + 1))
    found: dict[object, Any] = {}
    for number, row in enumerate(rows_of(path), start=1):
        keys = (
            [row[key] for key, kind in KEYS.items() if isinstance(row.get(key), kind)]
            if isinstance(row, dict)
            else []
        )
        if not keys or row.get("label") not in known or isinstance(row.get("label"), bool):
            raise Invalid(
                f"{path.name}, row {number} is no label: give index or doc_hash, and label as one of "
                f"{', '.join(map(str, known))}"
            )
        found |= dict.fromkeys(keys, row["label"])
    labels = {each.index: found.get(each.index, found.get(each.doc_hash)) for each in examples}
    labels = {index: label for index, label in labels.items() if label is not None}
    if not labels:
        raise Invalid(
            f"no row of {path.name} is of an example that is judged: index and doc_hash are those of the samples of "
            f"{judged.task}",
            param="labels",
        )
    return labels


def agreement_with(labels: LabelsConfig, records: Sequence[Record], config: Judgement) -> JsonObject | None:
    """What is told of the agreement with people; `kappa` and its interval are null where they are not defined. None: no
    example with a label has a verdict."""
    found = agreement_of(records, config)
    if found is None:
        return None
    return {
        "source": labels.source,
        "examples": found.examples,
        "agreement": found.raw,
        "kappa": found.kappa,
        "low": found.interval.low if found.interval else None,
        "high": found.interval.high if found.interval else None,
        "weights": "quadratic" if config.kind == "rubric" else "none",
    }


def metric_of(config: Judgement) -> str:
    """What tells a rubric and its judge from others: scores under two of them are never compared."""
    said = {"rubric": config.rubric, "scale": config.scale, "reference": config.show_reference}
    return f"rubric {hashlib.sha256(canonical_json(said)).hexdigest()[:12]} by {config.target}"


def written(context: JobContext, config: Judgement, records: list[Record]) -> Path:
    """A folder with the samples, and what the judge was asked to do."""
    directory = context.work_dir / "publish"
    shutil.rmtree(directory, ignore_errors=True)
    variant = context.config["of"]["variant"]
    write_parquet([{"variant": variant, **each} for each in records], directory / f"{config.name}.parquet")
    (directory / "judgement.json").write_bytes(canonical_json(config.model_dump(mode="json")) + b"\n")
    return directory
