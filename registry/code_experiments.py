"""Faults that are put into code analysis on purpose, to see that nothing is lost by them. Each ends by itself."""

from __future__ import annotations

import datetime as dt
import uuid

from sqlalchemy import select
from sqlalchemy.orm import Session

from raymill.policies.errors import NotFound
from raymill.registry import audit
from raymill.registry.audit import Actor
from raymill.registry.database import clock
from raymill.registry.tables import CodeExperiment


def start(
    session: Session, actor: Actor, *, fault: str, share: float, delay_s: float, seconds: float
) -> CodeExperiment:
    """Begin one; it meets questions within a second."""
    until = clock(session) + dt.timedelta(seconds=seconds)
    row = CodeExperiment(fault=fault, share=share, delay_s=delay_s, until=until, started_by=actor.name)
    session.add(row)
    session.flush()
    what = f"code_experiment/{row.id}"
    given = {"fault": fault, "share": share, "delay_s": delay_s, "seconds": seconds}
    audit.record(session, actor, "code_experiment.start", what, after=given)
    return row


def stop(session: Session, experiment_id: uuid.UUID, actor: Actor) -> CodeExperiment:
    """End one before its time; what has ended already stays as it is. Raises NotFound."""
    row = session.get(CodeExperiment, experiment_id, with_for_update=True)
    if row is None:
        raise NotFound(f"no experiment {experiment_id}: `raymill code experiments` shows the ones there are")
    if row.stopped_at is None and row.until > clock(session):
        row.stopped_at = clock(session)
        audit.record(session, actor, "code_experiment.stop", f"code_experiment/{row.id}")
    return row


def running(session: Session) -> list[CodeExperiment]:
    """Those that meet questions now, the oldest first."""
    rows = select(CodeExperiment).where(CodeExperiment.stopped_at.is_(None))
    return list(
        session.scalars(rows.where(CodeExperiment.until > clock(session)).order_by(CodeExperiment.id))
    )
