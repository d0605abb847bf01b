"""From rows to wire types."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from sqlalchemy import Row, Select, func, select
from sqlalchemy.orm import Session

from raymill.client import promotion_types
from raymill.client import types as wire
from raymill.registry import identity, tables
from raymill.registry.aliases import aliases_at
from raymill.registry.archive import is_archived
from raymill.registry.catalog import scores_of
from raymill.registry.jobs.waiting import reasons
from raymill.registry.requests import state_of
from raymill.serve.api import canary_wire
from raymill.serve.api.paging import columns_of_page

JOB_COLUMNS = [column for column in tables.Job.__table__.columns if column.name in wire.Job.model_fields]
JOB_FIELDS = [column.name for column in JOB_COLUMNS]
FIELDS_OF = attrgetter(*JOB_FIELDS)


def job(row: tables.Job | Row[Any], waiting: str | None = None) -> wire.Job:
    """`row`: the job, or of a list's the `JOB_COLUMNS`, which are read in half the time."""
    values = row if isinstance(row, Row) else FIELDS_OF(row)
    return wire.Job.model_validate({**dict(zip(JOB_FIELDS, values, strict=True)), "waiting": waiting})


def jobs_with_reasons(opened: Session, rows: Sequence[tables.Job] | Sequence[Row[Any]]) -> list[wire.Job]:
    """With why they wait, asked for all of them at once."""
    why = reasons(opened, rows)
    return [job(row, why.get(row.id)) for row in rows]


def job_with_reason(opened: Session, row: tables.Job) -> wire.Job:
    return jobs_with_reasons(opened, [row])[0]


def job_page(
    opened: Session, rows: Select[tables.Job], *, limit: int, cursor: str | None
) -> wire.Page[wire.Job]:
    """A page of jobs, newest first, with why they wait."""
    columns = rows.with_only_columns(*JOB_COLUMNS)
    found, next_cursor = columns_of_page(opened, columns, tables.Job.id, limit=limit, cursor=cursor)
    return wire.Page(data=jobs_with_reasons(opened, found), next_cursor=next_cursor)


def pipeline(row: tables.Pipeline, jobs: Sequence[wire.Job] = ()) -> wire.Pipeline:
    return wire.Pipeline(
        id=row.id,
        name=row.name,
        state=row.state.value,
        error=row.error,
        created_by=row.created_by,
        created_at=row.created_at,
        finished_at=row.finished_at,
        recipe=row.recipe,
        jobs=list(jobs),
    )


def pipeline_with_jobs(opened: Session, row: tables.Pipeline) -> wire.Pipeline:
    jobs = opened.execute(
        select(*JOB_COLUMNS).where(tables.Job.pipeline_id == row.id).order_by(tables.Job.id)
    )
    return pipeline(row, jobs_with_reasons(opened, jobs.all()))


def event(row: tables.JobEvent) -> wire.JobEvent:
    return wire.JobEvent.model_validate(row, from_attributes=True)


def artifact(row: tables.Artifact) -> wire.Artifact:
    return wire.Artifact.model_validate(row, from_attributes=True)


def dataset(row: tables.Dataset) -> wire.Dataset:
    return wire.Dataset.model_validate(row, from_attributes=True)


def llm(opened: Session, row: tables.Llm, as_of: dt.datetime | None = None) -> wire.Llm:
    """With its aliases as they pointed at `as_of`; None: now."""
    frozen = select(tables.Alias.name).where(
        tables.Alias.llm_id == row.id, tables.Alias.frozen_at.is_not(None)
    )
    latest = opened.scalar(
        select(func.max(tables.LlmVersion.number)).where(tables.LlmVersion.llm_id == row.id)
    )
    return wire.Llm(
        id=row.id,
        name=row.name,
        latest_version=latest,
        aliases=aliases_at(opened, row.id, as_of),
        frozen=sorted(opened.scalars(frozen)),
        created_at=row.created_at,
    )


def version(opened: Session, row: tables.LlmVersion) -> wire.Version:
    aliases = opened.scalars(select(tables.Alias.name).where(tables.Alias.version_id == row.id))
    return wire.Version(
        id=row.id,
        llm=row.llm.name,
        number=row.number,
        artifact_name=row.artifact_name,
        base_artifact_name=row.base_artifact_name,
        dataset_id=row.dataset_id,
        job_id=row.job_id,
        aliases=sorted(aliases),
        scores=scores_of(opened, row.artifact_name).get("", {}),
        archived=is_archived(opened, row),
        created_at=row.created_at,
    )


def alias_move(opened: Session, row: tables.AliasMove) -> wire.AliasMove:
    number = opened.get_one(tables.LlmVersion, row.version_id).number
    previous = opened.get(tables.LlmVersion, row.previous_version_id) if row.previous_version_id else None
    return wire.AliasMove(
        alias=row.alias,
        version=number,
        previous_version=previous.number if previous else None,
        actor=row.actor,
        moved_at=row.moved_at,
        promotion_id=row.promotion_id,
    )


def promotion(row: tables.Promotion) -> wire.Promotion:
    return wire.Promotion(
        id=row.id,
        llm=row.version.llm.name,
        version=row.version.number,
        alias=row.alias,
        allowed=row.allowed,
        reasons=[reason["reason"] for reason in row.reasons],
        input=row.input,
        input_digest=row.input_digest,
        bundle_digest=row.bundle_digest,
        requested_by=row.requested_by,
        created_at=row.created_at,
        state=state_of(row, dt.datetime.now(dt.UTC)),
        rollback=row.rollback,
        approvals_needed=row.approvals_needed,
        approver_roles=row.approver_roles,
        approvals=[wire.Approval.model_validate(each, from_attributes=True) for each in row.approvals],
        expires_at=row.expires_at,
        closed_at=row.closed_at,
        closed_by=row.closed_by,
        note=row.note,
        canary=canary_wire.canary(row.trial) if row.trial is not None else None,
    )


def environment(row: tables.Environment) -> promotion_types.Environment:
    return promotion_types.Environment.model_validate(row, from_attributes=True)


def alias(row: tables.Alias) -> promotion_types.Alias:
    return promotion_types.Alias(
        llm=row.version.llm.name,
        alias=row.name,
        version=row.version.number,
        updated_at=row.updated_at,
        frozen_at=row.frozen_at,
        frozen_by=row.frozen_by,
        frozen_reason=row.frozen_reason,
    )


def quantization(opened: Session, row: tables.Quantization) -> wire.Quantization:
    return wire.Quantization(
        type=row.type,
        artifact_name=row.artifact_name,
        file=row.file,
        size_bytes=row.size_bytes,
        sha256=row.sha256,
        tensors=row.tensors,
        parity=row.parity,
        scores=scores_of(opened, row.artifact_name).get(row.type, {}),
    )


def evaluation(row: tables.Evaluation) -> wire.Evaluation:
    return wire.Evaluation.model_validate(row, from_attributes=True)


def deployment(opened: Session, row: tables.Deployment) -> wire.Deployment:
    version_row = opened.get(tables.LlmVersion, row.version_id) if row.version_id else None
    return wire.Deployment(
        llm=row.llm.name,
        alias=row.alias,
        version=version_row.number if version_row else None,
        state=row.state.value,
        message=row.message,
        config=row.config,
        updated_at=row.updated_at,
    )


def account(row: tables.Account) -> wire.Account:
    return wire.Account(
        id=row.id,
        name=row.name,
        role=row.role.value,
        team=row.team.name if row.team else None,
        tier=row.tier,
        limits=row.limits,
        disabled_at=row.disabled_at,
        created_at=row.created_at,
    )


def api_key(opened: Session, row: tables.ApiKey) -> wire.ApiKey:
    return wire.ApiKey(
        id=row.id,
        account=row.account.name,
        name=row.name,
        prefix=row.prefix,
        scopes=row.scopes,
        used_at=identity.last_used(opened, row),
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )


def audit_event(row: tables.AuditEvent) -> wire.AuditEvent:
    return wire.AuditEvent(
        seq=row.seq,
        at=row.at,
        actor=row.actor,
        action=row.action,
        object=row.object,
        detail=row.detail,
        request_id=row.request_id,
        address=row.address,
        before=row.before,
        after=row.after,
        hash=row.hash.hex(),
    )
