"""The handlers of the job kinds `evaluate` and `quantize`.

Both run in a process of their own (a Ray job's driver) and may be killed at any moment: finished samples
and files lie in `context.work_dir`, and the next attempt goes on from there. Neither imports torch here.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import ray

from raymill.cluster.context import JobContext, JsonObject, Outcome
from raymill.evaluate.actors import ActorPool, Size
from raymill.evaluate.benchmark_config import BenchmarkTask
from raymill.evaluate.benchmarks import read_benchmark
from raymill.evaluate.config import (
    HELDOUT,
    EvaluateConfig,
    HumanEvalTask,
    LmEvalTask,
    QuantizeConfig,
    label_of,
)
from raymill.evaluate.gguf_export import export_f16
from raymill.evaluate.gguf_model import GgufModel
from raymill.evaluate.hf_model import HfModel
from raymill.evaluate.parity import answers_of_model, parity_of_file
from raymill.evaluate.prompts import Row, read_rows
from raymill.evaluate.quantize import QuantizedFile, quantize
from raymill.evaluate.samples import Record, write_parquet
from raymill.evaluate.tasks import TaskResult, run_heldout, run_humaneval, run_lm_eval
from raymill.policies.errors import Invalid
from raymill.registry.artifacts import canonical_json

CARD = "README.md"


def run_evaluate(context: JobContext) -> Outcome:
    """Measure the model of the step named in `of`, or each of its GGUF files when that is `quantize`.

    Raises:
        Invalid: `of` names no step that has a model, or its artifact is no model.
    """
    started = time.monotonic()
    settings = dict(context.config)
    of = settings.pop("of", "train")
    if of not in {"base", "train", "quantize"}:
        raise Invalid(f"of is {of!r}: evaluate the model of base, train or quantize", param="of")
    config = EvaluateConfig.model_validate(settings)
    rows = read_rows(context.path(context.inputs["dataset"]["artifact"]) / "test.jsonl", config.limit)
    join_ray()
    results = (
        evaluate_quantized(context, config, rows)
        if of == "quantize"
        else evaluate_model(context, config, rows, of)
    )
    metrics: JsonObject = {variant: result.metrics for variant, result in results.items()}
    details: JsonObject = {variant: result.details for variant, result in results.items()}
    published = context.publish("evaluation", write_samples(context, results))
    one = next(iter(results.values()))
    return Outcome(
        result={
            "digest": published.digest,
            "artifact": published.name,
            "metrics": metrics if of == "quantize" else one.metrics,
            "details": details if of == "quantize" else one.details,
            "samples": {
                task: len({record["index"] for record in records}) for task, records in one.records.items()
            },
            "seconds": round(time.monotonic() - started, 3),
        },
        artifacts=(published,),
    )


def evaluate_model(
    context: JobContext, config: EvaluateConfig, rows: list[Row], of: str
) -> dict[str, TaskResult]:
    """All tasks on one model in Hugging Face layout; the one variant is named after its step."""
    for task in config.tasks:
        if isinstance(task, BenchmarkTask):
            read_benchmark(task)  # a row that is not in the layout is told before the model is loaded
    directory = context.path(context.inputs[of]["artifact"])
    offline = all(not isinstance(task, LmEvalTask) or task.is_file for task in config.tasks)
    found = TaskResult({}, {}, {})
    with ActorPool(
        HfModel,
        {"directory": str(directory), "dtype": config.dtype, "offline": offline},
        pool_size(config),
        check=context.check,
        log=lambda text: context.event("log", text=text),
    ) as pool:
        for number, task in enumerate(config.tasks):
            context.event("phase", name=label_of(task))
            if isinstance(task, LmEvalTask | BenchmarkTask):
                result = run_lm_eval(context, pool, task, config, str(number))
            elif isinstance(task, HumanEvalTask):
                result = run_humaneval(context, pool, task, config)
            else:
                result = run_heldout(context, pool, rows, config, task)
            found.add(result)
    return {of: found}


def evaluate_quantized(context: JobContext, config: EvaluateConfig, rows: list[Row]) -> dict[str, TaskResult]:
    """Held-out exact match of each GGUF file; tokenizer and template are those of the train step.

    Other tasks are left to the model itself: llama.cpp's scores of given answers are not wired up.
    """
    if HELDOUT not in config.tasks:
        raise Invalid(
            f"quantized files are measured by {HELDOUT} only: add it to evaluate.tasks", param="tasks"
        )
    for task in config.tasks:
        if task != HELDOUT:
            context.event("log", text=f"{label_of(task)} is not run on quantized files, only on the model")
    directory = context.path(context.inputs["train"]["artifact"])
    made = context.inputs["quantize"]
    folder = context.path(made["artifact"])
    found: dict[str, TaskResult] = {}
    with ActorPool(
        GgufModel,
        {"directory": str(directory), "threads": max(1, int(config.cpus_per_actor))},
        pool_size(config),
        check=context.check,
        log=lambda text: context.event("log", text=text),
    ) as pool:
        for file in made["files"]:
            context.event("phase", name=f"{HELDOUT} of {file['type']}")
            found[file["type"]] = run_heldout(context, pool, rows, config, HELDOUT, folder / file["file"])
    return found


def write_samples(context: JobContext, results: dict[str, TaskResult]) -> Path:
    """A directory with `<task>.parquet` for each task; `variant` says whose sample it is."""
    directory = context.work_dir / "publish"
    shutil.rmtree(directory, ignore_errors=True)
    by_task: dict[str, list[Record]] = {}
    for variant, result in results.items():
        for task, records in result.records.items():
            by_task.setdefault(task, []).extend({"variant": variant, **record} for record in records)
    for task, records in by_task.items():
        write_parquet(records, directory / f"{task.replace('/', '_')}.parquet")
    summary = {variant: result.details for variant, result in results.items()}
    (directory / "metrics.json").write_bytes(canonical_json(summary) + b"\n")
    return directory


def run_quantize(context: JobContext) -> Outcome:
    """Export the trained model to GGUF, quantize it to each type, and compare each file's answers with it."""
    started = time.monotonic()
    config = QuantizeConfig.model_validate(dict(context.config))
    model = context.path(context.inputs["train"]["artifact"])
    rows: list[Row] = []
    if config.parity_prompts:
        test = context.path(context.inputs["dataset"]["artifact"]) / "test.jsonl"
        rows = read_rows(test, config.parity_prompts)
    join_ray()
    # The model loads in an actor while the converter runs: each needs its ten seconds of imports.
    with ActorPool(
        HfModel, {"directory": str(model)}, Size(actors=1 if rows else 0), check=context.check
    ) as pool:
        files = make_files(context, config, model)
        context.event("phase", name="parity: answers of the model")
        theirs = answers_of_model(pool, rows, config.max_new_tokens)
    reports: list[JsonObject | None] = [None] * len(files)
    if rows:
        with ActorPool(
            GgufModel,
            {"directory": str(model)},
            Size(actors=1),
            check=context.check,
        ) as pool:
            for number, file in enumerate(files):
                context.event("phase", name=f"parity: answers of {file.type}")
                reports[number] = parity_of_file(pool, file.path, rows, theirs, config.max_new_tokens)
    published = context.publish("gguf", links_to(files, context.work_dir / "publish"))
    return Outcome(
        result={
            "digest": published.digest,
            "artifact": published.name,
            "files": [
                {**file.as_json(), "parity": report} for file, report in zip(files, reports, strict=True)
            ],
            "seconds": round(time.monotonic() - started, 3),
        },
        artifacts=(published,),
    )


def run_export_gguf(context: JobContext) -> Outcome:
    """One GGUF file of a trained model, with the model's card beside it, for someone who takes it away."""
    config = QuantizeConfig(types=tuple(context.config["types"]), parity_prompts=0)
    model = context.path(context.config["artifact"])
    directory = links_to(make_files(context, config, model), context.work_dir / "publish")
    if (model / CARD).is_file():
        shutil.copyfile(model / CARD, directory / CARD)
    published = context.publish("gguf", directory)
    return Outcome(result={"digest": published.digest, "artifact": published.name}, artifacts=(published,))


def make_files(context: JobContext, config: QuantizeConfig, model: Path) -> list[QuantizedFile]:
    """F16 first, then each type from it."""
    context.event("phase", name="convert")
    folder = context.work_dir / "gguf"
    f16 = context.work_dir / "export" / f"{context.name}.gguf"
    export_f16(model, f16, context.work_dir, context.check)
    files: list[QuantizedFile] = []
    for kind in config.types:
        context.event("phase", name=f"quantize to {kind}")
        target = folder / f"{context.name}-{kind}.gguf"
        files.append(quantize(f16, target, kind, context.work_dir, context.check))
        for tensor in files[-1].tensors.fallbacks:
            fell = files[-1].tensors.types[tensor]
            context.event("log", text=f"{kind}: {tensor} is {fell}, its rows do not fit the type")
        context.event("progress", done=len(files), total=len(config.types), what="files")
    return files


def links_to(files: list[QuantizedFile], directory: Path) -> Path:
    """A directory to publish. Links, since the files are needed again if this attempt dies before its end."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    for file in files:
        (directory / file.path.name).hardlink_to(file.path)
    return directory


def join_ray() -> None:
    """The engine's driver has joined the cluster already; by hand we start one."""
    if not ray.is_initialized():
        ray.init()


def pool_size(config: EvaluateConfig) -> Size:
    """As many actors as asked for, but no more than the cluster has processors for."""
    room = int(ray.cluster_resources().get("CPU", 1) / config.cpus_per_actor)
    return Size(
        actors=max(1, min(config.actors, room)), cpus=config.cpus_per_actor, gpus=config.gpus_per_actor
    )
