"""What a watch for drift may say. Light: pydantic and the standard library alone.

Units: hours, rows, tokens; scores and PSI have none.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

TARGET = r"^[a-z0-9][a-z0-9._-]{0,63}@[a-z0-9][a-z0-9._-]{0,63}$"
DATASET = r"^[a-z0-9][a-z0-9._-]{0,63}(@[1-9][0-9]{0,8})?$"
Action = Literal["tell", "freeze", "rollback"]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Canary(Section):
    """Prompts with known answers that the served version is asked again and again."""

    dataset: str | None = Field(default=None, pattern=DATASET)
    """A registered data set, `NAME` or `NAME@NUMBER`, whose held-out rows are asked; the newest when the watch is made."""

    file: str | None = Field(default=None, min_length=1, max_length=4096, pattern="^/")
    """Or a jsonl file of the service's machine, with rows in normal form."""

    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """Of the file, in hex; the service fills it in. Another file than this is refused."""

    limit: int = Field(default=200, ge=1, le=2000)
    """The first so many rows."""

    measure: Literal["exact_match", "f1"] = "f1"
    max_new_tokens: int = Field(default=128, ge=1, le=8192)
    minor: float = Field(default=0.02, ge=0, le=1)
    """A drop of the mean score that is no chance is minor from here on."""

    major: float = Field(default=0.1, ge=0, le=1)

    @model_validator(mode="after")
    def one_source(self) -> Canary:
        if (self.dataset is None) == (self.file is None):
            raise ValueError("a canary needs either dataset or file: give exactly one")
        _check_levels(self.minor, self.major)
        return self


class Traffic(Section):
    """What the gateway kept of a route's requests: a reference window against a recent one."""

    route: str = Field(min_length=1, max_length=200)
    """The model name that is asked for; the route must keep its traces."""

    recent_hours: int = Field(default=24, ge=1, le=24 * 90)
    reference_hours: int = Field(default=168, ge=1, le=24 * 365)
    reference_until: AwareDatetime | None = None
    """Where the reference ends, for one that stays; null: where the recent window begins."""

    min_requests: int = Field(default=100, ge=30)
    """In each window; of fewer nothing is said."""

    max_requests: int = Field(default=20_000, ge=30, le=200_000)
    """Of each window the first so many."""

    minor: float = Field(default=0.1, gt=0)
    """PSI of a shift that is no chance."""

    major: float = Field(default=0.25, gt=0)
    alpha: float = Field(default=0.01, gt=0, lt=0.5)
    """Shared by all features."""

    @model_validator(mode="after")
    def levels_rise(self) -> Traffic:
        _check_levels(self.minor, self.major)
        return self

    def windows(self, until: dt.datetime) -> tuple[tuple[dt.datetime, dt.datetime], ...]:
        """Beginning and end of the reference and of the recent window."""
        recent = until - dt.timedelta(hours=self.recent_hours)
        end = min(self.reference_until or recent, recent)
        return (end - dt.timedelta(hours=self.reference_hours), end), (recent, until)


class DriftConfig(Section):
    """What is watched, when, and what follows."""

    target: str | None = Field(default=None, pattern=TARGET)
    """`MODEL@ALIAS` or `MODEL@NUMBER`: who is asked the canaries, and whose alias is held or moved."""

    canary: Canary | None = None
    traffic: Traffic | None = None
    schedule: str | None = Field(default=None, max_length=200)
    """Cron, five fields; null: only by hand."""

    timezone: str = Field(default="UTC", max_length=64)
    on_minor: Action = "tell"
    """tell: triggers hear of it, and no more. freeze: the alias moves no more until somebody lets it. rollback: the alias
    goes back to the version before, if policy and signature hold for that today."""

    on_major: Action = "tell"

    @model_validator(mode="after")
    def whole(self) -> DriftConfig:
        if self.canary is None and self.traffic is None:
            raise ValueError("nothing is watched: give canary, traffic or both")
        if self.canary is not None and self.target is None:
            raise ValueError(
                "canaries are asked of a served version: give target, such as support@production"
            )
        if self.acts and (self.target is None or re.search(r"@[0-9]+$", self.target)):
            raise ValueError("freeze and rollback are of an alias: give target, such as support@production")
        return self

    @property
    def acts(self) -> bool:
        """Whether it may hold or move an alias."""
        return {self.on_minor, self.on_major} != {"tell"}


def _check_levels(minor: float, major: float) -> None:
    if minor > major:
        raise ValueError(f"minor is {minor:g} and major {major:g}: minor comes first")
