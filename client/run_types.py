"""Wire types of training runs: `/api/v1/runs`. Times as in `types`; losses are nats a token."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from raymill.client.types import JsonObject, State, Wire

ExportForm = Literal["adapter", "hf", "gguf", "gguf-adapter"]


class Run(Wire):
    """A training job: one that waits, runs or has ended. Its id is the job's."""

    id: uuid.UUID
    pipeline_id: uuid.UUID | None
    name: str
    kind: str
    """pretrain, train or tune (a search, and its best trial)."""
    method: str
    """pretrain, sft, tool, dpo or kto."""
    state: State
    step: int
    """Steps that are done, as far as it has told."""
    steps: int | None
    """Null until it has begun."""
    eta_s: float | None = None
    """How long it goes on, as its last step told."""
    metrics: JsonObject
    """final_loss, lowest_loss, tokens_per_s, seconds, validation_loss and more; empty before the first step."""
    version: int | None
    """Of the model `name`, once it is registered."""
    artifact: str | None
    adapter: str | None
    error: str | None
    created_at: dt.datetime
    started_at: dt.datetime | None
    finished_at: dt.datetime | None


class RunDetail(Run):
    config: JsonObject
    base: JsonObject | None
    """artifact and digest; null for a base that is made from text."""
    dataset: JsonObject | None


class RunPoints(Wire):
    """The curves of a run: one point for each step, thinned to at most 1000."""

    id: uuid.UUID
    name: str
    points: list[JsonObject]
    """step, loss, lr, grad_norm, tokens_per_s; or step and validation_loss."""


class RunComparison(Wire):
    """Runs side by side; the lists are in the order of `runs`."""

    runs: list[Run]
    config: dict[str, list[object]]
    """Only settings in which they differ, by dotted names; null where one has none."""
    metrics: dict[str, list[object]]
    curves: list[list[JsonObject]]


class RunExportRequest(BaseModel):
    """Body of `POST /api/v1/runs/{id}/exports`."""

    model_config = ConfigDict(extra="forbid")

    form: ExportForm
    """adapter, hf (adapters merged, Hugging Face layout), gguf, or gguf-adapter (the adapter alone, for llama.cpp's --lora)."""
    type: str = Field(default="F16", pattern=r"^[A-Z0-9_]{1,16}$")
    """Of the GGUF file, such as Q8_0."""


class ExportFile(Wire):
    path: str
    size_bytes: int
    sha256: str


class RunExport(Wire):
    """What there is to fetch; where a GGUF file must be made first, the job that makes it."""

    form: ExportForm
    type: str | None
    artifact: str | None
    files: list[ExportFile]
    job_id: uuid.UUID | None
