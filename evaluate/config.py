"""What a recipe may say about evaluation. Light: imports nothing but pydantic.

Units: rows of the held-out set, tokens. A task's name is the key of its metric in the results.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Any, Literal, Self, TypeGuard

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
from raymill.registry.placement_config import Resources

HELDOUT: Literal["heldout_exact_match"] = "heldout_exact_match"
HELDOUT_F1: Literal["heldout_f1"] = "heldout_f1"


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


class JsonSchemaTask(Config):
    """Held-out answers that should be JSON of a given form. The metric is the share that is."""

    json_schema: str | dict[str, Any]
    """The schema, or the path of a JSON file with it."""

    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """Of the file, in hex; None: the service fills it in. Another file than this is refused."""

    name: str = Field(default="heldout_json_schema", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    """Key of its metric."""

    @property
    def label(self) -> str:
        """How a promotion's gate calls it."""
        return self.name

    @field_validator("json_schema")
    @classmethod
    def says_something(cls, schema: str | dict[str, Any]) -> str | dict[str, Any]:
        if not schema:
            raise ValueError("json_schema is empty, and anything would do: give a schema, or the path of one")
        return schema


class BfclTask(Config):
    """Questions that one call of a function answers. The metric is the share of right calls."""

    bfcl: str = Field(min_length=1)
    """Path of a jsonl, jsonl.gz or parquet file in the layout of BFCL's `simple`, answers in the same rows."""

    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """Of the file, in hex; None: the service fills it in. Another file than this is refused."""

    name: str = Field(default="bfcl", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    """Key of its metric."""

    limit: int | None = Field(default=None, ge=1)
    """The first so many questions; None: all of them."""

    max_new_tokens: int = Field(default=512, ge=1)
    """A call that is not finished by then is read as it stands."""

    @property
    def label(self) -> str:
        """How a promotion's gate calls it."""
        return self.name


class PerplexityTask(Config):
    """Text that a model is to find likely. The metric is a perplexity, and lower is better."""

    perplexity: str = Field(min_length=1)
    """Path of a .txt file, which is one document, or of a jsonl, jsonl.gz or parquet file whose rows have `text`."""

    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """Of the file, in hex; None: the service fills it in. Another file than this is refused."""

    name: str = Field(default="perplexity", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    """Key of its metric."""

    limit: int | None = Field(default=None, ge=1)
    """The first so many documents; None: all of them."""

    metric: Literal["word_perplexity", "token_perplexity", "byte_perplexity", "bits_per_byte"] = (
        "word_perplexity"
    )
    """Which one is reported; all are in the details. Tokens differ between tokenizers, words and bytes do not."""

    window: int | None = Field(default=None, ge=2)
    """Tokens that the model sees at once; None: 1024, or the model's context where that is less."""

    stride: int | None = Field(default=None, ge=1)
    """Tokens by which the window moves, less than it has; None: half of it."""

    @property
    def label(self) -> str:
        """How a promotion's gate calls it."""
        return self.name

    @model_validator(mode="after")
    def window_moves_on(self) -> PerplexityTask:
        if self.window is not None and self.stride is not None and self.stride >= self.window:
            raise ValueError(
                f"stride is {self.stride}, and the window {self.window}: lower stride, or raise window"
            )
        return self


def read_task(value: Any) -> Any:
    """The name of a held-out measure, the path of a YAML file, or a mapping with `lm_eval`, `benchmark` or a key of `KINDS`."""
    if not isinstance(value, str) or value in (HELDOUT, HELDOUT_F1):
        return value
    if PurePath(value).suffix in {".yaml", ".yml"}:
        return {"lm_eval": value}
    raise ValueError(
        f"{value!r} is no evaluation task: use {HELDOUT}, {HELDOUT_F1}, the path of an lm-eval YAML file, "
        f"{{lm_eval: NAME}}, {{benchmark: NAME, file: FILE}} or {' or '.join(f'{{{key}: FILE}}' for key in KINDS)}"
    )


KINDS = {
    "humaneval": "HumanEvalTask",
    "json_schema": "JsonSchemaTask",
    "bfcl": "BfclTask",
    "perplexity": "PerplexityTask",
}
"""Key that names a task's file -> the class of the task."""


def kind_of_task(value: Any) -> str:
    """Which member of `Task` a value is meant to be; the names are those of the classes."""
    if isinstance(value, dict):
        if "benchmark" in value:
            return "BenchmarkTask"
        return next((kind for key, kind in KINDS.items() if key in value), "LmEvalTask")
    return type(value).__name__ if isinstance(value, Config) else "name"


Task = Annotated[
    Annotated[Literal["heldout_exact_match", "heldout_f1"], Tag("name")]
    | Annotated[LmEvalTask, Tag("LmEvalTask")]
    | Annotated[HumanEvalTask, Tag("HumanEvalTask")]
    | Annotated[JsonSchemaTask, Tag("JsonSchemaTask")]
    | Annotated[BfclTask, Tag("BfclTask")]
    | Annotated[PerplexityTask, Tag("PerplexityTask")]
    | Annotated[BenchmarkTask, Tag("BenchmarkTask")],
    Discriminator(kind_of_task),
    BeforeValidator(read_task),
]


def label_of(task: Task) -> str:
    """What a recipe, and a promotion's gate, call a task."""
    return task if isinstance(task, str) else task.label


def is_heldout(task: Task) -> TypeGuard[Literal["heldout_exact_match", "heldout_f1"] | JsonSchemaTask]:
    """Whether a task judges the answers to the held-out rows, which all such tasks share."""
    return isinstance(task, str | JsonSchemaTask)


def runs_on_files(task: Task) -> bool:
    """Whether quantized files are measured by a task too."""
    return is_heldout(task) or isinstance(task, BfclTask | PerplexityTask | HumanEvalTask)


def file_of(task: Task) -> tuple[str, str] | None:
    """The key and the path of the file with a task's questions; None where it has none, or lm-eval reads it."""
    for key, kind in KINDS.items():
        if kind == type(task).__name__ and isinstance(path := getattr(task, key), str):
            return key, path
    return None


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

    resources: Resources | None = None
    """Which GPUs: `{accelerator: L4, gpus: 2}` sets `actors` and `gpus_per_actor` too. The step waits in its queue until
    they are free. None: it is started, and Ray decides."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the weights in memory. Batched and single answers agree in float32 only."""

    @model_validator(mode="before")
    @classmethod
    def an_actor_for_each_gpu(cls, data: Any) -> Any:
        asked = data.get("resources") if isinstance(data, dict) else None
        if not isinstance(asked, dict):
            return data
        gpus = asked.get("gpus", data.get("actors", 1))
        return {"actors": gpus, "gpus_per_actor": 1} | data | {"resources": {**asked, "gpus": gpus}}

    @model_validator(mode="after")
    def actors_hold_the_gpus(self) -> Self:
        held = self.actors * self.gpus_per_actor
        if self.resources is not None and held != self.resources.gpus:
            raise ValueError(
                f"resources.gpus is {self.resources.gpus}, {self.actors} actors of {self.gpus_per_actor:g} GPUs hold "
                f"{held:g}: leave actors and gpus_per_actor out, or make them agree"
            )
        return self

    @field_validator("tasks")
    @classmethod
    def each_task_once(cls, tasks: tuple[Task, ...]) -> tuple[Task, ...]:
        seen: list[Task] = []
        for task in tasks:
            same_name = not isinstance(task, LmEvalTask) and label_of(task) in map(label_of, seen)
            if task in seen or same_name:
                raise ValueError(f"task {label_of(task)!r} is listed twice: name it once")
            seen.append(task)
        return tasks
