"""What a promotion may say of its canary. Light: pydantic and the standard library alone.

Units: shares and rates from 0 to 1, seconds, requests; a ratio has none.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

DAY_S = 24 * 3600


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class CanaryLimits(Section):
    """From where on the new version is taken back. Null: that is not looked at."""

    error_rate: float | None = Field(default=0.01, ge=0, le=1)
    """Its rate of errors is above the current version's by more than this, and that is no chance."""

    max_error_rate: float = Field(default=0.5, gt=0, le=1)
    """Of its first 20 requests or more so many fail: taken back at once."""

    latency_ratio: float | None = Field(default=1.5, ge=1)
    """Its p95 of the latency is more than so many times the current version's, and that is no chance."""

    score_drop: float | None = Field(default=0.1, ge=0, le=2)
    """The mean score of its feedback (-1 to 1) is lower by more than this, and that is no chance."""

    drift: Literal["minor", "major"] | None = "major"
    """A watch that looked at the new version meanwhile found drift of this severity or a worse one."""


class CanaryConfig(Section):
    """How much of an alias's traffic a new version gets before the alias moves, for how long, and what takes it back."""

    share: float | None = Field(default=None, gt=0, le=0.9)
    """Of the alias's requests; 0.1 when neither this nor `steps` is given."""

    steps: tuple[float, ...] | None = Field(default=None, min_length=1, max_length=10)
    """Or several shares, one after the other, each greater than the one before."""

    for_s: float = Field(default=3600, ge=0, le=30 * DAY_S)
    """Each share lasts at least so long."""

    min_requests: int = Field(default=200, ge=20, le=10_000_000)
    """And until both versions have answered so many; of fewer nothing is said but by `max_error_rate`."""

    max_s: float = Field(default=7 * DAY_S, gt=0, le=90 * DAY_S)
    """A share that has not come to its end by then, for too few requests, ends the canary."""

    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    """How often a version that is no worse is taken back by chance, over all looks of the whole canary."""

    limits: CanaryLimits = CanaryLimits()

    @model_validator(mode="after")
    def makes_sense(self) -> CanaryConfig:
        if self.share is not None and self.steps is not None:
            raise ValueError("share and steps are given: leave share out, the first of the steps is it")
        shares = self.shares
        if not all(0 < share <= 0.9 for share in shares):
            raise ValueError(f"steps is {list(shares)}: give shares above 0 and up to 0.9")
        if any(after <= before for before, after in pairwise(shares)):
            raise ValueError(f"steps is {list(shares)}: each must be greater than the one before")
        if self.max_s < self.for_s:
            raise ValueError(f"max_s is {self.max_s:g} and for_s {self.for_s:g}: let max_s be the longer one")
        return self

    @property
    def shares(self) -> tuple[float, ...]:
        return self.steps or (self.share if self.share is not None else 0.1,)
