"""Wire types of searches and their trials."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Literal

from pydantic import Field

from raymill.client.types import JsonObject, State, Wire

TrialState = Literal["running", "finished", "stopped", "failed"]
PlotKind = Literal["curves", "parallel"]


class Trial(Wire):
    """One training run of a search."""

    number: int
    config: JsonObject
    """Field of the recipe -> the value tried; with pbt the newest."""
    state: TrialState
    """running: or waiting for its turn. finished: trained to its end. stopped: others did better."""
    steps: int
    total_steps: int
    metric: float | None
    """At its last report."""
    reports: list[JsonObject]
    """Each with steps, final_loss, seconds, tokens, and validation_loss where rows were held out."""
    copies: list[JsonObject] = Field(default_factory=list)
    """With pbt: at which steps it took over the weights of which trial."""
    seconds: float
    error: str | None
    started_at: dt.datetime
    updated_at: dt.datetime


class Search(Wire):
    """A search over fields of a recipe: a job of kind `tune`."""

    id: uuid.UUID
    """Of its job."""
    pipeline_id: uuid.UUID | None
    name: str
    """Of the model."""
    state: State
    error: str | None
    search: str
    scheduler: str
    metric: str
    over: JsonObject
    """Field of the recipe -> the values to try."""
    size: int
    """Trials that it will have."""
    over_trials: int
    """Trials that have ended."""
    steps: int
    """Of all trials together."""
    best: JsonObject | None
    """Once it has ended: trial, values, metric."""
    version: int | None
    """Of the model that came of it."""
    created_at: dt.datetime
    finished_at: dt.datetime | None
    trials: list[Trial] = Field(default_factory=list)
    """By number; left out of lists."""
