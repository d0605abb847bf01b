"""From rows of code analysis to wire types."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from raymill.client import code_types as types
from raymill.registry import code
from raymill.registry.code_steps import Trial
from raymill.registry.tables import (
    CodeAnswer,
    CodeStep,
    CodeStepVersion,
    CodeSubmission,
    Job,
    JsonObject,
    Pipeline,
)


def submission(
    row: CodeSubmission, names: list[str], pipeline: Pipeline, jobs: list[Job]
) -> types.Submission:
    """`names` are those of its files: in a list the row comes without them."""
    return types.Submission(**_head(row, names, pipeline, jobs))  # type: ignore[arg-type]


def _head(row: CodeSubmission, names: list[str], pipeline: Pipeline, jobs: list[Job]) -> dict[str, object]:
    open_steps = [job.step for job in jobs if not job.state.terminal]
    return {
        "id": row.id,
        "state": pipeline.state.value,
        "step": open_steps[0] if open_steps else None,
        "error": pipeline.error,
        "language": row.language,
        "files": names,
        "size_bytes": row.size_bytes,
        "comment": row.comment,
        "created_by": pipeline.created_by,
        "created_at": row.created_at,
        "finished_at": pipeline.finished_at,
    }


def detail(opened: Session, row: CodeSubmission) -> types.SubmissionDetail:
    pipeline, jobs = code.pipeline_of(opened, row), code.jobs_of(opened, row)
    head = _head(row, row.names, pipeline, jobs)
    return types.SubmissionDetail(
        **head,  # type: ignore[arg-type]
        pipeline_id=row.pipeline_id,
        steps=[_step(job) for job in jobs],
        findings=[_finding(each.data, each.outcome) for each in code.findings_of(opened, row.id)],
        looked_at=(row.before or {}).get("files", []),
        summary=row.summary,
        dossier=row.dossier,
        rebuilt=[types.CodeFile(**file) for file in row.rebuilt] if row.rebuilt is not None else None,
        diff=row.diff,
        quality=row.quality,
    )


def _step(job: Job) -> types.CodeStepState:
    return types.CodeStepState(
        step=job.step,  # type: ignore[arg-type]
        state=job.state.value,
        attempt=job.attempt,
        job_id=job.id,
        error=job.error,
        model=(job.result or {}).get("model"),
    )


def _finding(data: JsonObject, outcome: str | None) -> types.CodeFinding:
    return types.CodeFinding(
        **{name: value for name, value in data.items() if name != "rule"}, outcome=outcome
    )


def answer(row: CodeAnswer, cost_micro_usd: int | None) -> types.CodeAnswer:
    return types.CodeAnswer(
        id=row.id,
        step=row.step,  # type: ignore[arg-type]
        attempt=row.epoch,
        number=row.number,
        step_version=row.step_version,
        model=row.model,
        problem=row.problem,
        content=row.content,
        prompt_tokens=row.prompt_tokens,
        completion_tokens=row.completion_tokens,
        cost_micro_usd=cost_micro_usd,
        latency_ms=row.latency_ms,
        at=row.at,
    )


def step_version(row: CodeStepVersion, used: CodeStep | None) -> types.CodeStepVersion:
    return types.CodeStepVersion(
        step=row.step,  # type: ignore[arg-type]
        version=row.number,
        **_in_use(row.number, used),
        config=row.config,
        note=row.note,
        created_by=row.created_by,
        created_at=row.created_at,
    )


def trial(row: Trial, used: CodeStep | None) -> types.CodeTrial:
    return types.CodeTrial(
        version=row.version,
        **_in_use(row.version, used),
        submissions=row.submissions,
        succeeded=row.succeeded,
        findings=row.findings,
        resolved=row.resolved,
        remaining=row.remaining,
        new=row.new,
        resolved_share=row.resolved / row.findings if row.findings else None,
        parse_share=row.parse / row.parsed_before if row.parsed_before else None,
    )


def _in_use(number: int, used: CodeStep | None) -> dict[str, Any]:
    tried = used is not None and used.canary == number
    return {
        "active": used is not None and used.active == number,
        "canary_share": used.canary_share if used is not None and tried else 0.0,
    }
