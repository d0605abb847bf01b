"""What a judge is asked to do. Light: imports nothing but pydantic.

A judge is a model that reads answers which were kept by evaluations. `pairwise`: which of two is better, asked in both
orders. `rubric`: how good one is, on a scale.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from raymill.evaluate.base_config import Config
from raymill.evaluate.target_config import GATEWAY, KEY_ENV, AskConfig, check_key

Label = Literal["a", "b", "tie"]


class LabelsConfig(Config):
    """What people said of the same examples."""

    file: str = Field(min_length=1)
    """Path of a jsonl, jsonl.gz or parquet file whose rows have `label` (a, b or tie; of a rubric a number of its scale) and
    `index` or `doc_hash`, which tell the example."""

    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """Of the file, in hex; None: the service fills it in. Another file than this is refused."""

    source: str = Field(min_length=1, max_length=200)
    """Whose they are, as it is told beside the agreement: `two support agents, June`."""


class Judgement(Config):
    """Body of `POST /api/v1/evaluations/judge`."""

    a: str = Field(min_length=1, max_length=400)
    """Whose answers: a target that was measured on `task`."""

    b: str | None = Field(default=None, min_length=1, max_length=400)
    """Of `pairwise`, the other."""

    kind: Literal["pairwise", "rubric"] = "pairwise"

    judge: str = Field(min_length=1, max_length=400)
    """A name that the gateway answers for; `URL#NAME` takes an admin."""

    task: str = Field(default="heldout_exact_match", min_length=1, max_length=128)
    """Whose samples are judged."""

    rubric: str = Field(default="", max_length=20_000)
    """What makes an answer good, in words; empty: being correct, complete and to the point."""

    scale: int = Field(default=5, ge=2, le=10)
    """Of `rubric`: the best mark; the worst is 1."""

    show_reference: bool = True
    """Show the judge the answer that the data has."""

    name: str = Field(default="judge", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    """Of the samples, and of `rubric` the task under which the score stands."""

    limit: int | None = Field(default=None, ge=1)
    """The first so many examples; None: all of them."""

    max_new_tokens: int = Field(default=512, ge=16)
    """Of a verdict."""

    labels: LabelsConfig | None = None
    key_env: str | None = Field(default=None, pattern=KEY_ENV)
    """As of a target: variable with the key of `URL#NAME`."""

    ask: AskConfig = AskConfig()

    @property
    def target(self) -> str:
        """The judge as a target."""
        return self.judge if self.judge.startswith((GATEWAY, "http://", "https://")) else GATEWAY + self.judge

    @model_validator(mode="after")
    def goes_together(self) -> Judgement:
        if (self.kind == "pairwise") == (self.b is None):
            raise ValueError(
                "pairwise compares two: name b"
                if self.b is None
                else f"a rubric is of one target, and b is {self.b}: leave b out, and judge it by itself"
            )
        if self.kind == "rubric" and not self.rubric.strip():
            raise ValueError("rubric is empty: say what makes an answer good")
        check_key(self.key_env, self.target)
        return self
