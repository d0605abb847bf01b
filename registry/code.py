"""Submitted code: written whole or not at all, with the pipeline that works on it; what its steps leave is written here.

Knows neither analysers nor models: findings and analyses come as JSON.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Select, column, func, select, text, update
from sqlalchemy import delete as sql_delete
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.orm import Session, load_only

from raymill.policies.errors import Conflict, NotFound, RaymillError
from raymill.registry import audit, jobs, limits
from raymill.registry.audit import Actor
from raymill.registry.jobs import StepSpec
from raymill.registry.tables import (
    Account,
    CodeAnswer,
    CodeFinding,
    CodeSubmission,
    Job,
    JsonObject,
    Meter,
    Pipeline,
    Usage,
    new_id,
)

PIPELINE = "code"
"""Name of the pipelines of submissions."""

STEPS = ("forensic", "rebuild", "quality")
PER_DAY = "code_submissions_per_day"
MOST_BYTES = "code_bytes"
MAX_ATTEMPTS = 3


class LimitReached(RaymillError):
    """The account may not submit more today."""

    code = "limit_reached"


# Findings of a phase; those that are there already, by their id, are replaced.
PUT_FINDINGS = text("""
INSERT INTO code_finding (submission_id, phase, id, cwe, severity, file, line_start, data, outcome)
SELECT :submission_id, :phase, found ->> 'id', found ->> 'cwe', found ->> 'severity', found ->> 'file',
       (found ->> 'line_start')::int, found, :outcome
FROM jsonb_array_elements(CAST(:findings AS jsonb)) AS found
ON CONFLICT (submission_id, phase, id) DO UPDATE
SET data = excluded.data, severity = excluded.severity, outcome = excluded.outcome
""")

# What the files of submissions are called, without what is in them.
NAMES = text("""
SELECT id, jsonb_path_query_array(files, '$[*].name') AS names FROM code_submission WHERE id = ANY(:ids)
""").columns(CodeSubmission.id, column("names", JSONB))

# What became of the findings of the original.
PUT_OUTCOMES = text("""
UPDATE code_finding SET outcome = said.value
FROM jsonb_each_text(CAST(:outcomes AS jsonb)) AS said
WHERE submission_id = :submission_id AND phase = 'before' AND id = said.key
""")


@dataclass(frozen=True, kw_only=True)
class NewSubmission:
    """What is submitted, checked by whoever calls."""

    files: list[JsonObject]
    """name, language, text"""

    language: str | None
    comment: str
    tests: JsonObject | None
    size_bytes: int
    digest: str
    """sha256 over all that was sent."""


def submit(
    session: Session,
    new: NewSubmission,
    account: Account,
    actor: Actor,
    *,
    idempotency_key: str | None = None,
) -> CodeSubmission:
    """Write a submission and the jobs of its steps, and count it.

    Args:
        idempotency_key: the same key of the same account gives the same submission, which counts once.

    Raises:
        Conflict: the key was used with other code, or for a submission that was deleted.
        LimitReached: the account has submitted as often as it may until midnight UTC.
    """
    submission_id = new_id()
    config = {"submission_id": str(submission_id)}
    pipeline = jobs.create_pipeline(
        session,
        name=PIPELINE,
        # Others may see pipelines: names of files tell of their author's work.
        recipe={"code": {"sha256": new.digest}},
        steps=[
            StepSpec(
                step=step,
                kind=f"code_{step}",
                queue="short",
                config=config,
                depends_on=STEPS[max(0, number - 1) : number],
                max_attempts=MAX_ATTEMPTS,
            )
            for number, step in enumerate(STEPS)
        ],
        actor=actor,
        idempotency_key=_key_of(account, idempotency_key) if idempotency_key else None,
    )
    known = session.scalar(select(CodeSubmission).where(CodeSubmission.pipeline_id == pipeline.id))
    if known is not None:
        return known
    if pipeline.finished_at is not None:
        raise Conflict(
            f"Idempotency-Key {idempotency_key!r} was used for a submission that was deleted: use a new key"
        )
    _count(session, account)
    row = CodeSubmission(
        id=submission_id,
        pipeline_id=pipeline.id,
        account_id=account.id,
        language=new.language,
        comment=new.comment,
        files=new.files,
        tests=new.tests,
        size_bytes=new.size_bytes,
    )
    session.add(row)
    session.flush()
    return row


def _key_of(account: Account, key: str) -> str:
    """One account's key is none of another's, nor of a recipe."""
    return f"code/{account.id}/{hashlib.sha256(key.encode()).hexdigest()}"


def _count(session: Session, account: Account) -> None:
    """One more of today's. The meter's row is locked until the commit, so none slips past the limit."""
    most = limits.limits_of(session, account).get(PER_DAY)
    bucket = limits.window_start("day", dt.datetime.now(dt.UTC))
    counted = insert(Meter).values(name=f"account:{account.id}/code/day", bucket=bucket, used=1, leased=0)
    used = session.scalar(
        counted.on_conflict_do_update(
            index_elements=["name", "bucket"], set_={"used": Meter.used + 1}
        ).returning(Meter.used)
    )
    assert used is not None
    if most is not None and used > most:
        raise LimitReached(
            f"{account.name} may submit code {most} times a day (tier {account.tier}): wait until midnight UTC, "
            f"or ask for a higher {PER_DAY}"
        )


def most_bytes(session: Session, account: Account, default: int) -> int:
    """How large a submission of an account may be."""
    return limits.limits_of(session, account).get(MOST_BYTES, default)


def find(
    session: Session, submission_id: uuid.UUID, *, account_id: uuid.UUID | None = None
) -> CodeSubmission:
    """
    Args:
        account_id: only of this account.

    Raises:
        NotFound: there is none.
    """
    row = session.get(CodeSubmission, submission_id)
    if row is None or account_id not in (None, row.account_id):
        raise NotFound(f"no submission {submission_id}: `raymill code history` shows the ones there are")
    return row


def heads() -> Select[CodeSubmission]:
    """Submissions without their code and what was said of it, for lists; `names_of` has what their files are called."""
    return select(CodeSubmission).options(
        load_only(
            CodeSubmission.pipeline_id,
            CodeSubmission.language,
            CodeSubmission.comment,
            CodeSubmission.size_bytes,
            CodeSubmission.created_at,
            raiseload=True,
        )
    )


def names_of(session: Session, ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, list[str]]:
    """Names of the files of each submission."""
    return {row.id: row.names for row in session.execute(NAMES, {"ids": ids})}


def delete(session: Session, row: CodeSubmission, actor: Actor) -> None:
    """Forget the code and all that was found and said of it. Its jobs stay on record; they hold none of that.

    Raises:
        Conflict: it is not over.
    """
    state = pipeline_of(session, row).state
    if not state.terminal:
        raise Conflict(f"submission {row.id} is {state.value}: cancel it first")
    session.execute(sql_delete(CodeFinding).where(CodeFinding.submission_id == row.id))
    session.execute(sql_delete(CodeAnswer).where(CodeAnswer.submission_id == row.id))
    session.delete(row)
    session.flush()
    audit.record(session, actor, "code.delete", f"code/{row.id}")


def jobs_of(session: Session, row: CodeSubmission) -> list[Job]:
    """Its steps, in their order."""
    return list(session.scalars(select(Job).where(Job.pipeline_id == row.pipeline_id).order_by(Job.id)))


def pipeline_of(session: Session, row: CodeSubmission) -> Pipeline:
    return session.get_one(Pipeline, row.pipeline_id)


def findings_before(session: Session, submission_id: uuid.UUID) -> list[JsonObject]:
    """Those of the original, in the order of the code."""
    rows = select(CodeFinding.data).where(CodeFinding.submission_id == submission_id)
    order = (CodeFinding.file, CodeFinding.line_start, CodeFinding.id)
    return list(session.scalars(rows.where(CodeFinding.phase == "before").order_by(*order)))


def findings_of(session: Session, submission_id: uuid.UUID) -> list[CodeFinding]:
    """In the order of the code; what is new in the rebuilt code comes last. Those of the analysers alone until the
    forensic step has ended."""
    rows = select(CodeFinding).where(CodeFinding.submission_id == submission_id)
    order = (CodeFinding.phase.desc(), CodeFinding.file, CodeFinding.line_start, CodeFinding.id)
    return list(session.scalars(rows.order_by(*order)))


def answers_of(session: Session, submission_id: uuid.UUID) -> list[tuple[CodeAnswer, int | None]]:
    """Every answer of a model, in their order, with what it cost in micro-dollars; None: not recorded yet."""
    cost = (
        select(func.max(Usage.cost_micro_usd))
        .where(Usage.request_id == CodeAnswer.request_id)
        .scalar_subquery()
    )
    rows = select(CodeAnswer, cost).where(CodeAnswer.submission_id == submission_id).order_by(CodeAnswer.id)
    return [(answer, spent) for answer, spent in session.execute(rows)]


# --- what steps leave -------------------------------------------------------------------------------------


def add_answer(session: Session, answer: CodeAnswer) -> None:
    """Keep an answer, also one for a job that belongs to somebody else by now: it was given, and is paid for."""
    session.add(answer)


def usable_answer(session: Session, job_id: uuid.UUID, step_version: int) -> CodeAnswer | None:
    """The answer that an earlier attempt of the same job could use and did not live to make something of."""
    return session.scalar(
        select(CodeAnswer)
        .where(CodeAnswer.job_id == job_id, CodeAnswer.problem.is_(None))
        .where(CodeAnswer.step_version == step_version)
        .order_by(CodeAnswer.id.desc())
        .limit(1)
    )


def save_before(
    session: Session, job_id: uuid.UUID, epoch: int, submission_id: uuid.UUID, analysis: JsonObject
) -> None:
    """Keep what the analysers say, and their findings, before a model is asked. Raises LeaseLost."""
    jobs.owned(session, job_id, epoch)
    _set(session, submission_id, before=analysis)
    _put_findings(session, submission_id, "before", analysis["findings"])


def register_forensic(session: Session, job: Job, result: JsonObject) -> None:
    """The findings of analysers and model together, summary and dossier; committed with the job's end."""
    submission_id = uuid.UUID(job.config["submission_id"])
    _put_findings(session, submission_id, "before", result.pop("findings"))
    _set(session, submission_id, summary=result.pop("summary"), dossier=result.pop("dossier"))


def register_rebuild(session: Session, job: Job, result: JsonObject) -> None:
    """The rebuilt files, their difference, and what the analysers say of them."""
    submission_id = uuid.UUID(job.config["submission_id"])
    _set(
        session,
        submission_id,
        rebuilt=result.pop("files"),
        diff=result.pop("diff"),
        after=result.pop("after"),
    )


def register_quality(session: Session, job: Job, result: JsonObject) -> None:
    """The report, what became of each finding, and what is new."""
    submission_id = uuid.UUID(job.config["submission_id"])
    given = {"submission_id": submission_id, "outcomes": json.dumps(result.pop("outcomes"))}
    session.execute(PUT_OUTCOMES, given)
    _put_findings(session, submission_id, "after", result.pop("new"), outcome="new")
    _set(session, submission_id, quality=result.pop("quality"))


def _set(session: Session, submission_id: uuid.UUID, **values: object) -> None:
    # Nobody has the row in this session; to look for it there would cost as much as the update.
    rows = update(CodeSubmission).where(CodeSubmission.id == submission_id).values(**values)
    session.execute(rows.execution_options(synchronize_session=False))


def _put_findings(
    session: Session,
    submission_id: uuid.UUID,
    phase: str,
    findings: Sequence[JsonObject],
    outcome: str | None = None,
) -> None:
    if findings:
        given = {"submission_id": submission_id, "phase": phase, "outcome": outcome}
        session.execute(PUT_FINDINGS, {**given, "findings": json.dumps(findings)})
