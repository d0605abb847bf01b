"""The handler of the job kind `evaluate`.

It runs in a process of its own (a Ray job's driver) and may be killed at any moment: finished samples lie
in `context.work_dir`, and the next attempt goes on from there. It does not import torch here.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import ray

from raymill.cluster.context import JobContext, JsonObject, Outcome
from raymill.cluster.settings import Settings
from raymill.evaluate.actors import ActorPool, Size, join_ray
from raymill.evaluate.benchmark_config import BenchmarkTask
from raymill.evaluate.config import (
    BfclTask,
    EvaluateConfig,
    HumanEvalTask,
    LmEvalTask,
    PerplexityTask,
    is_heldout,
    label_of,
    runs_on_files,
)
from raymill.evaluate.gguf_model import GgufModel
from raymill.evaluate.hf_model import HfModel
from raymill.evaluate.prompts import Row, read_rows
from raymill.evaluate.samples import Record, write_parquet
from raymill.evaluate.tasks import (
    TaskResult,
    check_files,
    run_bfcl,
    run_heldout,
    run_humaneval,
    run_lm_eval,
    run_perplexity,
)
from raymill.policies.errors import Invalid
from raymill.registry.artifacts import canonical_json
from raymill.registry.placement_config import pin


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
    rows = read_rows(context.verified(context.inputs["dataset"]["artifact"]) / "test.jsonl", config.limit)
    check_files(config.tasks)
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
    return {of: measure_model(context, config, rows, context.verified(context.inputs[of]["artifact"]))}


def measure_model(
    context: JobContext, config: EvaluateConfig, rows: list[Row], directory: Path
) -> TaskResult:
    """All tasks on the weights in `directory`."""
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
            elif isinstance(task, BfclTask):
                result = run_bfcl(context, pool, task, config)
            elif isinstance(task, PerplexityTask):
                result = run_perplexity(context, pool, task, config)
            else:
                assert is_heldout(task)
                result = run_heldout(context, pool, rows, config, task)
            found.add(result)
    return found


def evaluate_quantized(context: JobContext, config: EvaluateConfig, rows: list[Row]) -> dict[str, TaskResult]:
    """What can be asked of each GGUF file; tokenizer and template are those of the train step."""
    made = context.inputs["quantize"]
    folder = context.verified(made["artifact"])
    files = {file["type"]: folder / file["file"] for file in made["files"]}
    return measure_files(context, config, rows, context.verified(context.inputs["train"]["artifact"]), files)


def measure_files(
    context: JobContext, config: EvaluateConfig, rows: list[Row], directory: Path, files: dict[str, Path]
) -> dict[str, TaskResult]:
    """What can be asked of each of `files`, by their types; tokenizer and template lie in `directory`.

    Other tasks are left to the model itself: llama.cpp's scores of given answers are not wired up.
    """
    if not any(map(runs_on_files, config.tasks)):
        raise Invalid(
            "none of the tasks is run on quantized files: add heldout_exact_match to evaluate.tasks",
            param="tasks",
        )
    for task in config.tasks:
        if not runs_on_files(task):
            context.event("log", text=f"{label_of(task)} is not run on quantized files, only on the model")
    found: dict[str, TaskResult] = {}
    with ActorPool(
        GgufModel,
        {"directory": str(directory), "threads": max(1, int(config.cpus_per_actor))},
        pool_size(config),
        check=context.check,
        log=lambda text: context.event("log", text=text),
    ) as pool:
        for kind, file in files.items():
            found[kind] = TaskResult({}, {}, {})
            for task in filter(runs_on_files, config.tasks):
                context.event("phase", name=f"{label_of(task)} of {kind}")
                if isinstance(task, BfclTask):
                    result = run_bfcl(context, pool, task, config, file)
                elif isinstance(task, PerplexityTask):
                    result = run_perplexity(context, pool, task, config, file)
                elif isinstance(task, HumanEvalTask):
                    result = run_humaneval(context, pool, task, config, file)
                else:
                    assert is_heldout(task)
                    result = run_heldout(context, pool, rows, config, task, file)
                found[kind].add(result)
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


def pool_size(config: EvaluateConfig) -> Size:
    """As many actors as asked for, but no more than a machine alone has processors for; others may join a cluster."""
    room = config.actors
    if Settings().address is None:
        room = int(ray.cluster_resources().get("CPU", 1) / config.cpus_per_actor)
    return Size(
        actors=max(1, min(config.actors, room)),
        cpus=config.cpus_per_actor,
        gpus=config.gpus_per_actor,
        custom=pin(config.resources),
    )
