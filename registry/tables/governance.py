"""Decisions and proofs: promotions, attestations, what should be served, and the audit log."""

from __future__ import annotations

import datetime as dt
import enum
import uuid

from sqlalchemy import BigInteger, ForeignKey, LargeBinary, String, Text, func
from sqlalchemy.orm import Mapped, mapped_column, relationship

from raymill.registry.tables.base import Base, CreatedAt, Digest, Id, JsonObject, Name, enum_type
from raymill.registry.tables.catalog import Llm, LlmVersion


class Promotion(Base):
    """A wish to move an alias, and what the policy said of it. Refusals are kept too."""

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

    version: Mapped[LlmVersion] = relationship(lazy="joined", innerjoin=True)


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
