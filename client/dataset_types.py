"""The wire types of data sets and uploads. Sizes and offsets are bytes."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from raymill.client.types import Dataset, JsonObject, Wire
from raymill.train.dataset_config import Contamination, DatasetSource, Duplicates, Purpose, Split

NAME = r"^[a-z0-9][a-z0-9._-]{0,63}$"
UPLOAD = "upload:"
"""Before an upload's id, where a path may stand."""

Part = Literal["train", "test"]


class Upload(Wire):
    """A file on its way to the service."""

    id: uuid.UUID
    name: str
    size_bytes: int
    sha256: str
    offset: int
    """How much has arrived."""
    complete: bool
    """All of it has, and is what was announced."""
    created_by: str
    created_at: dt.datetime


class UploadRequest(BaseModel):
    """Body of `POST /api/v1/uploads`."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=200)
    """Of the file, without its folder; its ending says what is in it."""
    size_bytes: int
    sha256: str = Field(max_length=64)


class CheckRequest(DatasetSource):
    """Body of `POST /api/v1/datasets/validate`. A file is an absolute path that the service can read, or `upload:ID`."""

    purpose: Purpose = "training"

    @model_validator(mode="after")
    def has_rows(self) -> Self:
        if self.train is None:
            raise ValueError("train is missing: name a file")
        if self.purpose == "evaluation" and (self.test is not None or self.split is not None):
            raise ValueError("all rows of an evaluation set are held out: remove test and split")
        return self


class DatasetRequest(CheckRequest):
    """Body of `POST /api/v1/datasets`."""

    name: str = Field(pattern=NAME)


class DatasetDetail(Dataset):
    """One version, with all that is known of it."""

    stats: JsonObject
    provenance: JsonObject
    """Which files, uploads or requests it was made of, by whom, and what was waived."""


class DatasetRow(Wire):
    """One row as it lies in the set."""

    number: int
    """From 1."""
    row: JsonObject


class TokenRequest(BaseModel):
    """Body of `POST /api/v1/datasets/{name}/stats` and `…/preview`: what a base's tokenizer makes of the rows."""

    model_config = ConfigDict(extra="forbid")

    base: str = Field(min_length=1, max_length=1000)
    """A folder in Hugging Face layout on the service's machine, or an artifact such as base/triage/0a1b2c3d4e5f."""
    number: int | None = Field(default=None, ge=1)
    part: Part = "train"
    max_tokens: int = Field(default=1024, ge=16)
    """Rows with more are counted as ones that would be cut."""
    rows: int = Field(default=5, ge=1, le=100)
    """Of a preview."""
    first: int = Field(default=1, ge=1)
    """The preview's first row."""


class TrafficRequest(BaseModel):
    """Body of `POST /api/v1/datasets/from-traffic`: a set of what was asked of the gateway and answered."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    name: str = Field(pattern=NAME)
    route: str = Field(min_length=1, max_length=200)
    """The model name that was asked for. Only routes with keep_traces have anything."""
    since: dt.datetime
    until: dt.datetime | None = None
    """None: now."""
    min_score: float | None = Field(default=None, ge=-1, le=1)
    """Only answers that somebody gave at least this; the least of several scores counts."""
    feedback: Literal["any", "scored", "corrected"] = "any"
    """any: answers without feedback too; scored: with a score or a correction; corrected: with a correction."""
    rows_as: Literal["conversations", "preferences"] = Field(default="conversations", alias="as")
    """preferences: a correction before the answer, a better answer before a worse one to the same prompt."""
    split: Split | None = None
    duplicates: Duplicates = "drop_exact"
    contamination: Contamination = Field(default_factory=Contamination)
