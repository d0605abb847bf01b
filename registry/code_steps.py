"""How each step of the code analysis asks its model: versions, of which one is in use.

A configuration is checked by whoever calls (`serve/code/step_config.py` says what it may hold).
"""

from __future__ import annotations

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from raymill.policies.errors import NotFound
from raymill.registry import audit
from raymill.registry.audit import Actor
from raymill.registry.code import STEPS
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


def versions(session: Session, step: str) -> list[CodeStepVersion]:
    """The newest first. Raises NotFound."""
    _known(step)
    rows = select(CodeStepVersion).where(CodeStepVersion.step == step)
    return list(session.scalars(rows.order_by(CodeStepVersion.number.desc())))


def put(session: Session, step: str, config: JsonObject, actor: Actor, *, note: str = "") -> CodeStepVersion:
    """Another version, in use from now on. What is in use already makes none. Raises NotFound."""
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


def _use(session: Session, step: str, number: int) -> None:
    session.merge(
        CodeStep(step=step, active=number, changed_at=session.scalar(select(func.clock_timestamp())))
    )
    session.flush()


def _take_turns(session: Session, step: str) -> None:
    _known(step)
    session.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 2))"), {"key": f"code_step/{step}"}
    )


def _known(step: str) -> None:
    if step not in STEPS:
        raise NotFound(f"no step {step!r}: the steps are {', '.join(STEPS)}")
