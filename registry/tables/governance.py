"""Decisions and proofs: promotions, attestations, what should be served, and the audit log."""

from __future__ import annotations

import datetime as dt
import enum
import uuid

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
    false,
    func,
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

    version: Mapped[LlmVersion] = relationship(lazy="joined", innerjoin=True)
    approvals: Mapped[list[Approval]] = relationship(lazy="selectin", order_by="Approval.created_at")


class Approval(Base):
    """One account's consent to a promotion. Never changed or deleted."""

    __tablename__ = "approval"

    promotion_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("promotion.id"), primary_key=True)
    account: Mapped[str] = mapped_column(String(64), primary_key=True)
    role: Mapped[str] = mapped_column(String(16))  # that it had then
    created_at: Mapped[CreatedAt]


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
