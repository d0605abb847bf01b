"""The job that makes a data set: read, split, look for duplicates and contamination, count, publish in normal form.

    train.jsonl, test.jsonl     rows in normal form, one a line; what the set's digest is made of
    stats.json                  what they are like

Each step may be killed at any moment and started again. `run_check` does all but publish.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from raymill.cluster.context import JobContext, JsonObject, Outcome
from raymill.policies.errors import NotFound
from raymill.registry.artifacts import Published, tree_digest
from raymill.train.dataset_config import DatasetSource, files_of
from raymill.train.dataset_rows import Part, duplicates_of, overlap, read_any, read_part, write_jsonl
from raymill.train.gate import check_contamination
from raymill.train.jobs import STAGING, check_digest, fresh
from raymill.train.readers import BadRow, InvalidDataset, refuse_bad_rows
from raymill.train.row_text import Row
from raymill.train.split import split_rows
from raymill.train.statistics import part_stats

MAX_BAD_ROWS = 1000
"""That a job tells of one by one."""

STATS = "stats.json"


@dataclass
class Prepared:
    """A data set before it is published."""

    train: list[Row]
    numbers: list[int]
    """Of each training row, which row of its files it was, from 1."""

    test: list[Row]
    bad: tuple[BadRow, ...]
    bad_count: int
    formats: tuple[str, ...]
    shape: str
    stats: JsonObject


def run_dataset(context: JobContext) -> Outcome:
    """Make a data set, or stand for one that is registered already."""
    if "registered" in context.config:
        return registered(context)
    prepared = prepare(context)
    staging = fresh(context.work_dir / STAGING)
    if prepared.train:
        write_jsonl(prepared.train, staging / "train.jsonl")
    if prepared.test:
        write_jsonl(prepared.test, staging / "test.jsonl")
    gate(context, prepared, staging)
    (staging / STATS).write_text(
        json.dumps(prepared.stats, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )
    published = context.publish("dataset", staging)
    return Outcome(
        result={
            "digest": rows_digest(published),
            "artifact": published.name,
            "train_rows": len(prepared.train),
            "test_rows": len(prepared.test),
            "format": ", ".join(prepared.formats),
            "shape": prepared.shape,
            "purpose": context.config.get("purpose", "training"),
            "bad_rows": prepared.bad_count,
            "with_tools": sum(bool(row.get("tools")) for row in prepared.train),
            "overlap": prepared.stats["overlap"],
            "duplicates": prepared.stats["duplicates"],
            "stats": prepared.stats,
            "provenance": provenance(context.config, context.inputs),
        },
        artifacts=(published,),
    )


def run_check(context: JobContext) -> Outcome:
    """What `run_dataset` would say of the same files; nothing is registered, and what is wrong is a result."""
    problem: str | None = None
    bad: tuple[BadRow, ...] = ()
    count = 0
    found: JsonObject = {"train_rows": 0, "test_rows": 0, "format": "", "shape": "", "stats": {}}
    try:
        prepared = prepare(context, refuse=False)
        bad, count = prepared.bad, prepared.bad_count
        found = {
            "train_rows": len(prepared.train),
            "test_rows": len(prepared.test),
            "format": ", ".join(prepared.formats),
            "shape": prepared.shape,
            "stats": prepared.stats,
        }
        staging = fresh(context.work_dir / STAGING)
        if prepared.test:
            write_jsonl(prepared.test, staging / "test.jsonl")
        gate(context, prepared, staging)
    except InvalidDataset as error:
        problem, bad = str(error), error.bad_rows or bad
        count = max(count, len(bad))
    return Outcome(
        result={
            **found,
            "valid": problem is None and not bad,
            "problem": problem,
            "bad_rows": count,
            "first_bad_rows": [row._asdict() for row in bad[:MAX_BAD_ROWS]],
        }
    )


def registered(context: JobContext) -> Outcome:
    """The result of the job that made a registered set; its bytes are checked where they are used."""
    result: JsonObject = dict(context.config["registered"])
    if not context.path(result["artifact"]).is_dir():
        raise NotFound(
            f"artifact {result['artifact']} of data set {result['name']} is not in the store: "
            "restore it from a backup, or add the set again"
        )
    return Outcome(result=result)


def prepare(context: JobContext, *, refuse: bool = True) -> Prepared:
    """Read, split and count.

    Args:
        refuse: bad rows are an error, unless the configuration says that they are left out.

    Raises:
        InvalidDataset: bad rows, or too few good ones.
        NotFound, Invalid: a file is gone, or changed since it was submitted.
    """
    source = source_of(context.config)
    evaluation = context.config.get("purpose") == "evaluation"
    read = read_any if evaluation else read_part
    paths = train_files(context, source)
    context.event("phase", name="read")
    first = read(paths, source.format, context.check)
    second = None
    if source.test is not None:
        test = checked(source.test, context.config.get("test_sha256"))
        second = read([test], source.format, context.check)
    parts = [first, *([second] if second else [])]
    bad = tuple(row for part in parts for row in part.bad)
    for row in bad[:MAX_BAD_ROWS]:
        context.event("bad_row", file=row.file, unit=row.unit, number=row.number, reason=row.reason)
    if refuse and not source.allow_bad_rows:
        count = sum(part.bad_count for part in parts)
        refuse_bad_rows(bad, count + sum(len(part.rows) for part in parts), count)
    for part, name in zip(parts, ("train", "test"), strict=False):
        if not part.rows:
            raise InvalidDataset(f"the {name} file has no good row: fix the rows that were reported", bad)
    context.check()
    return arranged(context, source, first, second, bad, evaluation=evaluation)


def arranged(
    context: JobContext,
    source: DatasetSource,
    first: Part,
    second: Part | None,
    bad: tuple[BadRow, ...],
    *,
    evaluation: bool,
) -> Prepared:
    """Rows on their sides, duplicates dropped where that is asked for, and counted."""
    shape = first.shape
    if second is not None and second.shape != shape:
        raise InvalidDataset(f"train holds {shape} rows, test {second.shape} rows: give both of one shape")
    numbers = list(range(1, len(first.rows) + 1))
    train, test = first.rows, second.rows if second else []
    if evaluation:
        train, numbers, test = [], [], first.rows
    elif source.split is not None:
        place = {id(row): number for row, number in zip(first.rows, numbers, strict=True)}
        train, test = split_rows(first.rows, source.split)
        numbers = [place[id(row)] for row in train]
    context.event("phase", name="duplicates")
    found = duplicates_of(train)
    dropped = 0
    if source.duplicates != "keep":
        drop = found.exact | found.near if source.duplicates == "drop_near" else found.exact
        dropped = int(drop.sum())
        train = [row for row, gone in zip(train, drop, strict=True) if not gone]
        numbers = [number for number, gone in zip(numbers, drop, strict=True) if not gone]
    context.check()
    shared = overlap(train, test)
    if shared:
        context.event("log", text=f"{shared} test rows ask a question that is in the training set too")
    context.event("phase", name="statistics")
    return Prepared(
        train=train,
        numbers=numbers,
        test=test,
        bad=bad,
        bad_count=sum(part.bad_count for part in (first, second) if part is not None),
        formats=tuple(sorted({part.format for part in (first, second) if part is not None})),
        shape=shape,
        stats={
            "train": part_stats(train) if train else None,
            "test": part_stats(test) if test else None,
            "duplicates": {
                "exact": int(found.exact.sum()),
                "near": int(found.near.sum()),
                "dropped": dropped,
            },
            "overlap": shared,
        },
    )


def gate(context: JobContext, prepared: Prepared, staging: Path) -> None:
    """Refuse training rows that hold evaluation rows; what was found is told in the statistics either way."""
    against = context.config.get("against", [])
    if not prepared.train or not against:
        return
    context.event("phase", name="contamination")
    prepared.stats["contamination"] = check_contamination(
        context,
        prepared.train,
        prepared.numbers,
        source_of(context.config).contamination,
        against,
        own_test=staging / "test.jsonl",
    )


def source_of(config: JsonObject) -> DatasetSource:
    """The part of a job's configuration that a recipe may say."""
    return DatasetSource.model_validate(
        {key: config[key] for key in DatasetSource.model_fields if key in config}
    )


def train_files(context: JobContext, source: DatasetSource) -> list[Path]:
    """The files that were submitted, or what an earlier step has made."""
    made = next((given for given in context.inputs.values() if "rows_file" in given), None)
    if made is not None:
        return [context.path(made["artifact"]) / made["rows_file"]]
    digests = files_of(context.config.get("train_sha256"))
    paths = files_of(source.train)
    return [checked(path, digest) for path, digest in zip(paths, digests or [None] * len(paths), strict=True)]


def checked(path: str, sha256: str | None) -> Path:
    check_digest(Path(path), sha256)
    return Path(path)


def rows_digest(published: Published) -> str:
    """Of the rows alone: statistics that are counted differently make no other data set."""
    return tree_digest(tuple(file for file in published.files if file.path != STATS))


def provenance(config: JsonObject, inputs: dict[str, JsonObject]) -> JsonObject:
    """What the set was made of."""
    names = [("train", path) for path in files_of(config.get("train"))]
    digests = list(files_of(config.get("train_sha256")))
    if config.get("test"):
        names.append(("test", config["test"]))
        digests.append(str(config.get("test_sha256")))
    files = [
        {"part": part, "name": Path(path).name, "sha256": digest}
        for (part, path), digest in zip(names, digests, strict=False)
    ]
    traffic = {step: made["provenance"] for step, made in inputs.items() if "provenance" in made}
    asked = {key: config[key] for key in ("split", "duplicates", "format") if config.get(key) is not None}
    return {"files": files, **asked, **traffic}
