"""Run one evaluation task over a pool of actors, continuing where an earlier attempt was killed.

The driver's side: it imports neither torch nor lm-eval. What it needs of the job (progress, cancel,
scratch directory) comes as a `JobContext`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from raymill.cluster.context import JobContext
from raymill.evaluate.actors import ActorPool
from raymill.evaluate.config import (
    EvaluateConfig,
    HumanEvalTask,
    JsonSchemaTask,
    LmEvalTask,
    Task,
    is_heldout,
    label_of,
)
from raymill.evaluate.exact_match import batches_of, record_of
from raymill.evaluate.humaneval import metrics_of, read_problems
from raymill.evaluate.lm_eval_tasks import with_score
from raymill.evaluate.measures import judge_of
from raymill.evaluate.measures import metrics_of as means_of
from raymill.evaluate.prompts import Answer, Row
from raymill.evaluate.samples import Record, SampleLog

LM_EVAL_SHARD = 32
"""Documents in one call to an actor: what is done again when it is lost."""


class TaskResult(NamedTuple):
    """What one task gave."""

    metrics: dict[str, float]
    """Name of the task -> its primary metric; several for a group of lm-eval tasks."""

    records: dict[str, list[Record]]
    """Name of the task -> its samples, in the order of the data."""

    details: dict[str, dict[str, float]]
    """Name of the task -> every metric it has."""

    def add(self, other: TaskResult) -> None:
        """Take in what another task gave."""
        self.metrics.update(other.metrics)
        self.records.update(other.records)
        self.details.update(other.details)


def check_files(tasks: Sequence[Task]) -> None:
    """Read the file of each task once, so that a bad row is told before a model is loaded.

    Raises:
        NotFound, Invalid: as the readers of the files.
    """
    for task in tasks:
        if isinstance(task, HumanEvalTask):
            read_problems(Path(task.humaneval), task.limit, task.sha256)
        elif is_heldout(task):
            judge_of(task)


def run_heldout(
    context: JobContext,
    pool: ActorPool,
    rows: Sequence[Row],
    config: EvaluateConfig,
    task: Literal["heldout_exact_match", "heldout_f1"] | JsonSchemaTask,
    gguf: Path | None = None,
) -> TaskResult:
    """A held-out measure of the pool's model, or of the file `gguf` when the pool holds GgufModels.

    The answers are kept in one log: the first such task has them generated, those after it find them there.
    """
    judge, means = judge_of(task)
    answers = answered(context, pool, rows, "heldout", config.batch, config.max_new_tokens, gguf)
    records = [{**record, **judge(record)} for record in answers]
    metrics = means_of(records, means)
    label = label_of(task)
    return TaskResult({label: metrics[next(iter(means))]}, {label: records}, {label: metrics})


def answered(
    context: JobContext,
    pool: ActorPool,
    rows: Sequence[Row],
    name: str,
    batch: int,
    max_new_tokens: int,
    gguf: Path | None = None,
) -> list[Record]:
    """The answer to each of `rows`, in their order; those in the log called `name` are not asked for again."""
    label = name if gguf is None else f"{name}-{gguf.stem}"
    log = SampleLog(context.work_dir / "samples" / f"{label}.jsonl")
    done = {record["index"] for record in log.records}
    batches = batches_of([row for row in rows if row.index not in done], batch)
    if done and batches:
        context.event(
            "log", text=f"{label}: {len(done)} of {len(rows)} samples are there from an earlier attempt"
        )

    def finished(position: int, result: Any) -> None:
        answers: list[Answer] = result if gguf is None else result["answers"]
        log.add(record_of(row, answer) for row, answer in zip(batches[position], answers, strict=True))
        context.event("progress", done=len(log.records), total=len(rows), what="samples", task=label)

    calls = [
        ([row.messages for row in each], max_new_tokens, [row.tools for row in each]) for each in batches
    ]
    pool.map("generate", calls if gguf is None else [(str(gguf), *call) for call in calls], finished)
    return sorted(log.records, key=lambda record: int(record["index"]))


def run_lm_eval(
    context: JobContext, pool: ActorPool, task: LmEvalTask, config: EvaluateConfig, name: str
) -> TaskResult:
    """A task of lm-eval (or the tasks of a group) on the pool's model.

    A shard of an earlier attempt is kept whole: the log holds one line for each shard.
    """
    log = SampleLog(context.work_dir / "samples" / f"lm-eval-{name}.jsonl")
    given = task.model_dump()
    shards = max(config.actors, -(-task.limit // LM_EVAL_SHARD)) if task.limit else config.actors * 4
    done = {line["shard"] for line in log.records if line["of"] == shards}
    left = [shard for shard in range(shards) if shard not in done]

    def finished(position: int, samples: dict[str, list[Record]]) -> None:
        log.add([{"shard": left[position], "of": shards, "samples": samples}])
        context.event("progress", done=len(log.records), total=shards, what="shards", task=name)

    pool.map("lm_eval_shard", [(given, shard, shards, config.batch) for shard in left], finished)
    records: dict[str, list[Record]] = {}
    for line in (line for line in log.records if line["of"] == shards):
        for leaf, samples in line["samples"].items():
            records.setdefault(leaf, []).extend(samples)
    for samples in records.values():
        samples.sort(key=lambda record: (int(record["index"]), str(record["filter"])))
    metrics: list[dict[str, Any]] = []
    pool.map("lm_eval_metrics", [(given, records)], lambda _, result: metrics.append(result))
    scored_by = metrics[0]["scored_by"]
    scored = {
        leaf: [with_score(sample, *scored_by[leaf]) for sample in samples]
        for leaf, samples in records.items()
    }
    return TaskResult(metrics[0]["primary"], scored, metrics[0]["all"])


def run_humaneval(
    context: JobContext, pool: ActorPool, task: HumanEvalTask, config: EvaluateConfig
) -> TaskResult:
    """Problems of HumanEval: the pool's model writes, and each answer is run where it was written, in a sandbox.

    A call is a number of answers, written and run; its line in the log is what the next attempt keeps.

    Raises:
        SandboxRefused: a node cannot run code safely; told before anything is written.
    """
    problems = read_problems(Path(task.humaneval), task.limit, task.sha256)
    given = task.model_dump(mode="json")
    pool.map("prove_sandbox", [(given,)], lambda _, __: None)
    asked = [(problem, sample) for problem in problems for sample in range(task.samples)]
    calls = [asked[start : start + config.batch] for start in range(0, len(asked), config.batch)]
    log = SampleLog(context.work_dir / "samples" / f"{task.name}.jsonl")
    done = {line["call"] for line in log.records}
    left = [number for number in range(len(calls)) if number not in done]

    def finished(position: int, records: list[Record]) -> None:
        log.add([{"call": left[position], "records": records}])
        answered = sum(len(line["records"]) for line in log.records)
        context.event("progress", done=answered, total=len(asked), what="samples", task=task.name)

    programs = max(1, int(config.cpus_per_actor))
    pool.map("humaneval", [(given, calls[number], number, programs) for number in left], finished)
    records = [record for line in log.records for record in line["records"]]
    records.sort(key=lambda record: (record["index"], record["sample"]))
    metrics = metrics_of(records, task.k)
    return TaskResult({task.name: metrics[f"pass@{task.k[0]}"]}, {task.name: records}, {task.name: metrics})
