"""What both sides of `make bench-evaluate` work on: a small Llama of random weights, and rows of the benchmarks.

The rows come from a folder with the public files, or are made in the same layouts. Each suite's rows are written
twice: in the public layout for our side, and as lm-eval's own tasks read them, with a task file, for its command.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from benchmarks.own_model import Size, write_weights

from raymill.evaluate.benchmark_config import BenchmarkTask
from raymill.evaluate.benchmark_tasks import FOLDERS
from raymill.evaluate.benchmarks import packaged_tasks, read_benchmark
from raymill.train.tokenizer import train_tokenizer

Row = dict[str, Any]

VOCAB = 4096
FILES = {
    "mmlu": "mmlu.jsonl",
    "mmlu_dev": "mmlu_dev.jsonl",
    "hellaswag": "hellaswag.jsonl",
    "arc_challenge": "arc_challenge.jsonl",
    "truthfulqa": "truthfulqa.jsonl",
    "gsm8k": "gsm8k.jsonl",
    "gsm8k_train": "gsm8k_train_200.jsonl",
}
SPLITS = {"hellaswag": "validation", "truthfulqa_mc1": "validation", "truthfulqa_mc2": "validation"}


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Tasks that are run in one command."""

    name: str
    tasks: list[Row]
    """Of a recipe."""

    names: list[str]
    """Of lm-eval's tasks."""

    folder: Path
    """Where their files lie."""

    leaves: dict[str, str]
    """lm-eval's name -> the name of its results on our side."""


def rows_of(data: Path | None) -> dict[str, list[Row]]:
    """The rows of each file of `data`; made ones without it."""
    if data is None:
        return made_rows()
    return {
        name: [
            json.loads(line) for line in (data / file).read_text(encoding="utf-8").split("\n") if line.strip()
        ]
        for name, file in FILES.items()
    }


def made_rows() -> dict[str, list[Row]]:
    """Random words in the public layouts, about as long as the real ones."""
    draw = random.Random(0)
    letters = "aeioubcdfglmnprst"
    words = ["".join(draw.choices(letters, k=draw.randint(2, 8))) for _ in range(3000)]

    def text(shortest: int, longest: int) -> str:
        return " ".join(draw.choices(words, k=draw.randint(shortest, longest)))

    def question(subject: str) -> Row:
        choices = [text(2, 12) for _ in range(4)]
        return {
            "subject": subject,
            "question": text(15, 60) + "?",
            "choices": choices,
            "answer": draw.randrange(4),
        }

    def sum_of(number: int) -> Row:
        answer = f"{text(30, 60)} <<{number}+1={number + 1}>>{number + 1}\n#### {number + 1}"
        return {"question": text(30, 60) + "?", "answer": answer}

    subjects = ("anatomy", "astronomy")
    return {
        "mmlu": [question(subject) for subject in subjects for _ in range(60)],
        "mmlu_dev": [question(subject) for subject in subjects for _ in range(5)],
        "hellaswag": [
            {"ctx": text(30, 60), "endings": [text(15, 35) for _ in range(4)], "label": draw.randrange(4)}
            for _ in range(100)
        ],
        "arc_challenge": [
            {
                "question": text(15, 40) + "?",
                "choices": {"text": [text(3, 10) for _ in range(4)], "label": list("ABCD")},
                "answerKey": "B",
            }
            for _ in range(100)
        ],
        "truthfulqa": [
            {
                "Question": text(6, 15) + "?",
                "Best Answer": text(8, 15),
                "Correct Answers": "; ".join(text(8, 15) for _ in range(3)),
                "Incorrect Answers": "; ".join(text(8, 15) for _ in range(4)),
            }
            for _ in range(100)
        ],
        "gsm8k": [sum_of(number) for number in range(60)],
        "gsm8k_train": [sum_of(number) for number in range(60, 120)],
    }


def suites(rows: dict[str, list[Row]], counts: dict[str, int], folder: Path) -> list[Suite]:
    """The three suites: zero-shot tasks of log-likelihoods, five-shot MMLU, GSM8K.

    Args:
        counts: rows of each task of a suite, by the suite's name.
    """
    by_subject = itertools.groupby(rows["mmlu"], key=lambda row: row["subject"])
    subjects = [(subject, list(group)) for subject, group in by_subject]
    large = sorted(subjects, key=lambda pair: -len(pair[1]))[:2]
    dev = [row for row in rows["mmlu_dev"] if row["subject"] in dict(large)]
    zero = counts["zero_shot"]
    few = [row for _, group in large for row in group[: counts["five_shot_mmlu"] // 2]]
    tasks: dict[str, list[tuple[str, list[Row], list[Row], int]]] = {
        "zero_shot": [
            ("hellaswag", rows["hellaswag"][:zero], [], 0),
            ("arc_challenge", rows["arc_challenge"][:zero], [], 0),
            ("truthfulqa_mc1", rows["truthfulqa"][:zero], [], 0),
            ("truthfulqa_mc2", rows["truthfulqa"][:zero], [], 0),
            ("mmlu", [row for _, group in large for row in group[: zero // 2]], [], 0),
        ],
        "five_shot_mmlu": [("mmlu", few, dev, 5)],
        "gsm8k": [("gsm8k", rows["gsm8k"][: counts["gsm8k"]], rows["gsm8k_train"], 5)],
    }
    return [_suite(name, each, folder / name) for name, each in tasks.items()]


def _suite(name: str, tasks: list[tuple[str, list[Row], list[Row], int]], folder: Path) -> Suite:
    folder.mkdir(parents=True)
    recipe: list[Row] = []
    leaves: dict[str, str] = {}
    for benchmark, rows, examples, shots in tasks:
        task: Row = {"benchmark": benchmark, "file": str(_write(folder / f"{benchmark}.jsonl", rows))}
        if not benchmark.startswith("truthfulqa"):
            task["num_fewshot"] = shots
        if examples:
            task["fewshot_file"] = str(_write(folder / f"{benchmark}-solved.jsonl", examples))
        recipe.append(task)
        for leaf, found in read_benchmark(BenchmarkTask.model_validate(task)).items():
            leaves[f"bench_{name}_{leaf}"] = leaf
            _task_file(f"bench_{name}_{leaf}", leaf, found.rows, found.examples, shots, folder)
    return Suite(name=name, tasks=recipe, names=list(leaves), folder=folder, leaves=leaves)


def _task_file(name: str, leaf: str, rows: list[Row], examples: list[Row], shots: int, folder: Path) -> None:
    """A task of lm-eval that is its own one but for the data set."""
    within = Path("mmlu") / "default" if leaf.startswith("mmlu_") else Path(FOLDERS[leaf])
    asked = SPLITS.get(leaf, "test")
    solved = "dev" if leaf.startswith("mmlu_") else "train"
    settings: Row = {
        "include": str(packaged_tasks() / within / f"{leaf}.yaml"),
        "task": name,
        "tag": None,
        "dataset_path": "json",
        "dataset_name": None,
        "num_fewshot": shots,
    }
    settings |= dict.fromkeys(("training_split", "validation_split", "test_split", "fewshot_split"))
    if leaf == "hellaswag" and "ctx" in rows[0]:
        from lm_eval.tasks.hellaswag.utils import preprocess

        rows = [
            {
                "query": preprocess(row["ctx"]),
                "choices": [preprocess(ending) for ending in row["endings"]],
                "label": row["label"],
            }
            for row in rows
        ]
        settings["process_docs"] = None
    files = {asked: str(_write(folder / f"{name}.jsonl", rows))}
    settings[f"{asked}_split"] = asked
    if examples:
        files[solved] = str(_write(folder / f"{name}-solved.jsonl", examples))
        settings["fewshot_split"] = solved
    settings["dataset_kwargs"] = {"data_files": files}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings))


def _write(path: Path, rows: list[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_model(directory: Path, texts: list[str], size: Size) -> None:
    """A Llama of random weights, wide apart so that likeliest tokens have no near ties, and its tokenizer."""
    directory.mkdir()
    train_tokenizer(texts, VOCAB, directory)
    write_weights(directory, size, intermediate=11 * size.hidden // 4, positions=4096, spread=0.1)


def main() -> None:
    """Write a model: TEXTS (a JSON list) DIRECTORY HIDDEN LAYERS. In a process of its own: what it imports is large."""
    texts, directory, hidden, layers = sys.argv[1:]
    size = Size(hidden=int(hidden), layers=int(layers))
    write_model(Path(directory), json.loads(Path(texts).read_text(encoding="utf-8")), size)


if __name__ == "__main__":
    main()
