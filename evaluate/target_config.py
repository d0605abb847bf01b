"""What can be evaluated by itself, outside a recipe: a target, and how it is asked. Light: imports nothing but pydantic.

    support@3, support@production      a version; support@3:Q4_K_M a GGUF file of it, support@3:base what it was trained from
    gateway:MODEL                      whatever the gateway answers for: a route, a preset, a served version, PROVIDER/MODEL
    https://HOST/v1#MODEL              an endpoint that speaks OpenAI's wire

The last two are asked over HTTP for answers, so they cannot do tasks that need likelihoods of given text.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from raymill.evaluate.base_config import Config
from raymill.evaluate.benchmark_config import BenchmarkTask
from raymill.evaluate.config import EvaluateConfig, LmEvalTask, PerplexityTask, Task, label_of

Backend = Literal["generation", "log-likelihood"]

GATEWAY = "gateway:"
ENDPOINT = re.compile(r"(?P<url>https?://[^\s#?]+)#(?P<model>\S(.*\S)?)")
KEY_ENV = r"^RAYMILL_TARGET_KEY_[A-Z0-9_]{1,64}$"
SCORED = ("multiple_choice", "loglikelihood", "loglikelihood_rolling")
"""What lm-eval calls the output of tasks that are asked for likelihoods."""

OUTPUT_TYPE = re.compile(r"^output_type:\s*[\"']?(\w+)", re.MULTILINE)


class Remote(NamedTuple):
    """A target that is asked over HTTP."""

    model: str
    """The name in its requests."""

    url: str | None
    """Of the endpoint, up to `/v1`; None: the gateway."""


def remote_of(target: str) -> Remote | None:
    """None for a version.

    Raises:
        ValueError: it begins as a remote target and names no model.
    """
    if target.startswith(GATEWAY):
        model = target.removeprefix(GATEWAY)
        if not model or model != model.strip():
            raise ValueError(f"{target!r} names no model: write it as gateway:gpt-4o")
        return Remote(model, None)
    if target.startswith(("http://", "https://")):
        found = ENDPOINT.fullmatch(target)
        if found is None:
            raise ValueError(f"{target[:100]!r} names no model: write it as https://HOST/v1#MODEL")
        return Remote(found["model"], found["url"].rstrip("/"))
    return None


def check_key(key_env: str | None, target: str) -> None:
    """Raises ValueError: a key is given for a target that is asked with none of the caller's."""
    remote = remote_of(target)
    if key_env is not None and (remote is None or remote.url is None):
        raise ValueError(f"key_env is {key_env}, and {target} takes no key of yours: leave it out")


def backend_of(task: Task) -> Backend:
    """What a task asks a model for: answers, or likelihoods of given text.

    An lm-eval task is what the `output_type` in its YAML file says; where it says nothing, or the file is not here,
    answers, as in lm-eval.
    """
    if isinstance(task, PerplexityTask):
        return "log-likelihood"
    if isinstance(task, BenchmarkTask):
        return "generation" if task.benchmark == "gsm8k" else "log-likelihood"
    if isinstance(task, LmEvalTask) and task.is_file and Path(task.lm_eval).is_file():
        said = OUTPUT_TYPE.search(Path(task.lm_eval).read_text(encoding="utf-8", errors="replace"))
        return "log-likelihood" if said is not None and said[1] in SCORED else "generation"
    return "generation"


class AskConfig(Config):
    """How a remote target, or a judge, is asked. Times are seconds."""

    concurrency: int = Field(default=8, ge=1, le=256)
    """Requests at once."""

    timeout_s: float = Field(default=120.0, gt=0, le=3600)
    """For one answer."""

    attempts: int = Field(default=6, ge=1, le=20)
    """Tries of one question on 408, 5xx, a broken connection or a timeout. A 429 is waited out, as Retry-After says."""

    patience_s: float = Field(default=900.0, gt=0)
    """After so long without a single answer the job gives up; what came is kept for its next attempt."""

    temperature: float | None = Field(default=0.0, ge=0, le=2)
    """Of answers; None: leave it out, for models that refuse it."""


class TargetEvaluation(EvaluateConfig):
    """Body of `POST /api/v1/evaluations`."""

    target: str = Field(min_length=1, max_length=400)
    """What is measured: `support@3`, `support@3:Q4_K_M`, `gateway:MODEL` or `https://HOST/v1#MODEL`."""

    dataset: str | None = Field(
        default=None, pattern=r"^[a-z0-9][a-z0-9._-]{0,63}(@[1-9]\d{0,8})?$", max_length=80
    )
    """Whose held-out rows are asked: `NAME` or `NAME@NUMBER`; None: those that a version was trained beside."""

    key_env: str | None = Field(default=None, pattern=KEY_ENV)
    """Variable in the service's environment that holds the endpoint's key."""

    ask: AskConfig = AskConfig()

    @field_validator("target")
    @classmethod
    def names_a_model(cls, target: str) -> str:
        remote_of(target)
        return target

    @model_validator(mode="after")
    def goes_together(self) -> TargetEvaluation:
        check_key(self.key_env, self.target)
        if remote_of(self.target) is None:
            return self
        for task in self.tasks:
            if backend_of(task) == "log-likelihood":
                raise ValueError(
                    f"{label_of(task)} needs likelihoods of given text, and {self.target} only answers: measure it on a "
                    "version, or take a task that is answered (held-out rows, gsm8k, bfcl, humaneval)"
                )
        return self
