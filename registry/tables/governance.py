"""Decisions and proofs: promotions, attestations, what should be served, and the audit log."""

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
    false,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column, relationship

from raymill.registry.tables.base import Base, CreatedAt, Digest, Id, JsonObject, Name, enum_type
from raymill.registry.tables.catalog import Llm, LlmVersion


class Environment(Base):
    """What a move of the aliases of one name takes. An alias whose name has no row here is moved by the policy alone."""

    __tablename__ = "environment"
    __table_args__ = (CheckConstraint("approvals >= 0", name="approvals_not_negative"),)

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    approvals: Mapped[int]  # so many accounts other than the requester's must agree
    roles: Mapped[list[str]] = mapped_column(ARRAY(String(16)))  # whose approvals count
    after: Mapped[str | None] = mapped_column(String(64))  # a version must have been at this alias before
    expires_after_s: Mapped[int]  # a request that was not executed by then never is
    policy: Mapped[str | None] = mapped_column(
        String(64)
    )  # whose newest version decides; null: what Raymill ships
    canary: Mapped[JsonObject | None]  # of promotions that ask for none themselves: a CanaryConfig


class Policy(Base):
    """Promotion rules; a name's versions count up from 1. Never changed: decisions point to the one that made them."""

    __tablename__ = "policy"
    __table_args__ = (UniqueConstraint("name", "number"),)

    id: Mapped[Id]
    name: Mapped[Name]
    number: Mapped[int]
    files: Mapped[JsonObject]  # name -> text, those of tests too
    bundle_digest: Mapped[Digest]  # of the files that decide
    created_by: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[CreatedAt]


class PromotionState(enum.StrEnum):
    """Of what is stored; whether a request that waits is approved or expired follows from approvals and clock."""

    WAITING = "waiting"
    DECIDED = "decided"  # executed when it is allowed, else refused
    REJECTED = "rejected"
    CANARY = "canary"  # allowed and approved: the version answers a share of the alias's requests
    ABORTED = "aborted"  # after that: the alias stayed where it was


class Promotion(Base):
    """A wish to move an alias, what the policy said of it, and what became of it. Refusals are kept too."""

    __tablename__ = "promotion"

    id: Mapped[Id]
    version_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("llm_version.id"), index=True)
    alias: Mapped[Name]
    allowed: Mapped[bool]
    reasons: Mapped[list[JsonObject]]  # sentences, one for each rule that refused
    input: Mapped[JsonObject]  # what the policy was shown
    input_digest: Mapped[Digest]
    bundle_digest: Mapped[Digest]  # of the Rego files that decided
    requested_by: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("job.id"))
    created_at: Mapped[CreatedAt]
    state: Mapped[PromotionState] = mapped_column(enum_type(PromotionState), server_default="decided")
    rollback: Mapped[bool] = mapped_column(server_default=false())
    approvals_needed: Mapped[int] = mapped_column(server_default="0")  # as the environment asked then
    approver_roles: Mapped[list[str]] = mapped_column(ARRAY(String(16)), server_default="{}")
    expires_at: Mapped[dt.datetime | None]  # of a request that waited
    closed_at: Mapped[dt.datetime | None]  # when it was executed, refused or rejected after it had waited
    closed_by: Mapped[str | None] = mapped_column(String(64))
    note: Mapped[str | None] = mapped_column(Text)  # why it was rejected or rolled back
    policy_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("policy.id"))  # that decided
    serving: Mapped[JsonObject | None]  # how to serve the alias once the version is there
    canary: Mapped[JsonObject | None]  # a CanaryConfig; null: the alias moves at once

    version: Mapped[LlmVersion] = relationship(lazy="joined", innerjoin=True)
    approvals: Mapped[list[Approval]] = relationship(lazy="selectin", order_by="Approval.created_at")
    trial: Mapped[Canary | None] = relationship(
        lazy="selectin", back_populates="promotion", foreign_keys="Canary.promotion_id"
    )


class Approval(Base):
    """One account's consent to a promotion. Never changed or deleted."""

    __tablename__ = "approval"

    promotion_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("promotion.id"), primary_key=True)
    account: Mapped[str] = mapped_column(String(64), primary_key=True)
    role: Mapped[str] = mapped_column(String(16))  # that it had then
    created_at: Mapped[CreatedAt]


class CanaryState(enum.StrEnum):
    PENDING = "pending"  # to be deployed, or deployed anew
    STARTING = "starting"
    RUNNING = "running"  # it takes its share
    ADVANCED = "advanced"  # the alias has moved
    ENDED = "ended"  # it has not


class Canary(Base):
    """A version that answers a share of an alias's requests beside the one that is there. At most one of an alias runs."""

    __tablename__ = "canary"
    __table_args__ = (
        Index(
            "canary_running_idx", "llm_id", "alias", unique=True, postgresql_where=text("ended_at IS NULL")
        ),
    )

    promotion_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("promotion.id"), primary_key=True)
    llm_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("llm.id"))
    alias: Mapped[Name]
    version_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("llm_version.id"))
    current_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("llm_version.id"))  # where the alias is
    config: Mapped[JsonObject]  # a resolved CanaryConfig
    state: Mapped[CanaryState] = mapped_column(enum_type(CanaryState))
    step: Mapped[int] = mapped_column(default=0)  # which of the shares it takes
    step_at: Mapped[dt.datetime | None]  # since when; null: it was not ready yet
    looks: Mapped[int] = mapped_column(default=0)  # tests of this share so far
    looked_at: Mapped[dt.datetime | None]
    measured: Mapped[JsonObject | None]  # of this share, at the last look
    reason: Mapped[str | None] = mapped_column(Text)  # why it ended
    created_at: Mapped[CreatedAt]
    ended_at: Mapped[dt.datetime | None]

    promotion: Mapped[Promotion] = relationship(back_populates="trial", lazy="joined", innerjoin=True)
    llm: Mapped[Llm] = relationship(lazy="joined", innerjoin=True)
    version: Mapped[LlmVersion] = relationship(lazy="joined", innerjoin=True, foreign_keys=[version_id])
    current: Mapped[LlmVersion] = relationship(lazy="joined", innerjoin=True, foreign_keys=[current_id])


class Attestation(Base):
    """A signed in-toto statement (DSSE envelope) over the very bytes of an artifact."""

    __tablename__ = "attestation"

    id: Mapped[Id]
    version_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("llm_version.id"), index=True)
    artifact_name: Mapped[str] = mapped_column(ForeignKey("artifact.name"), index=True)
    envelope: Mapped[JsonObject]
    key_id: Mapped[Digest]
    promotion_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("promotion.id"))
    created_at: Mapped[CreatedAt]


class DeploymentState(enum.StrEnum):
    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"


class Deployment(Base):
    """What should be served: an alias of an llm, and how. Ray Serve is made to match it."""

    __tablename__ = "deployment"

    llm_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("llm.id"), primary_key=True)
    alias: Mapped[Name] = mapped_column(String(64), primary_key=True)
    config: Mapped[JsonObject]
    state: Mapped[DeploymentState] = mapped_column(enum_type(DeploymentState))
    version_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("llm_version.id"))  # `state` is its
    serving_version_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("llm_version.id"))  # answers now
    serving_application: Mapped[str | None] = mapped_column(Text)  # of Serve; null: as `config` says
    message: Mapped[str] = mapped_column(Text, default="")
    updated_at: Mapped[dt.datetime] = mapped_column(server_default=func.clock_timestamp())

    llm: Mapped[Llm] = relationship(lazy="joined", innerjoin=True)


class AuditEvent(Base):
    """Who changed what. Append-only and gap-free; each row's hash covers the row before it."""

    __tablename__ = "audit_event"

    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    at: Mapped[dt.datetime]
    actor: Mapped[str] = mapped_column(String(64))
    action: Mapped[str] = mapped_column(String(64))
    object: Mapped[str] = mapped_column(String(300), index=True)
    detail: Mapped[JsonObject]
    request_id: Mapped[str | None] = mapped_column(String(64))
    address: Mapped[str | None] = mapped_column(String(64))  # where the request came from
    before: Mapped[JsonObject | None]  # what the object was and is, where the row tells
    after: Mapped[JsonObject | None]
    previous_hash: Mapped[bytes] = mapped_column(LargeBinary(32))
    hash: Mapped[bytes] = mapped_column(LargeBinary(32))
