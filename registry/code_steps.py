"""How each step of the code analysis asks its model: versions, of which one is in use, and one more may be tried on a share
of the submissions: a canary.

A configuration is checked by whoever calls (`serve/code/step_config.py` says what it may hold).
"""

from __future__ import annotations

import hashlib
import uuid
from typing import NamedTuple

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from raymill.policies.errors import Conflict, NotFound
from raymill.registry import audit
from raymill.registry.audit import Actor
from raymill.registry.code import STEPS
from raymill.registry.database import clock, one_at_a_time
from raymill.registry.tables import CodeStep, CodeStepVersion, JsonObject


def active(session: Session, step: str) -> CodeStepVersion | None:
    """The version in use; None: nobody has set one.

    Raises:
        NotFound: there is no such step.
    """
    _known(step)
    return session.scalar(
        select(CodeStepVersion)
        .join(CodeStep, (CodeStep.step == CodeStepVersion.step) & (CodeStep.active == CodeStepVersion.number))
        .where(CodeStepVersion.step == step)
    )


def missing(session: Session) -> list[str]:
    """Steps that nobody has set yet, in their order."""
    known = set(session.scalars(select(CodeStep.step)))
    return [step for step in STEPS if step not in known]


def for_submission(session: Session, step: str, submission_id: uuid.UUID) -> CodeStepVersion | None:
    """The version that a submission is given: the canary for its share of them, else the one in use. Raises NotFound."""
    _known(step)
    found = session.execute(
        select(CodeStep, CodeStepVersion)
        .join(CodeStepVersion, CodeStepVersion.step == CodeStep.step)
        .where(CodeStep.step == step, CodeStepVersion.number.in_([CodeStep.active, CodeStep.canary]))
    ).all()
    for used, version in found:
        tried = used.canary is not None and share_of(step, submission_id) < used.canary_share
        if version.number == (used.canary if tried else used.active):
            return version
    return None


def share_of(step: str, submission_id: uuid.UUID) -> float:
    """Where a submission lies between 0 and 1; each step deals anew, so that canaries of two steps do not go together."""
    digest = hashlib.sha256(f"{step}/{submission_id}".encode()).digest()
    return int.from_bytes(digest[:6]) / float(1 << 48)


def versions(session: Session, step: str) -> list[CodeStepVersion]:
    """The newest first. Raises NotFound."""
    _known(step)
    rows = select(CodeStepVersion).where(CodeStepVersion.step == step)
    return list(session.scalars(rows.order_by(CodeStepVersion.number.desc())))


def put(
    session: Session, step: str, config: JsonObject, actor: Actor, *, note: str = "", in_use: bool = True
) -> CodeStepVersion:
    """Another version, in use from now on. What is in use already makes none.

    Args:
        in_use: False keeps it, to be tried; the first version of a step is in use all the same.

    Raises:
        NotFound: there is no such step.
    """
    _take_turns(session, step)
    current = active(session, step)
    if current is not None and current.config == config:
        return current
    newest = session.scalar(select(func.max(CodeStepVersion.number)).where(CodeStepVersion.step == step))
    row = CodeStepVersion(
        step=step, number=(newest or 0) + 1, config=config, note=note, created_by=actor.name
    )
    session.add(row)
    session.flush()
    if in_use or current is None:
        _use(session, step, row.number)
    audit.record(session, actor, "code_step.set", f"code_step/{step}", version=row.number, note=note)
    return row


def use(session: Session, step: str, number: int, actor: Actor) -> CodeStepVersion:
    """Use an earlier version again, or a later one. Raises NotFound."""
    _take_turns(session, step)
    row = session.get(CodeStepVersion, (step, number))
    if row is None:
        raise NotFound(
            f"step {step} has no version {number}: `raymill code versions {step}` shows the ones there are"
        )
    current = active(session, step)
    if current is None or current.number != number:
        _use(session, step, number)
        previous = current.number if current is not None else None
        audit.record(session, actor, "code_step.use", f"code_step/{step}", version=number, previous=previous)
    return row


def set_canary(session: Session, step: str, number: int | None, share: float, actor: Actor) -> CodeStep:
    """Try a version on a share of the submissions; None ends the trial. Raises NotFound, Conflict."""
    _take_turns(session, step)
    row = session.get(CodeStep, step)
    if row is None:
        raise Conflict(f"step {step} has no version yet: `raymill code set {step} --model ROUTE` makes one")
    if number is not None and session.get(CodeStepVersion, (step, number)) is None:
        raise NotFound(
            f"step {step} has no version {number}: `raymill code versions {step}` shows the ones there are"
        )
    if number == row.active:
        raise Conflict(f"version {number} of step {step} is in use already: try another one")
    row.canary, row.canary_share = number, share if number is not None else 0.0
    session.flush()
    audit.record(
        session, actor, "code_step.canary", f"code_step/{step}", version=number, share=row.canary_share
    )
    return row


class Trial(NamedTuple):
    """How the submissions went whose step was done by one version."""

    version: int
    submissions: int
    succeeded: int
    findings: int
    """Of the analysers, in the originals of those that have a report."""

    resolved: int
    remaining: int
    new: int
    parse: int
    """Of those with a report whose original parses: whose rebuilt code does."""

    parsed_before: int


# Submissions by the version that answered for a step, and what was measured of them.
TRIALS = text("""
WITH used AS (
    SELECT DISTINCT submission_id, step_version FROM code_answer WHERE step = :step),
facts AS (
    SELECT used.step_version, pipeline.state, submission.quality -> 'measured' AS measured
    FROM used
    JOIN code_submission AS submission ON submission.id = used.submission_id
    JOIN pipeline ON pipeline.id = submission.pipeline_id)
SELECT step_version, count(*), count(*) FILTER (WHERE state = 'succeeded'),
       coalesce(sum((measured ->> 'findings_before')::int), 0), coalesce(sum((measured ->> 'resolved')::int), 0),
       coalesce(sum((measured ->> 'remaining')::int), 0), coalesce(sum((measured ->> 'new')::int), 0),
       count(*) FILTER (WHERE (measured ->> 'parses_before')::bool AND (measured ->> 'parses_after')::bool),
       count(*) FILTER (WHERE (measured ->> 'parses_before')::bool)
FROM facts GROUP BY step_version ORDER BY step_version DESC
""")


def trials(session: Session, step: str) -> list[Trial]:
    """What was measured of each version of a step, the newest first. Raises NotFound."""
    _known(step)
    return [Trial(*row) for row in session.execute(TRIALS, {"step": step})]


def _use(session: Session, step: str, number: int) -> None:
    """The version in use is no canary any more."""
    row = session.get(CodeStep, step)
    if row is None:
        row = CodeStep(step=step, active=number, changed_at=clock(session))
        session.add(row)
    row.active, row.changed_at = number, clock(session)
    if row.canary == number:
        row.canary, row.canary_share = None, 0.0
    session.flush()


def _take_turns(session: Session, step: str) -> None:
    _known(step)
    one_at_a_time(session, f"code_step/{step}")


def _known(step: str) -> None:
    if step not in STEPS:
        raise NotFound(f"no step {step!r}: the steps are {', '.join(STEPS)}")
