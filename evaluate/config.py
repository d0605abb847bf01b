"""What a recipe may say about evaluation and quantization. Light: imports nothing but pydantic.

Units: rows of the held-out set, tokens. A task's name is the key of its metric in the results.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

HELDOUT: Literal["heldout_exact_match"] = "heldout_exact_match"

QUANTIZATION_TYPES = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q2_K")
"""llama.cpp's file types that we make, the largest first."""


class Config(BaseModel):
    """Frozen, and a field that does not exist is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


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
    def is_file(self) -> bool:
        return PurePath(self.lm_eval).suffix in {".yaml", ".yml"}


def read_task(value: Any) -> Any:
    """`heldout_exact_match`, the path of a YAML file, or a mapping with `lm_eval`."""
    if not isinstance(value, str) or value == HELDOUT:
        return value
    if PurePath(value).suffix in {".yaml", ".yml"}:
        return {"lm_eval": value}
    raise ValueError(
        f"{value!r} is no evaluation task: use {HELDOUT}, the path of an lm-eval YAML file, or {{lm_eval: NAME}}"
    )


Task = Annotated[Literal["heldout_exact_match"] | LmEvalTask, BeforeValidator(read_task)]


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
            if task in seen:
                raise ValueError(
                    f"task {task if isinstance(task, str) else task.lm_eval!r} is listed twice: name it once"
                )
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
