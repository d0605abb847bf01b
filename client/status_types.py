"""The wire types of `GET /api/v1/status`: how the service is doing, on one screen.

Times are ISO 8601 with a time zone; durations are seconds.
"""

from __future__ import annotations

import datetime as dt
from typing import Literal

from raymill.client.control_types import QueueStats
from raymill.client.types import Deployment, JsonObject, Wire


class Alert(Wire):
    """Something that somebody should look at now."""

    severity: Literal["critical", "warning"]
    """critical: a promise does not hold now. warning: it soon will not, or somebody must decide."""
    name: str
    """Of the kind of alert, such as dead_letters."""
    subject: str
    """What it is about: a queue, a target, a model and alias, a watch."""
    message: str
    cure: str


class RunningCanary(Wire):
    """A version that answers a share of an alias's requests."""

    llm: str
    alias: str
    version: int
    state: str
    share: float
    """Of the alias's requests, 0 to 1."""
    age_s: float


class GatewayStatus(Wire):
    """What the living gateway replicas tell."""

    replicas: int
    in_flight: int
    """Requests that are being answered."""
    breakers: dict[str, str]
    """Target -> open or half_open; closed ones are left out."""


class Status(Wire):
    """`GET /api/v1/status`: one screen."""

    version: str
    at: dt.datetime
    nodes: list[JsonObject]
    """node_id, alive, resources, available."""
    jobs: dict[str, int]
    """queued, running, paused, dead -> number of jobs; those that have ended otherwise are not counted."""
    deployments: list[Deployment]
    database: str
    """Server version."""
    queues: list[QueueStats]
    """By name."""
    canaries: list[RunningCanary]
    gateway: GatewayStatus
    parts: dict[str, int]
    """Part of the service -> processes that have told their numbers just now."""
    alerts: list[Alert]
    """Critical ones first; empty: nothing is known to be wrong."""
