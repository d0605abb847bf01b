"""The job of a search: rows as ids once, trials, the best one's model. May be killed at any moment and started again."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path

from raymill.cluster.context import JobContext, JsonObject, Outcome
from raymill.registry.trials import TrialRecord
from raymill.train import encoded
from raymill.train.config import TrainConfig
from raymill.train.jobs import describe, outcome, publish_export, refuse_misfit
from raymill.train.launch import EXPORT, FINISHED, read_finished
from raymill.train.metrics import METRICS, Point, summary, write_points
from raymill.train.tuning import ADAPTER, EXAMPLES, prepare
from raymill.tune.config import TuneConfig, with_values
from raymill.tune.search import TRIALS, Search, best_of, export, run_search, summary_of, train_to_end
from raymill.tune.store import RowStore, TrialStore
from raymill.tune.trial import STEPS


def run_tune(context: JobContext) -> Outcome:
    """Search, and publish the best trial's model as a training job does its own."""
    train = TrainConfig.model_validate(context.config["train"])
    config = TuneConfig.model_validate(context.config["tune"])
    refuse_misfit(train, context)
    store = RowStore(context.database, uuid.UUID(context.job_id), context.epoch)
    done = tune(train, config, context, store)
    best = with_values(train, done["search"]["best"]["values"])
    # What this version was trained with, where a training job has its own configuration.
    trained_with = best.model_dump(mode="json")
    for folder in (EXPORT, *([ADAPTER] if best.lora is not None else [])):
        describe(context, folder, best.method, done, trained_with)
    published = publish_export(context, "model", EXPORT)
    adapter = publish_export(context, "adapter", ADAPTER) if best.lora is not None else None
    return outcome(
        published,
        *([adapter] if adapter else []),
        adapter=adapter.name if adapter else None,
        train=trained_with,
        **done,
    )


def tune(train: TrainConfig, config: TuneConfig, context: JobContext, store: TrialStore) -> JsonObject:
    """Search, and write the best trial's model to `export/` in the work directory, and its adapter.

    Returns:
        What a training job tells of its run, here the best trial's, and `search`.
    """
    finished = context.work_dir / FINISHED
    if finished.is_file():
        context.event("log", text="the search had finished before: its result is used")
        return read_finished(finished)
    base = context.path(context.inputs["base"]["artifact"])
    train_file = context.path(context.inputs["dataset"]["artifact"]) / "train.jsonl"
    prepare(train, base, train_file, context)
    size = encoded.read(context.work_dir / EXAMPLES).size()
    search = Search(
        config=config,
        train=train,
        base=base,
        work_dir=context.work_dir,
        most_steps=most_steps(train, config, context.work_dir),
        store=store,
        tell=context.event,
        check=context.check,
    )
    context.event("phase", name=f"search, {config.size} trials")
    records = run_search(search)
    best = train_to_end(search, best_of(records).number)
    context.event("phase", name="export")
    measured = export(search, best)
    points = points_of(best)
    write_points(points, context.work_dir / METRICS)
    result = {
        **measured,
        "kept_step": measured["steps"],
        "metrics": summary(points),
        "series": points,
        "rows": size.rows,
        "trained_token_share": size.trained_token_share,
        "search": summary_of(search, records, best),
    }
    write_once(finished, result)
    shutil.rmtree(context.work_dir / TRIALS, ignore_errors=True)
    return result


def most_steps(train: TrainConfig, config: TuneConfig, work_dir: Path) -> int:
    """Steps of the longest trial on the rows in `work_dir`."""
    data = encoded.read(work_dir / EXAMPLES)
    units = len(data.examples) if train.method == "pretrain" else data.rows
    batch = min(_values(config, "train.batch", train.batch))
    epochs = max(_values(config, "train.epochs", train.epochs))
    return -(-units // int(batch)) * int(epochs)


def _values(config: TuneConfig, path: str, otherwise: int) -> Sequence[int]:
    return config.over[path].samples if path in config.over else (otherwise,)


def points_of(record: TrialRecord) -> list[Point]:
    """A trial's reports as the curves of a training run."""
    points: list[Point] = []
    for report in record.reports:
        points.append({"step": report[STEPS], "loss": report["final_loss"]})
        if report.get("validation_loss") is not None:
            points.append({"step": report[STEPS], "validation_loss": report["validation_loss"]})
    return points


def write_once(path: Path, value: JsonObject) -> None:
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
