"""The wire types of drift: what is watched, and what each look found."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Literal

from pydantic import Field

from raymill.client.control_types import NAME, Body
from raymill.client.types import JsonObject, Wire
from raymill.registry.drift_config import DriftConfig

Severity = Literal["none", "minor", "major"]


class DriftWatch(Wire):
    """Looks for drift of a served model, or of what a route is asked, on a schedule."""

    id: uuid.UUID
    name: str
    config: DriftConfig
    enabled: bool
    next_at: dt.datetime | None
    """When it looks next; null: only by hand."""
    last_job_id: uuid.UUID | None
    """Of the newest look, also of one that failed: `raymill jobs show`."""
    severity: Severity | None
    """Of the newest look that came to its end; null: there was none."""
    looked_at: dt.datetime | None
    created_by: str
    created_at: dt.datetime


class DriftRequest(Body):
    """Body of `POST /api/v1/drift`."""

    name: str = Field(pattern=NAME)
    config: DriftConfig
    enabled: bool = True


class LookRequest(Body):
    """Body of `POST /api/v1/drift/NAME/run`."""

    baseline: bool = False
    """Later canary scores are held against those of this look."""


class Look(Wire):
    """A look that was asked for."""

    job_id: uuid.UUID


class DriftRun(Wire):
    """What one look found."""

    id: uuid.UUID
    watch: str
    job_id: uuid.UUID
    severity: Severity
    news: bool
    """Worse than the look before: triggers were told, and `action` was taken."""
    action: Literal["", "tell", "freeze", "rollback"]
    reasons: list[str]
    version: int | None
    """Of the target, when it was asked."""
    promotion_id: uuid.UUID | None = None
    """Of the canary that was asked beside it; null: the target itself was."""
    canary: JsonObject | None
    """measure, prompts, mean, interval; compared: with the baseline, as versions are compared."""
    traffic: JsonObject | None
    """windows, requests, shifts (psi, ks and more of each feature); skipped: why nothing was compared."""
    baseline: bool
    at: dt.datetime
