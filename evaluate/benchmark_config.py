"""What a recipe may say about a named benchmark that is read from a file. Light: imports nothing but pydantic.

Units: rows of the file, solved examples.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from raymill.evaluate.base_config import Config

Benchmark = Literal["mmlu", "hellaswag", "arc_challenge", "truthfulqa_mc1", "truthfulqa_mc2", "gsm8k"]

FEWSHOT: dict[str, int] = {"gsm8k": 5}
"""Solved examples before each question where a benchmark asks for some of itself."""

METRICS: dict[str, str] = {
    "mmlu": "acc",
    "hellaswag": "acc_norm",
    "arc_challenge": "acc_norm",
    "truthfulqa_mc1": "acc",
    "truthfulqa_mc2": "acc",
    "gsm8k": "exact_match,strict-match",
}
"""The metric under which each is customarily told."""


class BenchmarkTask(Config):
    """A public benchmark, asked with the prompts of lm-eval's task of that name, on rows of a local file."""

    benchmark: Benchmark
    """Which one: its prompts, its metrics and the layout of its file."""

    file: str = Field(min_length=1)
    """Path of a jsonl, jsonl.gz or parquet file in the public layout."""

    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """Of the file, in hex; None: the service fills it in. Another file than this is refused."""

    fewshot_file: str | None = Field(default=None, min_length=1)
    """Path of the file that solved examples are taken from: MMLU's dev rows, the training rows of the others."""

    fewshot_sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """Of that file, as `sha256`."""

    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    """Key of its metric; None: the benchmark's name."""

    limit: int | None = Field(default=None, ge=1)
    """The first so many rows; None: all of them. Of MMLU they are taken from each subject in turn."""

    num_fewshot: int | None = Field(default=None, ge=0)
    """Solved examples before each question; None: 5 for GSM8K, 0 for the others."""

    metric: str | None = None
    """Which metric is reported; None: `acc_norm` of HellaSwag and ARC, `exact_match,strict-match` of GSM8K, else `acc`."""

    chat_template: bool = False
    """Ask through the model's chat template."""

    @property
    def label(self) -> str:
        """How a promotion's gate calls it."""
        return self.name or self.benchmark

    @property
    def shots(self) -> int:
        """Solved examples before each question."""
        return FEWSHOT.get(self.benchmark, 0) if self.num_fewshot is None else self.num_fewshot

    @property
    def reported(self) -> str:
        """The metric that counts."""
        return self.metric or METRICS[self.benchmark]

    @model_validator(mode="after")
    def examples_come_from_somewhere(self) -> BenchmarkTask:
        if self.benchmark.startswith("truthfulqa") and (self.shots or self.fewshot_file):
            raise ValueError(
                f"{self.benchmark} has six solved examples in its prompt and takes no others: "
                "leave num_fewshot and fewshot_file out"
            )
        if self.shots and self.fewshot_file is None:
            raise ValueError(
                f"{self.benchmark} is asked with {self.shots} solved examples: name their file in fewshot_file, "
                "or set num_fewshot to 0"
            )
        return self
