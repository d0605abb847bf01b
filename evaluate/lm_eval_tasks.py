"""lm-evaluation-harness on a model that an actor holds, with the documents of a task shared over actors.

Runs inside an actor: importing lm-eval takes seconds. With a task's YAML file nothing is downloaded;
paths in its `dataset_kwargs.data_files` are read from the folder of the file.

A shard evaluates documents that stand side by side, which share most of their prompts, and returns its samples;
`aggregate` then makes the task's metrics of all samples with the task's own functions, so sharing the work never
changes a number.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from raymill.evaluate.benchmark_config import BenchmarkTask
from raymill.evaluate.benchmark_tasks import benchmark_tasks
from raymill.evaluate.config import LmEvalTask
from raymill.policies.errors import Invalid, NotFound

SEED = 1234


class LmEvalTasks:
    """The leaf tasks behind one entry of a recipe: one, or those of a group."""

    def __init__(self, config: LmEvalTask | BenchmarkTask) -> None:
        self.config = config
        self.tasks: dict[str, Any]
        self.index: dict[str, list[int]] = {}
        """Leaf task -> place of each document in the file; missing: they are counted from 0."""

        if isinstance(config, BenchmarkTask):
            self.tasks, self.index = benchmark_tasks(config)
        else:
            self.tasks = listed_tasks(config)
        for task in self.tasks.values():
            task.set_fewshot_seed(seed=SEED)

    def shard(self, lm: Any, number: int, shards: int) -> dict[str, list[dict[str, Any]]]:
        """Samples of part `number` of `shards` equal parts of the documents, those of one leaf task after another's.

        Args:
            lm: a model as lm-eval takes it.
        """
        from lm_eval.evaluator import evaluate

        all_documents = [
            (name, place) for name, task in self.tasks.items() for place in self._documents(task)
        ]
        first, end = (len(all_documents) * part // shards for part in (number, number + 1))
        chosen: dict[str, list[int]] = defaultdict(list)
        for name, place in all_documents[first:end]:
            chosen[name].append(place)
        if not chosen:
            return {}
        results = evaluate(
            lm=lm,
            task_dict={"tasks": {name: self.tasks[name] for name in chosen}},
            samples=chosen,
            bootstrap_iters=0,
            apply_chat_template=self.config.chat_template,
            fewshot_as_multiturn=self.config.chat_template,
        )
        return {
            name: [
                self._located(name, record_of(sample, self.tasks[name].VERSION))
                for sample in results["samples"][name]
            ]
            for name in chosen
        }

    def _located(self, name: str, record: dict[str, Any]) -> dict[str, Any]:
        places = self.index.get(name)
        return record if places is None else {**record, "index": places[record["index"]]}

    def aggregate(self, samples: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, float]]:
        """Leaf task -> metric -> value. A metric that has several filters is named `metric,filter`.

        Raises:
            Invalid: the recipe asks for a metric that the task does not have.
        """
        found: dict[str, dict[str, float]] = {}
        for name, records in samples.items():
            task = self.tasks[name]
            values: dict[tuple[str, str], list[Any]] = defaultdict(list)
            for record in sorted(records, key=lambda record: record["index"]):
                for metric, value in json.loads(record["metrics"]).items():
                    values[metric, record["filter"]].append(value)
            filters = {filter_name for _, filter_name in values}
            found[name] = {
                metric if len(filters) == 1 else f"{metric},{filter_name}": float(
                    task.aggregation()[metric](items)
                )
                for (metric, filter_name), items in values.items()
            }
        return found

    def reported(self, samples: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
        """`primary` (task -> reported metric), `all` (task -> metric -> value) and `scored_by` (task -> arguments of
        `with_score`) of all samples."""
        metrics = self.aggregate(samples)
        chosen = self.primary(metrics)
        return {
            "primary": {name: metrics[name][metric] for name, metric in chosen.items()},
            "all": metrics,
            "scored_by": {
                name: (metric, self.higher_is_better(name, metric)) for name, metric in chosen.items()
            },
        }

    def primary(self, metrics: dict[str, dict[str, float]]) -> dict[str, str]:
        """Leaf task -> the name in `metrics` of the one metric that is reported.

        Raises:
            Invalid: the recipe asks for a metric that the task does not have.
        """
        chosen: dict[str, str] = {}
        for name, values in metrics.items():
            wanted = (
                self.config.reported
                if isinstance(self.config, BenchmarkTask)
                else self.config.metric or next(iter(self.tasks[name].aggregation()))
            )
            matching = [key for key in values if wanted in (key, key.split(",")[0])]
            if not matching:
                raise Invalid(f"task {name} has no metric {wanted!r}: use any of {', '.join(sorted(values))}")
            chosen[name] = matching[0]
        return chosen

    def higher_is_better(self, name: str, metric: str) -> bool:
        """Whether leaf task `name` says so of a metric; where it says nothing, it is."""
        return self.tasks[name].higher_is_better().get(metric.partition(",")[0]) is not False

    def _documents(self, task: Any) -> Iterable[int]:
        count = len(task.eval_docs)
        return range(count if self.config.limit is None else min(count, self.config.limit))


def listed_tasks(config: LmEvalTask) -> dict[str, Any]:
    """The leaf tasks of a YAML file, or of a name that lm-eval knows.

    Raises:
        NotFound: there is no such file, data file or task.
        Invalid: the file names no task.
    """
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_defaults=not config.is_file)
    spec: Any = task_dict(Path(config.lm_eval)) if config.is_file else config.lm_eval
    try:
        tasks: dict[str, Any] = manager.load([spec])["tasks"]
    except KeyError as error:
        raise NotFound(
            f"lm-eval knows no task {config.lm_eval!r}: name one of its tasks, or a YAML file"
        ) from error
    for task in tasks.values():
        if config.num_fewshot is not None:
            task.set_config(key="num_fewshot", value=config.num_fewshot)
        elif task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
    return tasks


def task_dict(path: Path) -> dict[str, Any]:
    """A task's YAML file with its includes and functions, and its data files as absolute paths.

    Raises:
        NotFound: the file, or a data file that it names, is not there.
        Invalid: the file names no task.
    """
    from lm_eval.tasks._yaml_loader import load_yaml

    if not path.is_file():
        raise NotFound(f"there is no task file {path}: give the path of an lm-eval YAML file")
    task: dict[str, Any] = load_yaml(path)
    if not isinstance(task.get("task"), str):
        raise Invalid(f"{path.name} names no task: add a line `task: NAME`")
    options = task.get("dataset_kwargs") or {}
    if "data_files" in options:
        task["dataset_kwargs"] = {**options, "data_files": absolute(options["data_files"], path.parent)}
    return task


def absolute(files: Any, folder: Path) -> Any:
    """`data_files` as lm-eval accepts them (a path, a list, a mapping of splits), seen from `folder`."""
    if isinstance(files, dict):
        return {split: absolute(value, folder) for split, value in files.items()}
    if isinstance(files, list):
        return [absolute(value, folder) for value in files]
    path = folder / files
    if not path.is_file():
        raise NotFound(f"there is no data file {path}: put it there, or change data_files in the task's file")
    return str(path)


def record_of(sample: dict[str, Any], task_version: object) -> dict[str, Any]:
    """One line of the published samples. `doc_hash` is what paired tests join on; `with_score` adds what they test."""
    return {
        "index": sample["doc_id"],
        "doc_hash": sample["doc_hash"],
        "filter": sample["filter"],
        "prompt": str(sample["arguments"][0][0]),
        "reference": str(sample["target"]),
        "answer": json.dumps(sample["filtered_resps"], default=str),
        "metrics": json.dumps({name: sample[name] for name in sample["metrics"]}, default=float),
        "task_version": str(task_version),
        "lm_eval_version": version("lm_eval"),
    }


def with_score(sample: dict[str, Any], metric: str, higher_is_better: bool) -> dict[str, Any]:
    """A line of the samples with the score that the reported metric, `name` or `name,filter`, gives this example.

    It is null under another filter, and where the metric has no number for one example (perplexity, BLEU).
    """
    name, _, wanted = metric.partition(",")
    value = json.loads(sample["metrics"]).get(name) if wanted in ("", sample["filter"]) else None
    score = float(value) if isinstance(value, int | float) else None
    return {**sample, "score": score, "metric": metric, "higher_is_better": higher_is_better}
