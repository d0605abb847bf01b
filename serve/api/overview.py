"""The one screen that somebody looks at in the morning. Reads only, each part from an index of what it shows."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from raymill.client.console_types import Need, Overview
from raymill.client.usage_types import UsageGroup
from raymill.cluster.settings import Settings
from raymill.registry import usage
from raymill.registry.requests import state_of
from raymill.registry.tables import (
    Deployment,
    DeploymentState,
    DriftRun,
    DriftWatch,
    Job,
    JobState,
    Promotion,
    PromotionState,
)
from raymill.registry.usage_filters import Filters
from raymill.serve.api import runs, wire
from raymill.serve.api.context import Caller
from raymill.serve.api.scope import only_own
from raymill.serve.operating import facts

SHOWN = 10
"""Of each kind."""

DRIFT_FOR = dt.timedelta(days=7)


def read(session: Session, who: Caller, settings: Settings) -> Overview:
    """All parts, as they are now."""
    now = session.scalar(select(func.statement_timestamp())) or dt.datetime.now(dt.UTC)
    going = select(Job).where(Job.state == JobState.RUNNING, Job.lease_until.is_not(None))
    queued = select(Job).where(Job.state == JobState.QUEUED)
    trained = session.scalars(
        going.where(Job.kind.in_(runs.KINDS)).order_by(Job.id.desc()).limit(SHOWN)
    ).all()
    waiting = session.scalars(queued.order_by(Job.priority.desc(), Job.run_at, Job.id).limit(SHOWN)).all()
    return Overview(
        running=runs.as_runs(session, trained),
        running_jobs=_count(session, going.with_only_columns(func.count())),
        waiting=wire.jobs_with_reasons(session, waiting),
        waiting_jobs=_count(session, queued.with_only_columns(func.count())),
        served=[
            wire.deployment(session, row)
            for row in session.scalars(select(Deployment).order_by(Deployment.updated_at.desc()).limit(50))
        ],
        needs=_needs(session, settings.metrics_dir, now),
        today=_today(session, who, now),
    )


def _count(session: Session, statement: object) -> int:
    found: int | None = session.scalar(statement)  # type: ignore[call-overload]
    return found or 0


def _needs(session: Session, metrics_dir: Path, now: dt.datetime) -> list[Need]:
    found = [*_approvals(session, now), *_badly_ended(session), *_drift(session, now), *_deployments(session)]
    found.sort(key=lambda need: need.at or now, reverse=True)
    return [*_breakers(metrics_dir), *found]


def _approvals(session: Session, now: dt.datetime) -> list[Need]:
    rows = session.scalars(
        select(Promotion)
        .where(Promotion.state.in_((PromotionState.WAITING, PromotionState.CANARY)))
        .order_by(Promotion.id.desc())
        .limit(SHOWN)
    )
    texts = {
        "pending": "waits for approvals: {have} of {needed}",
        "approved": "is approved and can be executed",
        "canary": "is a canary",
    }
    return [
        Need(
            kind="approval",
            name=f"{row.version.llm.name} {row.version.number} to {row.alias}",
            text=texts[state].format(have=len(row.approvals), needed=row.approvals_needed),
            id=str(row.id),
            at=row.created_at,
        )
        for row in rows
        if (state := state_of(row, now)) in texts
    ]


def _badly_ended(session: Session) -> list[Need]:
    """Jobs that are out of attempts, and those that failed for their input: both stay until somebody looks."""
    rows = session.scalars(
        select(Job)
        .where(Job.state.in_((JobState.DEAD, JobState.FAILED)), Job.ended_by.is_(None))
        .order_by(Job.id.desc())
        .limit(SHOWN)
    )
    return [
        Need(
            kind="dead" if row.state is JobState.DEAD else "failed",
            name=f"{row.name} {row.step}",
            text=(row.error or "no reason was told")[:300],
            id=str(row.id),
            at=row.finished_at,
        )
        for row in rows
    ]


def _drift(session: Session, now: dt.datetime) -> list[Need]:
    of_target = DriftRun.promotion_id.is_(None)  # looks at canaries are told with their promotion
    newest = (
        select(DriftRun.watch_id, func.max(DriftRun.at).label("at"))
        .where(of_target)
        .group_by(DriftRun.watch_id)
        .subquery()
    )
    rows = session.execute(
        select(DriftWatch.name, DriftRun)
        .join(DriftRun, DriftRun.watch_id == DriftWatch.id)
        .join(newest, (newest.c.watch_id == DriftRun.watch_id) & (newest.c.at == DriftRun.at))
        .where(of_target, DriftWatch.enabled, DriftRun.severity != "none", DriftRun.at > now - DRIFT_FOR)
        .limit(SHOWN)
    )
    return [
        Need(kind="drift", name=name, text=f"{row.severity} drift: {'; '.join(row.reasons)}"[:300], at=row.at)
        for name, row in rows
    ]


def _deployments(session: Session) -> list[Need]:
    rows = session.scalars(select(Deployment).where(Deployment.state == DeploymentState.FAILED).limit(SHOWN))
    return [
        Need(kind="deployment", name=f"{row.llm.name}@{row.alias}", text=row.message[:300], at=row.updated_at)
        for row in rows
    ]


def _breakers(metrics_dir: Path) -> list[Need]:
    """Of the gateway's replicas on this machine, as they wrote them last."""
    return [
        Need(
            kind="breaker",
            name=target,
            text="gets no requests: too many failed" if state == "open" else "is tried again after failures",
        )
        for target, state in facts.parts_of(metrics_dir).breakers.items()
    ]


def _today(session: Session, who: Caller, now: dt.datetime) -> UsageGroup:
    midnight = now.astimezone(dt.UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    until = now + dt.timedelta(seconds=1)
    filters = Filters(account_id=only_own(session, who))
    return UsageGroup.model_validate(
        usage.summarize(session, since=midnight, until=until, filters=filters).total
    )
