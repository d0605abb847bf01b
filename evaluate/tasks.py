"""Run one evaluation task over a pool of actors, continuing where an earlier attempt was killed.

The driver's side: it imports neither torch nor lm-eval. What it needs of the job (progress, cancel,
scratch directory) comes as a `JobContext`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from raymill.cluster.context import JobContext
from raymill.evaluate.actors import ActorPool
from raymill.evaluate.benchmark_config import BenchmarkTask
from raymill.evaluate.config import EvaluateConfig, HumanEvalTask, LmEvalTask
from raymill.evaluate.exact_match import batches_of, exact_match, record_of
from raymill.evaluate.humaneval import metrics_of, read_problems
from raymill.evaluate.lm_eval_tasks import with_score
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


def run_heldout(
    context: JobContext,
    pool: ActorPool,
    rows: Sequence[Row],
    config: EvaluateConfig,
    task: str,
    gguf: Path | None = None,
) -> TaskResult:
    """Held-out exact match of the pool's model, or of the file `gguf` when the pool holds GgufModels."""
    label = task if gguf is None else f"{task}-{gguf.stem}"
    log = SampleLog(context.work_dir / "samples" / f"{label}.jsonl")
    done = {record["index"] for record in log.records}
    batches = batches_of([row for row in rows if row.index not in done], config.batch)
    if done:
        context.event(
            "log", text=f"{label}: {len(done)} of {len(rows)} samples are there from an earlier attempt"
        )

    def finished(position: int, result: Any) -> None:
        answers: list[Answer] = result if gguf is None else result["answers"]
        log.add(record_of(row, answer) for row, answer in zip(batches[position], answers, strict=True))
        context.event("progress", done=len(log.records), total=len(rows), what="samples", task=label)

    calls = [
        ([row.messages for row in batch], config.max_new_tokens, [row.tools for row in batch])
        for batch in batches
    ]
    pool.map("generate", calls if gguf is None else [(str(gguf), *call) for call in calls], finished)
    records = sorted(log.records, key=lambda record: int(record["index"]))
    score = exact_match(records)
    return TaskResult({task: score}, {task: records}, {task: {"exact_match": score}})


def run_lm_eval(
    context: JobContext, pool: ActorPool, task: LmEvalTask | BenchmarkTask, config: EvaluateConfig, name: str
) -> TaskResult:
    """A task of lm-eval (or the tasks of a group), or a benchmark from a file, on the pool's model.

    A shard of an earlier attempt is kept whole: the log holds one line for each shard.
    """
    log = SampleLog(context.work_dir / "samples" / f"lm-eval-{name}-parts.jsonl")
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
    found = TaskResult(metrics[0]["primary"], scored, metrics[0]["all"])
    return of_one_name(task.label, found) if isinstance(task, BenchmarkTask) else found


def of_one_name(name: str, found: TaskResult) -> TaskResult:
    """The leaf tasks of a benchmark as one task: each metric is its mean over all rows, as lm-eval's groups have it.

    Where there are several, `details` has also the metrics of each, as `METRIC,LEAF`.
    """
    sizes = {leaf: len({record["index"] for record in records}) for leaf, records in found.records.items()}

    def mean(values: dict[str, float]) -> float:
        return sum(values[leaf] * size for leaf, size in sizes.items()) / sum(sizes.values())

    kinds = next(iter(found.details.values()))
    details = {kind: mean({leaf: found.details[leaf][kind] for leaf in sizes}) for kind in kinds}
    if len(sizes) > 1:
        details |= {f"{kind},{leaf}": found.details[leaf][kind] for leaf in sizes for kind in kinds}
    records = [{**record, "leaf": leaf} for leaf, records in found.records.items() for record in records]
    records.sort(key=lambda record: (int(record["index"]), str(record["filter"])))
    return TaskResult({name: mean(found.metrics)}, {name: records}, {name: details})


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
