"""lm-evaluation-harness on a model that an actor holds, with the documents of a task shared over actors.

Runs inside an actor: importing lm-eval takes seconds. With a task's YAML file nothing is downloaded;
paths in its `dataset_kwargs.data_files` are read from the folder of the file.

A shard evaluates every n-th document and returns its samples; `aggregate` then makes the task's metrics
of all samples with the task's own functions, so sharing the work never changes a number.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from raymill.evaluate.config import LmEvalTask
from raymill.policies.errors import Invalid, NotFound

SEED = 1234


class LmEvalTasks:
    """The leaf tasks behind one entry of a recipe: one, or those of a group."""

    def __init__(self, config: LmEvalTask) -> None:
        from lm_eval.tasks import TaskManager

        self.config = config
        manager = TaskManager(include_defaults=not config.is_file)
        spec: Any = task_dict(Path(config.lm_eval)) if config.is_file else config.lm_eval
        try:
            self.tasks: dict[str, Any] = manager.load([spec])["tasks"]
        except KeyError as error:
            raise NotFound(
                f"lm-eval knows no task {config.lm_eval!r}: name one of its tasks, or a YAML file"
            ) from error
        for task in self.tasks.values():
            if config.num_fewshot is not None:
                task.set_config(key="num_fewshot", value=config.num_fewshot)
            elif task.get_config("num_fewshot") is None:
                task.set_config(key="num_fewshot", value=0)
            task.set_fewshot_seed(seed=SEED)

    def shard(
        self, model: Any, tokenizer: Any, number: int, shards: int, batch: int
    ) -> dict[str, list[dict[str, Any]]]:
        """Samples of documents `number`, `number + shards`... of each leaf task."""
        from lm_eval.evaluator import evaluate
        from lm_eval.models.huggingface import HFLM

        chosen = {name: list(self._documents(task))[number::shards] for name, task in self.tasks.items()}
        # An empty list would mean "all" to lm-eval.
        chosen = {name: documents for name, documents in chosen.items() if documents}
        if not chosen:
            return {}
        results = evaluate(
            lm=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch, backend="causal"),
            task_dict={"tasks": {name: self.tasks[name] for name in chosen}},
            samples=chosen,
            bootstrap_iters=0,
            apply_chat_template=self.config.chat_template,
        )
        return {name: [record_of(sample) for sample in results["samples"][name]] for name in chosen}

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

    def primary(self, metrics: dict[str, dict[str, float]]) -> dict[str, str]:
        """Leaf task -> the name in `metrics` of the one metric that is reported.

        Raises:
            Invalid: the recipe asks for a metric that the task does not have.
        """
        chosen: dict[str, str] = {}
        for name, values in metrics.items():
            wanted = self.config.metric or next(iter(self.tasks[name].aggregation()))
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


def record_of(sample: dict[str, Any]) -> dict[str, Any]:
    """One line of the published samples. `doc_hash` is what paired tests join on; `with_score` adds what they test."""
    return {
        "index": sample["doc_id"],
        "doc_hash": sample["doc_hash"],
        "filter": sample["filter"],
        "prompt": str(sample["arguments"][0][0]),
        "reference": str(sample["target"]),
        "answer": json.dumps(sample["filtered_resps"], default=str),
        "metrics": json.dumps({name: sample[name] for name in sample["metrics"]}, default=float),
    }


def with_score(sample: dict[str, Any], metric: str, higher_is_better: bool) -> dict[str, Any]:
    """A line of the samples with the score that the reported metric, `name` or `name,filter`, gives this example.

    It is null under another filter, and where the metric has no number for one example (perplexity, BLEU).
    """
    name, _, wanted = metric.partition(",")
    value = json.loads(sample["metrics"]).get(name) if wanted in ("", sample["filter"]) else None
    score = float(value) if isinstance(value, int | float) else None
    return {**sample, "score": score, "metric": metric, "higher_is_better": higher_is_better}
