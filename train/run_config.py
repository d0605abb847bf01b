"""What a run goes by beside its steps: rows to validate on, an early end. Light, as `config.py`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Config(BaseModel):
    """Frozen, and a field that does not exist is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Validate(Config):
    """Measure the loss on training rows that are held out, beside the training."""

    every: int = Field(default=100, ge=1)
    """Steps between two measurements; the last step is measured too."""

    share: float = Field(default=0.05, gt=0, lt=1)
    """Of the training rows, chosen by their hash. The test part is never used."""

    rows: int | None = Field(default=None, ge=1)
    """So many rows instead of a share."""


class EarlyStop(Config):
    """End the run when the loss on held-out rows has stopped falling."""

    patience: int = Field(default=3, ge=1)
    """Measurements without a better one after which it ends."""

    min_delta: float = Field(default=0.0, ge=0)
    """Better means lower by more than this, nats a token."""

    keep: Literal["best", "last"] = "best"
    """Which weights become the model: those with the lowest loss, or those at which it ended."""
