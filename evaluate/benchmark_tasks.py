"""lm-eval's own tasks of the named benchmarks, with a local file in the place of their data set.

Runs inside an actor: importing lm-eval takes seconds. The tasks' settings lie inside the lm-eval package, so prompts,
choices, filters and metrics are those of its command. Nothing is downloaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from raymill.evaluate.benchmark_config import BenchmarkTask
from raymill.evaluate.benchmarks import BenchmarkRows, packaged_tasks, read_benchmark

FOLDERS = {
    "hellaswag": "hellaswag",
    "arc_challenge": "arc",
    "truthfulqa_mc1": "truthfulqa",
    "truthfulqa_mc2": "truthfulqa",
    "gsm8k": "gsm8k",
}
"""Where lm-eval keeps its task files, but for the subjects of MMLU."""


def benchmark_tasks(config: BenchmarkTask) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """Name of lm-eval's task -> the task, and -> the place of each of its documents in the file.

    Raises:
        NotFound, Invalid: as for `read_benchmark`.
    """
    from lm_eval.api.task import ConfigurableTask

    found = read_benchmark(config)
    tasks = {leaf: ConfigurableTask(config=task_config(leaf, rows)) for leaf, rows in found.items()}
    for task in tasks.values():
        task.set_config(key="num_fewshot", value=config.shots)
    return tasks, {leaf: rows.index for leaf, rows in found.items()}


def task_config(leaf: str, rows: BenchmarkRows) -> dict[str, Any]:
    """The settings of lm-eval's task `leaf`, with `rows` for its data."""
    from datasets import Dataset
    from lm_eval.tasks._yaml_loader import load_yaml

    folder = Path("mmlu") / "default" if leaf.startswith("mmlu_") else Path(FOLDERS[leaf])
    settings: dict[str, Any] = load_yaml(packaged_tasks() / folder / f"{leaf}.yaml")
    settings.pop("tag", None)
    asked = "test" if settings.get("test_split") else "validation"
    solved = str(settings.get("fewshot_split") or settings.get("training_split"))
    splits = {asked: Dataset.from_list(rows.rows)}
    if rows.examples:
        splits[solved] = Dataset.from_list(rows.examples)
    for key in ("training_split", "validation_split", "test_split", "fewshot_split"):
        settings[key] = settings[key] if settings.get(key) in splits else None
    if leaf == "hellaswag" and "ctx" in rows.rows[0]:
        settings["process_docs"] = of_context
    if leaf == "truthfulqa_mc2":
        settings["process_results"] = share_of_truth
    return {**settings, "custom_dataset": lambda **_: splits}


def of_context(documents: Any) -> Any:
    """HellaSwag's columns from rows that have `ctx` alone, as lm-eval makes them of the whole layout."""
    from lm_eval.tasks.hellaswag.utils import preprocess

    return documents.map(
        lambda row: {
            "query": preprocess(row["ctx"]),
            "choices": [preprocess(ending) for ending in row["endings"]],
            "gold": int(row["label"]),
        }
    )


def share_of_truth(document: dict[str, Any], results: list[tuple[float, bool]]) -> dict[str, float]:
    """MC2: how much of the probability of all answers lies on the true ones. `results` has their log-likelihoods.

    lm-eval's own has no number where all answers are less likely than a double can tell, below some -745.
    """
    nats = np.array([score for score, _ in results])
    likelihoods = np.exp(nats - nats.max())
    true = np.array(document["mc2_targets"]["labels"]) == 1
    return {"acc": float(likelihoods[true].sum() / likelihoods.sum())}
