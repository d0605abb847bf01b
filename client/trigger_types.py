"""The wire types of triggers and hooks: what starts pipelines, and what follows from their end.

A secret appears once, in the answer to what made it.
"""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Literal

from pydantic import Field

from raymill.client.control_types import NAME, Body
from raymill.client.types import JsonObject, Wire

TriggerKind = Literal["cron", "webhook", "dataset", "promotion", "drift"]
HookAction = Literal["webhook", "promote", "rollback"]
HookEvent = Literal[
    "job.succeeded",
    "job.failed",
    "job.dead",
    "job.cancelled",
    "pipeline.succeeded",
    "pipeline.failed",
    "pipeline.cancelled",
]


class Trigger(Wire):
    """Starts a pipeline when something happens."""

    id: uuid.UUID
    name: str
    on: TriggerKind
    config: JsonObject
    """cron: schedule, timezone. dataset: name. promotion: model, alias. drift: subject, empty for all."""
    recipe: JsonObject
    recipe_dir: str | None
    """What the recipe's relative paths start at; null: it has none."""
    enabled: bool
    next_at: dt.datetime | None
    """When a schedule comes next."""
    last_fired_at: dt.datetime | None
    last_pipeline_id: uuid.UUID | None
    last_error: str | None
    """Why the last event started no pipeline; null when it did."""
    created_by: str
    created_at: dt.datetime


class NewTrigger(Trigger):
    """Answer to `POST /api/v1/triggers`."""

    secret: str | None
    """Of a webhook: signs what its sender posts. Shown this once."""


class TriggerRequest(Body):
    """Body of `POST /api/v1/triggers`."""

    name: str = Field(pattern=NAME)
    on: TriggerKind
    config: JsonObject = Field(default_factory=dict)
    recipe: JsonObject
    recipe_dir: str | None = Field(default=None, min_length=1, max_length=4096, pattern="^/")
    """An absolute folder of the service's machine."""
    enabled: bool = True


class Switch(Body):
    """Body of `PATCH` of a trigger or hook."""

    enabled: bool


class DriftEvent(Body):
    """Body of `POST /api/v1/triggers/events`: something has drifted."""

    on: Literal["drift"] = "drift"
    subject: str = Field(min_length=1, max_length=200)
    """What has: a route, a model, a data set, as the trigger's config names it."""
    key: str = Field(min_length=1, max_length=200)
    """The same key of a subject is told of once."""
    data: JsonObject = Field(default_factory=dict)


class Told(Wire):
    """What became of an event."""

    new: bool
    """False: it was told of before, and starts nothing again."""


class Hook(Wire):
    """An action that follows the end of pipelines or their steps."""

    id: uuid.UUID
    name: str
    on: list[HookEvent]
    subject: str | None
    """Only of this model; null: of all."""
    action: HookAction
    config: JsonObject
    """webhook: url. promote: alias, require. rollback: alias."""
    enabled: bool
    created_by: str
    created_at: dt.datetime


class NewHook(Hook):
    """Answer to `POST /api/v1/hooks`."""

    secret: str | None
    """Of a webhook: signs what is sent. Shown this once."""


class HookRequest(Body):
    """Body of `POST /api/v1/hooks`."""

    name: str = Field(pattern=NAME)
    on: list[HookEvent] = Field(min_length=1, max_length=7)
    subject: str | None = Field(default=None, pattern=NAME)
    action: HookAction
    config: JsonObject = Field(default_factory=dict)
    enabled: bool = True
