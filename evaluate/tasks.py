"""Run one evaluation task over a pool of actors, continuing where an earlier attempt was killed.

The driver's side: it imports neither torch nor lm-eval. What it needs of the job (progress, cancel,
scratch directory) comes as a `JobContext`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from raymill.cluster.context import JobContext
from raymill.evaluate import bfcl, perplexity
from raymill.evaluate.actors import ActorPool
from raymill.evaluate.benchmark_config import BenchmarkTask
from raymill.evaluate.benchmarks import read_benchmark
from raymill.evaluate.config import (
    BfclTask,
    EvaluateConfig,
    HumanEvalTask,
    JsonSchemaTask,
    LmEvalTask,
    PerplexityTask,
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
        elif isinstance(task, BfclTask):
            bfcl.read_questions(task)
        elif isinstance(task, PerplexityTask):
            perplexity.read_documents(task)
        elif isinstance(task, BenchmarkTask):
            read_benchmark(task)
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
    return judged(task, answered(context, pool, rows, "heldout", config.batch, config.max_new_tokens, gguf))


def judged(
    task: Literal["heldout_exact_match", "heldout_f1"] | JsonSchemaTask, answers: Sequence[Record]
) -> TaskResult:
    """A held-out measure of answers, however they came to be."""
    judge, means = judge_of(task)
    records = [{**record, **judge(record)} for record in answers]
    metrics = means_of(records, means)
    label = label_of(task)
    return TaskResult({label: metrics[next(iter(means))]}, {label: records}, {label: metrics})


def run_bfcl(
    context: JobContext, pool: ActorPool, task: BfclTask, config: EvaluateConfig, gguf: Path | None = None
) -> TaskResult:
    """Function calling of the pool's model, or of the file `gguf` when the pool holds GgufModels.

    Raises:
        Invalid: the model's chat template leaves tools out.
    """
    questions = bfcl.read_questions(task)
    rows = [question.row for question in questions]

    def told(row: Row, answer: Answer) -> None:
        bfcl.check_told(questions[row.index], answer["prompt"], context.name)

    answers = answered(
        context, pool, rows, f"bfcl-{task.name}", config.batch, task.max_new_tokens, gguf, told
    )
    return bfcl_result(task, questions, answers)


def bfcl_result(task: BfclTask, questions: Sequence[bfcl.Question], answers: Sequence[Record]) -> TaskResult:
    """Function calling by the answers to `questions`, however they came to be."""
    records = list(map(bfcl.with_verdict, questions, answers))
    metrics = bfcl.metrics_of(records)
    return TaskResult({task.name: metrics["accuracy"]}, {task.name: records}, {task.name: metrics})


def run_perplexity(
    context: JobContext,
    pool: ActorPool,
    task: PerplexityTask,
    config: EvaluateConfig,
    gguf: Path | None = None,
) -> TaskResult:
    """Perplexity of the pool's model, or of the file `gguf` when the pool holds GgufModels.

    A call is a number of windows; its line in the log is what the next attempt keeps.

    Raises:
        Invalid: the window does not fit into the model's context, or a likelihood is no number.
    """
    documents = perplexity.read_documents(task)
    file: tuple[str, ...] = () if gguf is None else (str(gguf),)
    encoded: dict[int, dict[str, Any]] = {}
    parts = [documents[start : start + config.batch] for start in range(0, len(documents), config.batch)]
    pool.map("encode", [(*file, [each.text for each in part]) for part in parts], encoded.__setitem__)
    ids = [row for number in range(len(parts)) for row in encoded[number]["ids"]]
    perplexity.check_tokens(ids, context.name)
    reading = perplexity.reading_of(task, encoded[0]["context"], context.name)
    spans = [
        span for number, row in enumerate(ids) for span in perplexity.spans_of(number, len(row), reading)
    ]
    calls = [spans[start : start + config.batch] for start in range(0, len(spans), config.batch)]
    label = task.name if gguf is None else f"{task.name}-{gguf.stem}"
    log = SampleLog(context.work_dir / "samples" / "windows" / f"{label}.jsonl")
    done = {line["call"] for line in log.records}
    left = [number for number in range(len(calls)) if number not in done]

    def finished(position: int, nlls: list[float]) -> None:
        for span, nll in zip(calls[left[position]], nlls, strict=True):
            perplexity.check_finite(nll, documents[span.document])
        log.add([{"call": left[position], "nll": nlls}])
        read = sum(len(line["nll"]) for line in log.records)
        context.event("progress", done=read, total=len(spans), what="windows", task=label)

    pool.map(
        "score",
        [
            (
                *file,
                [ids[span.document][span.begin : span.end] for span in calls[number]],
                [span.counted for span in calls[number]],
            )
            for number in left
        ],
        finished,
    )
    nll, tokens = [0.0] * len(documents), [0] * len(documents)
    for line in sorted(log.records, key=lambda line: int(line["call"])):
        for span, value in zip(calls[line["call"]], line["nll"], strict=True):
            nll[span.document] += value
            tokens[span.document] += span.counted
    records = [perplexity.record_of(*of, reading) for of in zip(documents, nll, tokens, strict=True)]
    metrics = perplexity.metrics_of(records)
    return TaskResult({task.name: metrics[task.metric]}, {task.name: records}, {task.name: metrics})


def answered(
    context: JobContext,
    pool: ActorPool,
    rows: Sequence[Row],
    name: str,
    batch: int,
    max_new_tokens: int,
    gguf: Path | None = None,
    look: Callable[[Row, Answer], None] = lambda row, answer: None,  # noqa: ARG005
) -> list[Record]:
    """The answer to each of `rows`, in their order; those in the log called `name` are not asked for again.

    Args:
        look: is shown each answer before it is kept, and may raise.
    """
    label = name if gguf is None else f"{name}-{gguf.stem}"
    log = SampleLog(context.work_dir / "samples" / "answers" / f"{label}.jsonl")
    done = {record["index"] for record in log.records}
    batches = batches_of([row for row in rows if row.index not in done], batch)
    if done and batches:
        context.event(
            "log", text=f"{label}: {len(done)} of {len(rows)} samples are there from an earlier attempt"
        )

    def finished(position: int, result: Any) -> None:
        answers: list[Answer] = result if gguf is None else result["answers"]
        for row, answer in zip(batches[position], answers, strict=True):
            look(row, answer)
        log.add(record_of(row, answer) for row, answer in zip(batches[position], answers, strict=True))
        context.event("progress", done=len(log.records), total=len(rows), what="samples", task=label)

    calls = [
        ([row.messages for row in each], max_new_tokens, [row.tools for row in each]) for each in batches
    ]
    pool.map("generate", calls if gguf is None else [(str(gguf), *call) for call in calls], finished)
    return sorted(log.records, key=lambda record: int(record["index"]))


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
    in_order(records)
    metrics: list[dict[str, Any]] = []
    pool.map("lm_eval_metrics", [(given, records)], lambda _, result: metrics.append(result))
    return lm_eval_result(task, records, metrics[0])


def in_order(records: dict[str, list[Record]]) -> None:
    """Samples of leaf tasks in the order of the documents."""
    for samples in records.values():
        samples.sort(key=lambda record: (int(record["index"]), str(record["filter"])))


def lm_eval_result(
    task: LmEvalTask | BenchmarkTask, records: dict[str, list[Record]], metrics: dict[str, Any]
) -> TaskResult:
    """
    Args:
        records: leaf task -> samples.
        metrics: as `LmEvalTasks.reported` gives them.
    """
    scored_by = metrics["scored_by"]
    scored = {
        leaf: [with_score(sample, *scored_by[leaf]) for sample in samples]
        for leaf, samples in records.items()
    }
    found = TaskResult(metrics["primary"], scored, metrics["all"])
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
    context: JobContext,
    pool: ActorPool,
    task: HumanEvalTask,
    config: EvaluateConfig,
    gguf: Path | None = None,
) -> TaskResult:
    """Problems of HumanEval: the pool's model (or the file `gguf` when the pool holds GgufModels) writes, and each
    answer is run where it was written, in a sandbox.

    A call is a number of answers, written and run; its line in the log is what the next attempt keeps.

    Raises:
        SandboxRefused: a node cannot run code safely; told before anything is written.
    """
    problems = read_problems(Path(task.humaneval), task.limit, task.sha256)
    given = task.model_dump(mode="json")
    pool.map("prove_sandbox", [(given,)], lambda _, __: None)
    asked = [(problem, sample) for problem in problems for sample in range(task.samples)]
    calls = [asked[start : start + config.batch] for start in range(0, len(asked), config.batch)]
    label = task.name if gguf is None else f"{task.name}-{gguf.stem}"
    log = SampleLog(context.work_dir / "samples" / f"{label}.jsonl")
    done = {line["call"] for line in log.records}
    left = [number for number in range(len(calls)) if number not in done]

    def finished(position: int, records: list[Record]) -> None:
        log.add([{"call": left[position], "records": records}])
        answered = sum(len(line["records"]) for line in log.records)
        context.event("progress", done=answered, total=len(asked), what="samples", task=label)

    programs = max(1, int(config.cpus_per_actor))
    file: tuple[str, ...] = () if gguf is None else (str(gguf),)
    pool.map("humaneval", [(*file, given, calls[number], number, programs) for number in left], finished)
    return humaneval_result(task, [record for line in log.records for record in line["records"]])


def humaneval_result(task: HumanEvalTask, records: list[Record]) -> TaskResult:
    """pass@k of programs that were run."""
    records.sort(key=lambda record: (record["index"], record["sample"]))
    metrics = metrics_of(records, task.k)
    return TaskResult({task.name: metrics[f"pass@{task.k[0]}"]}, {task.name: records}, {task.name: metrics})
