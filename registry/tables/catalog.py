"""What was made: artifacts, data sets, llms, their versions and aliases, and what was measured on them."""

from __future__ import annotations

import datetime as dt
import uuid

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, String, Text, UniqueConstraint, func
from sqlalchemy.orm import Mapped, mapped_column, relationship

from raymill.registry.tables.base import Base, CreatedAt, Digest, Id, JsonObject, Name


class Artifact(Base):
    """A published directory. The row commits with the end of the job that made it."""

    __tablename__ = "artifact"

    name: Mapped[str] = mapped_column(String(200), primary_key=True)  # <kind>/<name>/<address>
    digest: Mapped[Digest]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    files: Mapped[list[JsonObject]]  # path, size_bytes, sha256
    job_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("job.id"))
    created_at: Mapped[CreatedAt]


class Dataset(Base):
    """A validated data set; a name's versions count up from 1, one for each content digest."""

    __tablename__ = "dataset"
    __table_args__ = (UniqueConstraint("name", "number"), UniqueConstraint("name", "digest"))

    id: Mapped[Id]
    name: Mapped[Name]
    number: Mapped[int]
    digest: Mapped[Digest]
    artifact_name: Mapped[str] = mapped_column(ForeignKey("artifact.name"))
    train_rows: Mapped[int]
    test_rows: Mapped[int]
    format: Mapped[str] = mapped_column(String(32))
    shape: Mapped[str] = mapped_column(String(16), server_default="conversation")
    purpose: Mapped[str] = mapped_column(String(16), server_default="training")  # or evaluation
    stats: Mapped[JsonObject] = mapped_column(server_default="{}")
    provenance: Mapped[JsonObject] = mapped_column(server_default="{}")  # files and digests, waivers, traffic
    created_at: Mapped[CreatedAt]


class Llm(Base):
    """A model by name. Its versions are what is trained, promoted and served."""

    __tablename__ = "llm"

    id: Mapped[Id]
    name: Mapped[Name] = mapped_column(String(64), unique=True)
    created_at: Mapped[CreatedAt]


class LlmVersion(Base):
    """One trained model. Never changed: what can change (aliases, promotions) points to it."""

    __tablename__ = "llm_version"
    __table_args__ = (UniqueConstraint("llm_id", "number"), UniqueConstraint("artifact_name"))

    id: Mapped[Id]
    llm_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("llm.id"))
    number: Mapped[int]
    artifact_name: Mapped[str] = mapped_column(ForeignKey("artifact.name"))
    base_artifact_name: Mapped[str] = mapped_column(ForeignKey("artifact.name"))
    dataset_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("dataset.id"))
    job_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("job.id"))
    created_at: Mapped[CreatedAt]

    llm: Mapped[Llm] = relationship(lazy="joined", innerjoin=True)
    dataset: Mapped[Dataset] = relationship()


class Alias(Base):
    """A movable name, such as `production`, for one version of an llm."""

    __tablename__ = "alias"

    llm_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("llm.id"), primary_key=True)
    name: Mapped[Name] = mapped_column(String(64), primary_key=True)
    version_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("llm_version.id"))
    updated_at: Mapped[dt.datetime] = mapped_column(server_default=func.clock_timestamp())
    frozen_at: Mapped[dt.datetime | None]  # since then it moves no more
    frozen_by: Mapped[str | None] = mapped_column(String(64))
    frozen_reason: Mapped[str | None] = mapped_column(Text)

    version: Mapped[LlmVersion] = relationship(lazy="joined", innerjoin=True)


class AliasMove(Base):
    """One move of an alias. Never changed or deleted: it tells what was in production when."""

    __tablename__ = "alias_move"

    id: Mapped[Id]
    llm_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("llm.id"), index=True)
    alias: Mapped[Name]
    version_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("llm_version.id"))
    previous_version_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("llm_version.id"))
    promotion_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("promotion.id"))
    actor: Mapped[str] = mapped_column(String(64))
    moved_at: Mapped[CreatedAt]


class TrainingRun(Base):
    """What a training job measured. Written with the job's end."""

    __tablename__ = "training_run"

    job_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("job.id"), primary_key=True)
    kind: Mapped[str] = mapped_column(String(32))  # pretrain, train or tune
    artifact_name: Mapped[str] = mapped_column(ForeignKey("artifact.name"))
    config: Mapped[JsonObject]  # resolved
    steps: Mapped[int]
    final_loss: Mapped[float]  # nats per trained token
    tokens_per_s: Mapped[float]
    seconds: Mapped[float]
    method: Mapped[str] = mapped_column(String(16), server_default="sft")  # pretrain, sft, tool, dpo or kto
    metrics: Mapped[JsonObject] = mapped_column(
        default=dict, server_default="{}"
    )  # where the curves began and ended
    series: Mapped[list[JsonObject]] = mapped_column(
        default=list, server_default="[]"
    )  # curves, at most 1000 points
    created_at: Mapped[CreatedAt]


class Evaluation(Base):
    """One score of one artifact on one task."""

    __tablename__ = "evaluation"
    __table_args__ = (CheckConstraint("samples > 0", name="samples_positive"),)

    id: Mapped[Id]
    job_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("job.id"), index=True)
    artifact_name: Mapped[str] = mapped_column(ForeignKey("artifact.name"), index=True)
    variant: Mapped[str] = mapped_column(String(16), default="")  # quantization type; empty for the weights
    dataset_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("dataset.id"))
    task: Mapped[str] = mapped_column(String(128))
    score: Mapped[float]
    samples: Mapped[int]
    created_at: Mapped[CreatedAt]


class Quantization(Base):
    """One GGUF file of a version, its real tensor types and how far it agrees with the weights."""

    __tablename__ = "quantization"
    __table_args__ = (UniqueConstraint("artifact_name", "type"),)

    id: Mapped[Id]
    version_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("llm_version.id"), index=True)
    artifact_name: Mapped[str] = mapped_column(ForeignKey("artifact.name"))
    type: Mapped[str] = mapped_column(String(16))
    file: Mapped[str] = mapped_column(String(200))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[Digest]
    tensors: Mapped[JsonObject]  # actual type -> number of tensors
    fallbacks: Mapped[list[JsonObject]]  # tensors that are not of the type asked for
    parity: Mapped[JsonObject]  # prompts, same, agreement; perplexity, kl_mean, kl_p99, same_top
    job_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("job.id"))
    created_at: Mapped[CreatedAt]
