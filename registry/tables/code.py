"""Code that was submitted to be analysed, what was found in it, and what models said of it.

Findings and analyses are JSON as `evaluate/analysers/findings.py` writes them.
"""

from __future__ import annotations

import datetime as dt
import uuid

from sqlalchemy import ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from raymill.registry.tables.base import Base, CreatedAt, Id, JsonObject


class CodeSubmission(Base):
    """One version of somebody's code on its way through the steps. Its state is its pipeline's."""

    __tablename__ = "code_submission"
    __table_args__ = (Index("code_submission_account_id_id_idx", "account_id", "id"),)

    id: Mapped[Id]
    pipeline_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("pipeline.id"), unique=True)
    account_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("account.id"))
    language: Mapped[str | None] = mapped_column(String(16))  # of most of it
    comment: Mapped[str] = mapped_column(Text)
    files: Mapped[list[JsonObject]]  # name, language, text
    tests: Mapped[JsonObject | None]  # entry_point, code
    size_bytes: Mapped[int]
    before: Mapped[JsonObject | None]  # what the analysers say of it
    summary: Mapped[str | None] = mapped_column(Text)
    dossier: Mapped[str | None] = mapped_column(Text)  # Markdown
    rebuilt: Mapped[list[JsonObject] | None]  # name, language, text
    diff: Mapped[str | None] = mapped_column(Text)  # unified
    after: Mapped[JsonObject | None]
    quality: Mapped[JsonObject | None]  # measured, and what the model says
    created_at: Mapped[CreatedAt]

    @property
    def names(self) -> list[str]:
        """Of its files."""
        return [file["name"] for file in self.files]


class CodeFinding(Base):
    """A weakness of a submission, whoever found it. `outcome` is what became of it in the rebuilt code."""

    __tablename__ = "code_finding"

    submission_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("code_submission.id"), primary_key=True)
    phase: Mapped[str] = mapped_column(String(8), primary_key=True)  # before, or after: what is new there
    id: Mapped[str] = mapped_column(String(24), primary_key=True)
    cwe: Mapped[str | None] = mapped_column(String(16), index=True)
    severity: Mapped[str] = mapped_column(String(8))
    file: Mapped[str] = mapped_column(String(200))
    line_start: Mapped[int]
    data: Mapped[JsonObject]
    outcome: Mapped[str | None] = mapped_column(String(16))


class CodeAnswer(Base):
    """What a model answered to one question of a step, whether it could be used or not. Never changed.

    What it cost stands in `usage`, under the same request id.
    """

    __tablename__ = "code_answer"

    id: Mapped[Id]
    submission_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("code_submission.id"), index=True)
    job_id: Mapped[uuid.UUID]
    step: Mapped[str] = mapped_column(String(16))
    epoch: Mapped[int]  # the job's attempt
    number: Mapped[int]  # of the question within the attempt, from 1
    step_version: Mapped[int]
    model: Mapped[str] = mapped_column(String(200))
    request_id: Mapped[str] = mapped_column(String(128))
    problem: Mapped[str | None] = mapped_column(Text)  # why it could not be used
    content: Mapped[str] = mapped_column(Text)
    prompt_tokens: Mapped[int]
    completion_tokens: Mapped[int]
    latency_ms: Mapped[float]
    at: Mapped[CreatedAt]


class CodeStepVersion(Base):
    """How a step asks: prompt, model, fallback, parameters. Never changed; an edit is another version."""

    __tablename__ = "code_step_version"

    step: Mapped[str] = mapped_column(String(16), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)  # from 1
    config: Mapped[JsonObject]
    note: Mapped[str] = mapped_column(Text)
    created_by: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[CreatedAt]


class CodeStep(Base):
    """Which version of a step is used; `canary` by a share of the submissions, always the same ones."""

    __tablename__ = "code_step"

    step: Mapped[str] = mapped_column(String(16), primary_key=True)
    active: Mapped[int]
    canary: Mapped[int | None]
    canary_share: Mapped[float] = mapped_column(default=0.0)  # 0 to 1
    changed_at: Mapped[dt.datetime]


class CodeExperiment(Base):
    """A fault that is put into code analysis on purpose, for a while."""

    __tablename__ = "code_experiment"

    id: Mapped[Id]
    fault: Mapped[str] = mapped_column(
        String(32)
    )  # provider_outage, slow_answers, rate_limits, database_away
    share: Mapped[float]  # of the questions that it meets, 0 to 1
    delay_s: Mapped[float]  # of slow_answers
    until: Mapped[dt.datetime]
    started_by: Mapped[str] = mapped_column(String(64))
    started_at: Mapped[CreatedAt]
    stopped_at: Mapped[dt.datetime | None]
