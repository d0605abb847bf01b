"""The wire types of teams, tiers, budgets, usage, traces and feedback. Imports nothing heavy.

Money is integer micro-dollars (1 USD = 1,000,000), times of requests are milliseconds, days and hours are UTC.
"""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Annotated, Any, Literal, TypedDict

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from raymill.client.types import JsonObject, RoleName, Wire

NAME = r"^[a-z0-9][a-z0-9._-]{0,63}$"
Period = Literal["day", "month", "total"]
LimitNumber = Annotated[int, Field(strict=True, ge=1, le=10**12)]
TIERS_OWN = "tier"
"""In place of an overriding number: the tier's limit holds again."""

Dimension = Literal["day", "hour", "account", "team", "key", "route", "provider", "model", "operation"]


MOST = 2**31 - 1


class Team(Wire):
    id: uuid.UUID
    name: str
    accounts: list[str]
    disabled_at: dt.datetime | None
    created_at: dt.datetime


class TeamRequest(BaseModel):
    """Body of `POST /api/v1/teams`."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=NAME)


class TeamUpdate(BaseModel):
    """Body of `PATCH /api/v1/teams/{name}`."""

    model_config = ConfigDict(extra="forbid")

    disabled: bool
    """A disabled team's accounts are refused everywhere."""


class TeamQuota(Wire):
    """What the running jobs of a team may hold at once (null: no bound), and hold."""

    team: str
    max_running: int | None
    max_gpus: int | None
    max_cpus: int | None
    running: int
    gpus: int
    cpus: int
    queued: int
    """Jobs that wait, for whatever reason."""


class TeamQuotaUpdate(BaseModel):
    """Body of `PATCH /api/v1/teams/{name}/quota` (RFC 7396): what is left out stays, null takes a bound away."""

    model_config = ConfigDict(extra="forbid")

    max_running: int | None = Field(default=None, ge=0, le=MOST)
    """Jobs."""

    max_gpus: int | None = Field(default=None, ge=0, le=MOST)
    max_cpus: int | None = Field(default=None, ge=0, le=MOST)
    """CPUs that jobs ask of Ray."""


class AccountUpdate(BaseModel):
    """Body of `PATCH /api/v1/accounts/{name}` (RFC 7396): what is left out stays as it is."""

    model_config = ConfigDict(extra="forbid")

    role: RoleName = "viewer"
    team: str | None = None
    """Null: out of its team."""

    tier: str = ""
    limits: dict[str, LimitNumber | Literal["tier"] | None] = Field(default_factory=dict)
    """Overrides by name: a number, null for no limit, or `tier` for the tier's own again."""

    disabled: bool = False

    @model_serializer(mode="wrap")
    def _what_is_set(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in whole(self).items() if name in self.model_fields_set}


class AccountChanges(TypedDict, total=False):
    """The fields of `AccountUpdate` as keyword arguments."""

    role: RoleName
    team: str | None
    tier: str
    limits: dict[str, int | Literal["tier"] | None]
    disabled: bool


class Tier(Wire):
    name: str
    limits: dict[str, int]
    """requests_per_minute, requests_per_day, tokens_per_minute, tokens_per_day, streams, code_submissions_per_day, code_bytes; a
    missing one is no limit."""


class TierRequest(BaseModel):
    """Body of `PUT /api/v1/tiers/{name}`: all its limits. What is missing or null is no limit."""

    model_config = ConfigDict(extra="forbid")

    limits: dict[str, LimitNumber | None]


class Budget(Wire):
    subject: str
    """`account:ann`, `team:ops` or `key:<id>`."""

    name: str
    """Of the account or team; of a key `account/key`."""

    period: Period
    limit_micro_usd: int
    spent_micro_usd: int
    """In the period that is now."""

    held_micro_usd: int
    """Reserved for requests that are under way."""

    resets_at: dt.datetime | None
    created_at: dt.datetime


class BudgetRequest(BaseModel):
    """Body of `PUT /api/v1/budgets/{subject}/{period}`."""

    model_config = ConfigDict(extra="forbid")

    limit_micro_usd: int = Field(strict=True, ge=0, le=10**15)


class LimitUse(Wire):
    name: str
    limit: int | None
    """None: no limit."""

    source: Literal["tier", "account"]
    """Whose number it is."""

    used: int
    """In the minute or day that is now; only what has a limit is counted."""

    held: int
    """Leased to gateways for requests under way."""


class AccountLimits(Wire):
    """What an account may use, and what it has used."""

    account: str
    team: str | None
    tier: str
    overrides: dict[str, int | None]
    limits: list[LimitUse]
    budgets: list[Budget]
    """Of the account, its keys and its team: all of them bind."""


class UsageGroup(Wire):
    """Requests that have something in common."""

    by: dict[str, str]
    """Dimension -> value; a key has also `key_name`."""

    requests: int
    errors: int
    """Requests whose client got no whole answer, and did not give up itself."""

    error_rate: float
    cache_hits: int
    prompt_tokens: int
    cached_tokens: int
    """Of the prompt tokens, those that the provider had in its cache."""

    completion_tokens: int
    cost_micro_usd: int
    unpriced: int
    """Requests whose price nobody knows; they count as 0 in the cost."""

    latency_p50_ms: float | None
    latency_p90_ms: float | None
    latency_p99_ms: float | None
    first_token_p50_ms: float | None
    first_token_p99_ms: float | None


class UsageSummary(Wire):
    since: dt.datetime
    until: dt.datetime
    group_by: list[Dimension]
    data: list[UsageGroup]
    """By time, and within it the dearest first."""

    total: UsageGroup


class UsageRecord(Wire):
    """One request."""

    id: uuid.UUID
    request_id: str
    at: dt.datetime
    account: str | None
    team: str | None
    key_id: uuid.UUID
    key: str | None
    operation: str
    route: str
    """The model name that was asked for."""

    provider: str
    """That answered; `raymill` for our own, empty for none."""

    model: str
    status: int
    outcome: str
    """ok, error, cancelled, broken, cached or lost."""

    stream: bool
    attempts: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    estimated: bool
    """The provider did not say how many tokens: counted here."""

    cost_micro_usd: int
    priced: bool
    latency_ms: float
    first_token_ms: float | None
    overhead_ms: float
    """Of the latency, the gateway's own share."""


class Anomaly(Wire):
    """Something that was unlike the last four weeks."""

    by: Dimension
    subject: str
    name: str
    metric: Literal["requests", "error_rate", "cost_micro_usd", "latency_p50_ms"]
    value: float
    usual: float
    """Median of the same hours in the 28 days before."""

    z: float
    """Distance from it in robust standard deviations."""

    sentence: str


class AnomalyReport(Wire):
    until: dt.datetime
    window_hours: int
    data: list[Anomaly]
    """The most unusual first."""


class Feedback(Wire):
    id: uuid.UUID
    request_id: str
    account: str
    score: float | None
    """-1 (bad) to 1 (good)."""

    correction: str | None
    comment: str
    at: dt.datetime


class FeedbackRequest(BaseModel):
    """Body of `POST /api/v1/feedback`."""

    model_config = ConfigDict(extra="forbid")

    request_id: str = Field(min_length=1, max_length=128)
    score: float | None = Field(default=None, ge=-1, le=1)
    correction: str | None = Field(default=None, max_length=100_000)
    comment: str = Field(default="", max_length=100_000)


class Trace(Wire):
    """Prompt and answer of a request, personal data masked."""

    request_id: str
    account: str | None
    route: str
    at: dt.datetime
    prompt: JsonObject
    answer: JsonObject


class TraceDetail(Trace):
    feedback: list[Feedback]
