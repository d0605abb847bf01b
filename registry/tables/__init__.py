"""The schema as SQLAlchemy classes; the docstring of each is its promise, and the database enforces it."""

from raymill.registry.tables.base import Base, JsonObject, new_id
from raymill.registry.tables.catalog import (
    Alias,
    AliasMove,
    Artifact,
    Dataset,
    Evaluation,
    Llm,
    LlmVersion,
    Quantization,
    TrainingRun,
)
from raymill.registry.tables.governance import Attestation, AuditEvent, Deployment, DeploymentState, Promotion
from raymill.registry.tables.identity import Account, ApiKey, Role
from raymill.registry.tables.work import Job, JobEvent, JobState, Pipeline

__all__ = [
    "Account",
    "Alias",
    "AliasMove",
    "ApiKey",
    "Artifact",
    "Attestation",
    "AuditEvent",
    "Base",
    "Dataset",
    "Deployment",
    "DeploymentState",
    "Evaluation",
    "Job",
    "JobEvent",
    "JobState",
    "JsonObject",
    "Llm",
    "LlmVersion",
    "Pipeline",
    "Promotion",
    "Quantization",
    "Role",
    "TrainingRun",
    "new_id",
]
