"""What the gateway works by: providers and their keys, prices, routes, presets, tiers and budgets; and what
it recorded: meters, usage, traces, feedback.

Money is integer micro-dollars (1 USD = 1,000,000); prices are micro-dollars per million tokens.
"""

from __future__ import annotations

import datetime as dt
import enum
import uuid

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from raymill.registry.tables.base import Base, CreatedAt, Id, JsonObject, Name, enum_type


class Wire(enum.StrEnum):
    """What a provider speaks."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    GEMINI = "gemini"


class Tier(Base):
    """Limits of an account that has none of its own. A missing number is no limit."""

    __tablename__ = "tier"

    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    limits: Mapped[
        JsonObject
    ]  # requests_per_minute, requests_per_day, tokens_per_minute, tokens_per_day, streams


class BudgetPeriod(enum.StrEnum):
    DAY = "day"
    MONTH = "month"
    TOTAL = "total"


class Budget(Base):
    """What an account, a team or a key may spend in a UTC day, a UTC month, or ever."""

    __tablename__ = "budget"
    __table_args__ = (
        UniqueConstraint("subject", "period"),
        CheckConstraint("limit_micro_usd >= 0", name="limit_not_negative"),
    )

    id: Mapped[Id]
    subject: Mapped[str] = mapped_column(String(64))  # account:<uuid>, team:<uuid> or key:<uuid>
    period: Mapped[BudgetPeriod] = mapped_column(enum_type(BudgetPeriod))
    limit_micro_usd: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[CreatedAt]


class Provider(Base):
    """An outside service that answers for models, and how it is reached."""

    __tablename__ = "provider"

    id: Mapped[Id]
    name: Mapped[Name] = mapped_column(String(64), unique=True)
    preset: Mapped[str] = mapped_column(String(32))  # which entry of the presets it was made from
    wire: Mapped[Wire] = mapped_column(enum_type(Wire))
    base_url: Mapped[str] = mapped_column(String(300))
    settings: Mapped[JsonObject]  # resolved: auth style, paths, quirks, extra headers
    enabled: Mapped[bool] = mapped_column(default=True)
    created_at: Mapped[CreatedAt]


class ProviderKey(Base):
    """A secret of a provider, sealed. It is never shown again and never logged."""

    __tablename__ = "provider_key"
    __table_args__ = (UniqueConstraint("provider_id", "name"),)

    id: Mapped[Id]
    provider_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("provider.id"), index=True)
    name: Mapped[Name]
    sealed: Mapped[bytes] = mapped_column(LargeBinary)  # AES-256-GCM envelope, see registry/secrets.py
    hint: Mapped[str] = mapped_column(String(16))  # last characters, so that a person can tell keys apart
    enabled: Mapped[bool] = mapped_column(default=True)
    created_at: Mapped[CreatedAt]
    rotated_at: Mapped[dt.datetime | None]


class ProviderModel(Base):
    """A model that a provider said it has."""

    __tablename__ = "provider_model"

    provider_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("provider.id"), primary_key=True)
    model: Mapped[str] = mapped_column(String(200), primary_key=True)
    seen_at: Mapped[CreatedAt]


class ProviderCheck(Base):
    """One test of a provider: did it answer, how fast, what did it say."""

    __tablename__ = "provider_check"

    id: Mapped[Id]
    provider_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("provider.id"), index=True)
    ok: Mapped[bool]
    status: Mapped[int | None]  # HTTP status; none when there was no answer
    latency_ms: Mapped[float]
    message: Mapped[str] = mapped_column(Text, default="")
    at: Mapped[CreatedAt]


class Price(Base):
    """A price that overrides the repository's table, for one model of one provider or of any."""

    __tablename__ = "price"

    provider: Mapped[str] = mapped_column(String(64), primary_key=True)  # a provider's name, or * for any
    model: Mapped[str] = mapped_column(String(200), primary_key=True)
    input_micro_usd: Mapped[int] = mapped_column(BigInteger)  # per million tokens
    cached_input_micro_usd: Mapped[int] = mapped_column(BigInteger)
    output_micro_usd: Mapped[int] = mapped_column(BigInteger)
    max_output_tokens: Mapped[int | None]
    updated_at: Mapped[CreatedAt]


class Route(Base):
    """A model name of ours, and the targets that answer for it."""

    __tablename__ = "route"

    id: Mapped[Id]
    name: Mapped[Name] = mapped_column(String(64), unique=True)
    config: Mapped[JsonObject]  # a resolved RouteConfig
    enabled: Mapped[bool] = mapped_column(default=True)
    created_at: Mapped[CreatedAt]


class Preset(Base):
    """A persona: a system prompt with a model and parameters, usable as a model name."""

    __tablename__ = "preset"

    id: Mapped[Id]
    name: Mapped[Name] = mapped_column(String(64), unique=True)
    model: Mapped[str] = mapped_column(String(200))  # any name that a request could use, but no preset
    system: Mapped[str] = mapped_column(Text)
    params: Mapped[JsonObject]  # defaults of the request, such as temperature
    created_at: Mapped[CreatedAt]


class GatewayReplica(Base):
    """A gateway process that holds leases. Gone when it was not seen for a while."""

    __tablename__ = "gateway_replica"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    node: Mapped[str] = mapped_column(String(200))
    seen_at: Mapped[CreatedAt]


class Meter(Base):
    """How much of a limit is used, and how much of it replicas hold. `used` only grows."""

    __tablename__ = "meter"
    __table_args__ = (
        CheckConstraint("used >= 0", name="used_not_negative"),
        CheckConstraint("leased >= 0", name="leased_not_negative"),
    )

    name: Mapped[str] = mapped_column(String(100), primary_key=True)  # account:<uuid>/micro_usd/month
    bucket: Mapped[int] = mapped_column(BigInteger, primary_key=True)  # Unix seconds of the window's start
    used: Mapped[int] = mapped_column(BigInteger, default=0)
    leased: Mapped[int] = mapped_column(BigInteger, default=0)


class MeterLease(Base):
    """A replica's share of a meter that it has neither used up nor given back.

    Below 0 the replica used more than it held, which its next lease pays; `Meter.leased` counts it as 0.
    """

    __tablename__ = "meter_lease"

    replica_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    bucket: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    amount: Mapped[int] = mapped_column(BigInteger)


class Usage(Base):
    """One request that the gateway let in. Written once, from the spool of the replica that answered."""

    __tablename__ = "usage"
    __table_args__ = (
        Index("usage_at_idx", "at"),
        Index("usage_key_id_at_idx", "key_id", "at"),
        Index("usage_account_id_at_idx", "account_id", "at"),
        Index("usage_route_at_idx", "route", "at"),
        Index("usage_canary_id_at_idx", "canary_id", "at", postgresql_where=text("canary_id IS NOT NULL")),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    request_id: Mapped[str] = mapped_column(String(128), index=True)
    at: Mapped[dt.datetime]  # when it came
    replica_id: Mapped[uuid.UUID]
    key_id: Mapped[uuid.UUID]
    account_id: Mapped[uuid.UUID]
    team_id: Mapped[uuid.UUID | None]
    operation: Mapped[str] = mapped_column(String(32))  # chat, completions, embeddings, responses, messages
    route: Mapped[str] = mapped_column(String(200))  # the model name that was asked for
    provider: Mapped[str] = mapped_column(String(64))  # that answered; raymill for our own, empty for none
    model: Mapped[str] = mapped_column(String(200))
    status: Mapped[int]  # HTTP status that the client saw
    outcome: Mapped[str] = mapped_column(String(16))  # ok, error, cancelled, broken, cached, lost
    stream: Mapped[bool]
    attempts: Mapped[int]
    prompt_tokens: Mapped[int] = mapped_column(BigInteger)
    cached_tokens: Mapped[int] = mapped_column(BigInteger)
    completion_tokens: Mapped[int] = mapped_column(BigInteger)
    estimated: Mapped[bool]  # the upstream did not say how many tokens: counted by us
    cost_micro_usd: Mapped[int] = mapped_column(BigInteger)
    priced: Mapped[bool]  # whether a price was known
    latency_ms: Mapped[float]
    first_token_ms: Mapped[float | None]
    overhead_ms: Mapped[float]  # of the latency, the gateway's own share
    canary_id: Mapped[uuid.UUID | None]  # of the promotion whose version tries itself on this name's requests
    arm: Mapped[str | None] = mapped_column(String(16))  # who was to answer then: canary or current


class Trace(Base):
    """Prompt and answer of a request on a route that keeps them, personal data masked."""

    __tablename__ = "trace"

    usage_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    request_id: Mapped[str] = mapped_column(String(128), index=True)
    account_id: Mapped[uuid.UUID]
    route: Mapped[str] = mapped_column(String(200))
    at: Mapped[dt.datetime] = mapped_column(index=True)
    prompt: Mapped[JsonObject]
    answer: Mapped[JsonObject]


class Feedback(Base):
    """What someone thought of an answer."""

    __tablename__ = "feedback"

    id: Mapped[Id]
    request_id: Mapped[str] = mapped_column(String(128), index=True)
    account_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("account.id"))
    score: Mapped[float | None]  # -1 to 1
    correction: Mapped[str | None] = mapped_column(Text)
    comment: Mapped[str] = mapped_column(Text, default="")
    at: Mapped[CreatedAt]


class KeptAnswer(Base):
    """The answer to a request that carried an Idempotency-Key, while it is made and for a day after."""

    __tablename__ = "kept_answer"

    account_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(200), primary_key=True)
    request_hash: Mapped[str] = mapped_column(String(64))
    replica_id: Mapped[uuid.UUID]
    status: Mapped[int | None]  # none while it is being made
    headers: Mapped[JsonObject]
    body: Mapped[bytes | None] = mapped_column(LargeBinary)
    expires_at: Mapped[dt.datetime] = mapped_column(index=True)
