"""The wire types that the web console needs beside all others: what its user may call, and what has changed.

Imports nothing heavy.
"""

from __future__ import annotations

import datetime as dt
from typing import Literal

from pydantic import Field

from raymill.client.identity_types import Me
from raymill.client.run_types import Run
from raymill.client.types import Deployment, Job, Plan, Wire
from raymill.client.usage_types import UsageGroup


class Access(Me):
    """Who the caller is, and what the caller may call."""

    allowed: list[str]
    """Routes that let the caller in, such as `POST /api/v1/jobs`."""

    sso: bool
    """Whether an identity provider is configured."""

    version: str
    """Of the service."""


class SsoOffer(Wire):
    """Whether people can sign in at an identity provider."""

    provider: str | None
    """Its host; null: none is configured."""


class SsoStarted(Wire):
    """A login at the identity provider that has begun."""

    url: str
    """Where the browser has to go."""


class GatewayKey(Wire):
    """An API key for models alone (`/v1`), which ends by itself soon. Keep it in memory."""

    key: str = Field(repr=False)
    expires_at: dt.datetime


class Change(Wire):
    """Something has changed: whoever shows it reads it again. It may come twice, never too late."""

    id: str
    """Give the last one as `since`, to be told what came after it."""

    topic: str
    """job, deployment, or of what an audit row tells: promotion, llm, provider, route, dataset, account, …;
    all: too much to tell."""

    key: str | None = None
    """Of a job its id."""

    pipeline_id: str | None = None
    kinds: list[str] = Field(default_factory=list)
    """Of a job what it said: state, step, validation, phase, …"""


class Need(Wire):
    """Something that somebody has to look at."""

    kind: Literal["approval", "dead", "failed", "drift", "breaker", "deployment"]
    name: str
    text: str
    id: str | None = None
    """Of the promotion or job."""

    at: dt.datetime | None = None


class Overview(Wire):
    """`GET /api/v1/overview`: what runs, what waits and why, what is served, what needs somebody, spend today."""

    running: list[Run]
    """Training runs that go on."""

    running_jobs: int
    waiting: list[Job]
    """The next ones."""

    waiting_jobs: int
    served: list[Deployment]
    needs: list[Need]
    """The newest first."""

    today: UsageGroup
    """Requests and spend since midnight (UTC): one's own, or everybody's for who sees that."""


class Estimate(Wire):
    """About what a recipe's training takes; null where there is nothing to go by."""

    parameters: int | None
    trained_parameters: int | None
    rows: int | None
    """Of training."""

    steps: int | None
    memory_bytes: int | None
    """Of one worker, at its most."""

    workers: int
    seconds: float | None
    notes: list[str]


class EstimatedPlan(Plan):
    """What a recipe would do: `POST /api/v1/pipelines/plan`. Nothing is written."""

    estimate: Estimate
