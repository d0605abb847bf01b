"""The wire types of promotions that wait, of environments and of aliases that are held.

Times are ISO 8601 with a time zone; durations are seconds.
"""

from __future__ import annotations

import datetime as dt
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from raymill.client.types import Wire
from raymill.registry.canary_config import CanaryConfig

ApproverRole = Literal["operator", "approver", "admin"]


class Environment(Wire):
    """What a move of the aliases of one name takes besides the policy's consent."""

    name: str
    approvals: int
    """So many accounts other than the requester's must agree; 0: none."""
    roles: list[ApproverRole]
    """Whose approvals count."""
    after: str | None
    """A version must have been at this alias before."""
    expires_after_s: int
    """A request that was not executed by then never is."""
    policy: str | None = None
    """Whose newest version decides; null: the rules that Raymill ships."""
    canary: CanaryConfig | None = None
    """Of promotions that ask for none themselves; null: the alias moves at once."""


class EnvironmentSettings(BaseModel):
    """Body of `PUT /api/v1/environments/{name}`."""

    model_config = ConfigDict(extra="forbid")

    approvals: int = Field(default=0, ge=0, le=20)
    roles: list[ApproverRole] = Field(default=["approver", "admin"], min_length=1, max_length=3)
    after: str | None = Field(default=None, max_length=64)
    expires_after_s: int = Field(default=7 * 24 * 3600, ge=1, le=366 * 24 * 3600)
    policy: str | None = Field(default=None, max_length=64)
    canary: CanaryConfig | None = None


class Reason(BaseModel):
    """Body of what is done for a reason: rejecting, freezing, rolling back."""

    model_config = ConfigDict(extra="forbid")

    reason: str | None = Field(default=None, max_length=1000)


class Alias(Wire):
    """Where an alias points, and whether it may move."""

    llm: str
    alias: str
    version: int
    updated_at: dt.datetime
    frozen_at: dt.datetime | None
    """Null: it may move."""
    frozen_by: str | None
    frozen_reason: str | None
