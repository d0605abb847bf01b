"""What a recipe may say about evaluation and quantization. Light: imports nothing but pydantic.

Units: rows of the held-out set, tokens. A task's name is the key of its metric in the results.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from raymill.evaluate.base_config import Config
from raymill.evaluate.benchmark_config import BenchmarkTask

HELDOUT: Literal["heldout_exact_match"] = "heldout_exact_match"

QUANTIZATION_TYPES = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q2_K")
"""llama.cpp's file types that we make, the largest first."""


class LmEvalTask(Config):
    """A task of lm-evaluation-harness."""

    lm_eval: str = Field(min_length=1)
    """Path of a task's YAML file (then nothing is downloaded), or a name that lm-eval knows (needs the hub)."""

    limit: int | None = Field(default=None, ge=1)
    """The first so many documents; None: all of them."""

    num_fewshot: int | None = Field(default=None, ge=0)
    """Solved examples before each question; None: what the task says."""

    metric: str | None = None
    """Which of the task's metrics is reported, such as `acc_norm`; None: the first one it lists."""

    chat_template: bool = False
    """Ask through the model's chat template."""

    @property
    def label(self) -> str:
        """How a recipe and a promotion's gate call it."""
        return self.lm_eval

    @property
    def is_file(self) -> bool:
        return PurePath(self.lm_eval).suffix in {".yaml", ".yml"}


class SandboxConfig(Config):
    """Limits for code that a model wrote. What cannot be enforced is refused, never left out."""

    isolation: Literal["full", "reduced"] = "full"
    """`full`: namespaces, a root of its own and seccomp. `reduced`, for machines that grant no namespaces: Landlock
    and seccomp; programs cannot write a file, and can tell whether a file is there, but not read it."""

    cpu_s: int = Field(default=5, ge=1, le=3600)
    """Seconds of processor time of a program, and of its tests."""

    wall_s: float = Field(default=20, gt=0, le=3600)
    """Seconds from start to verdict."""

    memory_mb: int = Field(default=512, ge=64)
    """MiB of address space."""

    disk_mb: int = Field(default=16, ge=1)
    """MiB of the program's own folder, which lies in memory."""

    output_kb: int = Field(default=1024, ge=1)
    """KiB that a program may print."""


class HumanEvalTask(Config):
    """Python functions that a model completes and tests judge. The metric is pass@k."""

    humaneval: str = Field(min_length=1)
    """Path of a jsonl, jsonl.gz or parquet file in the layout of HumanEval."""

    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """Of the file, in hex; None: the service fills it in. Another file than this is refused."""

    name: str = Field(default="humaneval", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    """Key of its metric."""

    limit: int | None = Field(default=None, ge=1)
    """The first so many problems; None: all of them."""

    chat_template: bool = False
    """Ask through the model's chat template, as lm-eval's `humaneval_instruct`; False: have the prompt completed."""

    samples: int = Field(default=1, ge=1, le=1000)
    """Answers to each problem: 1 is the most likely one (greedy), more are drawn."""

    k: tuple[int, ...] = Field(default=(1,), min_length=1)
    """Of pass@k: the chance that at least one of k answers passes. The first is the one that is reported."""

    temperature: float = Field(default=0.2, gt=0)
    """Of drawn answers."""

    top_p: float = Field(default=0.95, gt=0, le=1)
    """Of drawn answers: from the most likely tokens that have this probability together."""

    seed: int = Field(default=0, ge=0)
    """Of drawn answers."""

    max_new_tokens: int = Field(default=1024, ge=1)
    """An answer that is not finished by then is run as it stands."""

    sandbox: SandboxConfig = Field(default_factory=SandboxConfig)

    @property
    def label(self) -> str:
        """How a promotion's gate calls it."""
        return self.name

    @model_validator(mode="after")
    def enough_samples(self) -> HumanEvalTask:
        if (worst := max(self.k)) > self.samples or min(self.k) < 1:
            raise ValueError(
                f"pass@{worst} needs at least {worst} samples, got {self.samples}: raise samples, or lower k"
                if worst > self.samples
                else f"k counts answers, got {min(self.k)}: use 1 or more"
            )
        return self


def read_task(value: Any) -> Any:
    """`heldout_exact_match`, the path of a YAML file, or a mapping with `lm_eval`, `benchmark` or `humaneval`."""
    if not isinstance(value, str) or value == HELDOUT:
        return value
    if PurePath(value).suffix in {".yaml", ".yml"}:
        return {"lm_eval": value}
    raise ValueError(
        f"{value!r} is no evaluation task: use {HELDOUT}, the path of an lm-eval YAML file, {{lm_eval: NAME}}, "
        "{benchmark: NAME, file: FILE} or {humaneval: FILE}"
    )


def kind_of_task(value: Any) -> str:
    """Which member of `Task` a value is meant to be; the names are those of the classes."""
    if isinstance(value, HumanEvalTask) or (isinstance(value, dict) and "humaneval" in value):
        return "HumanEvalTask"
    if isinstance(value, BenchmarkTask) or (isinstance(value, dict) and "benchmark" in value):
        return "BenchmarkTask"
    return "LmEvalTask" if isinstance(value, LmEvalTask | dict) else "name"


Task = Annotated[
    Annotated[Literal["heldout_exact_match"], Tag("name")]
    | Annotated[LmEvalTask, Tag("LmEvalTask")]
    | Annotated[HumanEvalTask, Tag("HumanEvalTask")]
    | Annotated[BenchmarkTask, Tag("BenchmarkTask")],
    Discriminator(kind_of_task),
    BeforeValidator(read_task),
]


def label_of(task: Task) -> str:
    """What a recipe, and a promotion's gate, call a task."""
    return task if isinstance(task, str) else task.label


class EvaluateConfig(Config):
    """Which tasks, and how the work is spread."""

    tasks: tuple[Task, ...] = Field(default=("heldout_exact_match",), min_length=1)
    """Each becomes one metric."""

    limit: int | None = Field(default=None, ge=1)
    """The first so many rows of the held-out set; None: all of them."""

    max_new_tokens: int = Field(default=128, ge=1)
    """An answer that is not finished by then counts as it stands."""

    batch: int = Field(default=32, ge=1)
    """Prompts that one actor answers at once."""

    actors: int = Field(default=2, ge=1, le=1024)
    """Processes that each hold the model."""

    cpus_per_actor: float = Field(default=1, gt=0)
    """CPUs that each actor asks of Ray; also its threads."""

    gpus_per_actor: float = Field(default=0, ge=0)
    """GPUs that each actor asks of Ray."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the weights in memory. Batched and single answers agree in float32 only."""

    @field_validator("tasks")
    @classmethod
    def each_task_once(cls, tasks: tuple[Task, ...]) -> tuple[Task, ...]:
        seen: list[Task] = []
        for task in tasks:
            named = isinstance(task, HumanEvalTask | BenchmarkTask)
            same_name = named and label_of(task) in map(label_of, seen)
            if task in seen or same_name:
                raise ValueError(f"task {label_of(task)!r} is listed twice: name it once")
            seen.append(task)
        return tasks


class QuantizeConfig(Config):
    """Which GGUF files are made. A bare list of types is accepted too."""

    types: tuple[str, ...] = Field(min_length=1)
    """Any of QUANTIZATION_TYPES, each once."""

    parity_prompts: int = Field(default=50, ge=0)
    """Held-out prompts that are answered by Hugging Face and by each file; 0: no parity check."""

    max_new_tokens: int = Field(default=64, ge=1)
    """Of a parity answer."""

    @model_validator(mode="before")
    @classmethod
    def accept_a_list(cls, value: Any) -> Any:
        return {"types": value} if isinstance(value, list | tuple) else value

    @field_validator("types")
    @classmethod
    def known_types_once(cls, types: tuple[str, ...]) -> tuple[str, ...]:
        for name in types:
            if name not in QUANTIZATION_TYPES:
                raise ValueError(
                    f"{name!r} is no quantization type: use any of {', '.join(QUANTIZATION_TYPES)}"
                )
        if len(set(types)) < len(types):
            raise ValueError(f"a quantization type is listed twice in {', '.join(types)}: name each once")
        return types
