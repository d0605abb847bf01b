"""Watches for drift: what is looked at and when, what each look found, and what follows.

A look is a job (`serve/drift.py`). Its result becomes a row here in the transaction that ends the job, and when it is
worse than the look before, in the same transaction an event that triggers wait for (`drift/NAME`), an audit row, and what
the watch says should follow: the alias is frozen, or a job is written that rolls it back.

Where the target is an alias that a version tries itself at, each look is two jobs, so that the load of the questions is the
same on both sides. Of the canary nothing follows here: `canary_looks.py` takes it back.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Sequence
from typing import cast

from sqlalchemy import select
from sqlalchemy.orm import Session

from raymill.policies.drift import RANK, Severity
from raymill.policies.errors import Conflict, Invalid
from raymill.registry import aliases, audit, cron, datasets, named, triggers
from raymill.registry.audit import SYSTEM, Actor
from raymill.registry.comparison import find_version_target
from raymill.registry.database import clock
from raymill.registry.drift_config import DriftConfig
from raymill.registry.jobs import JobSpec, enqueue, raw
from raymill.registry.named import NAME
from raymill.registry.tables import (
    Canary,
    CanaryState,
    DriftRun,
    DriftWatch,
    Job,
    JsonObject,
    Llm,
    new_id,
)

KIND = "drift"
ROLLBACK = "drift_rollback"
DUE_LIMIT = 100


def create(
    session: Session, name: str, actor: Actor, config: DriftConfig, *, enabled: bool = True
) -> DriftWatch:
    """A new watch. A data set without a number is pinned to its newest version.

    Raises:
        Invalid: the name, the schedule or the target is none.
        Conflict: the name is taken.
        NotFound: there is no such model, alias, version or data set.
    """
    if not NAME.fullmatch(name):
        raise Invalid(f"a watch cannot be called {name[:80]!r}: match {NAME.pattern}", param="name")
    if config.schedule is not None:
        cron.check_schedule(config.schedule, config.timezone)
    if config.target is not None:
        find_version_target(session, config.target)
    row = DriftWatch(
        id=new_id(),
        name=name,
        config=_pinned(session, config).model_dump(mode="json"),
        enabled=enabled,
        created_by=actor.name,
    )
    row.next_at = _next_time(session, row) if enabled else None
    named.add(session, row)
    audit.record(session, actor, "drift.create", f"drift/{name}", config=row.config)
    session.refresh(row)
    return row


def find(session: Session, name: str, *, lock: bool = False) -> DriftWatch:
    """Raises NotFound."""
    return named.find(session, DriftWatch, name, lock=lock)


def config_of(row: DriftWatch) -> DriftConfig:
    return DriftConfig.model_validate(row.config)


def enable(session: Session, name: str, actor: Actor, *, enabled: bool) -> DriftWatch:
    """Let it look by its schedule, or not. Raises NotFound."""
    row = find(session, name, lock=True)
    if row.enabled != enabled:
        row.enabled = enabled
        row.next_at = _next_time(session, row) if enabled else None
        audit.record(session, actor, "drift.enable" if enabled else "drift.disable", f"drift/{name}")
        session.flush()
    return row


def remove(session: Session, name: str, actor: Actor) -> DriftWatch:
    """Forget it and what it found; the audit log keeps that it did. Raises NotFound."""
    row = find(session, name, lock=True)
    session.delete(row)
    audit.record(session, actor, "drift.delete", f"drift/{name}")
    session.flush()
    return row


def look(session: Session, row: DriftWatch, *, baseline: bool = False) -> uuid.UUID:
    """Write the job of a look, and that of one at the target's canary; the id of the first, or of the one of its kind that
    has not ended yet where there is one.

    Args:
        baseline: later canary scores are held against those of this look.
    """
    config: JsonObject = {"watch_id": str(row.id), "baseline": baseline}
    key = f"drift/{row.id}/baseline" if baseline else f"drift/{row.id}"
    specs = [JobSpec(kind=KIND, name=row.name, config=config, unique_key=key)]
    trial = None if baseline else _trial_of(session, row)
    if trial is not None:
        of_canary = {**config, "promotion_id": str(trial.promotion_id)}
        key = f"drift/{row.id}/{trial.promotion_id}"
        specs.append(JobSpec(kind=KIND, name=row.name, config=of_canary, unique_key=key))
    row.last_job_id = enqueue(raw(session), specs)[0]
    session.flush()
    return row.last_job_id


def look_at_canary(session: Session, llm: str, alias: str) -> int:
    """Have the watches of an alias look at it, and at its canary, which is ready. Returns how many there are."""
    rows = select(DriftWatch).where(
        DriftWatch.enabled, DriftWatch.config["target"].astext == f"{llm}@{alias}"
    )
    watching = [row for row in session.scalars(rows.order_by(DriftWatch.id)) if _trial_of(session, row)]
    for row in watching:
        look(session, row)
    return len(watching)


def _trial_of(session: Session, row: DriftWatch) -> Canary | None:
    """The canary that takes its share at the target, where there are scores that its own can be held against."""
    config = config_of(row)
    if config.canary is None or config.target is None or baseline_of(session, row.id) is None:
        return None
    llm, _, alias = config.target.partition("@")
    rows = select(Canary).join(Llm, Llm.id == Canary.llm_id).where(Llm.name == llm, Canary.alias == alias)
    return session.scalar(rows.where(Canary.state == CanaryState.RUNNING))


def due(session: Session) -> int:
    """Write the jobs of the watches whose time has come. Of the times that were missed the latest counts, once.

    Returns:
        How many there are.
    """
    now = clock(session)
    rows = session.scalars(
        select(DriftWatch)
        .where(DriftWatch.enabled, DriftWatch.next_at <= now)
        .order_by(DriftWatch.next_at)
        .limit(DUE_LIMIT)
        .with_for_update(skip_locked=True)
        .execution_options(populate_existing=True)
    ).all()
    for row in rows:
        look(session, row)
        try:
            row.next_at = _next_time(session, row)
        except Invalid as error:  # its time zone is gone from this machine: it must not hold up the others
            row.next_at = None
            audit.record(session, SYSTEM, "drift.fail", f"drift/{row.name}", error=str(error))
    session.flush()
    return len(rows)


def baseline_of(session: Session, watch_id: uuid.UUID) -> DriftRun | None:
    """The newest look whose canary scores are what later ones are held against."""
    rows = select(DriftRun).where(DriftRun.watch_id == watch_id, DriftRun.baseline)
    return session.scalar(rows.order_by(DriftRun.id.desc()).limit(1))


def last_run(session: Session, watch_id: uuid.UUID) -> DriftRun | None:
    """The newest look at the target itself."""
    rows = select(DriftRun).where(DriftRun.watch_id == watch_id, DriftRun.promotion_id.is_(None))
    return session.scalar(rows.order_by(DriftRun.id.desc()).limit(1))


def register(session: Session, job: Job, result: JsonObject) -> None:
    """Effects of a look: its row and, where it is worse than the look before, the event and what follows."""
    if "skipped" in result:  # the canary had ended
        return
    scores = result.pop("scores")
    watch = session.get(DriftWatch, uuid.UUID(job.config["watch_id"]), with_for_update=True)
    if watch is None:  # it was deleted meanwhile
        return
    severity: Severity = result["severity"]
    before = last_run(session, watch.id)
    usual = cast(Severity, before.severity) if before is not None else "none"
    of_canary = job.config.get("promotion_id")
    news = of_canary is None and RANK[severity] > RANK[usual]
    config = config_of(watch)
    follows: dict[Severity, str] = {"none": "", "minor": config.on_minor, "major": config.on_major}
    row = DriftRun(
        id=new_id(),
        watch_id=watch.id,
        job_id=job.id,
        severity=severity,
        news=news,
        action=follows[severity] if news else "",
        reasons=result["reasons"],
        version=result["version"],
        canary=result["canary"],
        traffic=result["traffic"],
        baseline=result["baseline"],
        scores=scores,
        promotion_id=uuid.UUID(of_canary) if of_canary is not None else None,
    )
    session.add(row)
    session.flush()
    if of_canary is None and severity != usual:
        audit.record(
            session,
            SYSTEM,
            "drift.find",
            f"drift/{watch.name}",
            severity=severity,
            usual=usual,
            reasons=row.reasons,
            does=row.action,
        )
    if news:
        about: JsonObject = {"severity": severity, "reasons": row.reasons, "run": str(row.id)}
        triggers.happened(session, "drift", f"drift/{watch.name}", str(row.id), about)
        _act(session, watch, row, config)


def _act(session: Session, watch: DriftWatch, row: DriftRun, config: DriftConfig) -> None:
    if row.action not in {"freeze", "rollback"}:
        return
    llm, _, alias = (config.target or "").partition("@")
    reason = reason_of(watch.name, row.severity, row.reasons)
    if row.action == "freeze":
        at = aliases.alias_in_turn(session, llm, alias).version.number
        if row.version not in {None, at}:
            return  # it has moved on from what had drifted
        aliases.freeze(session, llm, alias, Actor(name=watch.created_by), reason)
        return
    leaves = row.version or aliases.find_alias(session, llm, alias).version.number
    about: JsonObject = {"llm": llm, "alias": alias, "leaves": leaves, "reason": reason}
    about["actor"] = watch.created_by
    key = f"drift/{row.id}"
    enqueue(
        raw(session),
        [JobSpec(kind=ROLLBACK, queue="hooks", name=watch.name, config=about, idempotency_key=key)],
    )


def reason_of(name: str, severity: str, reasons: Sequence[str]) -> str:
    return f"{severity} drift by {name}: {'; '.join(reasons)}"[:500]


def _pinned(session: Session, config: DriftConfig) -> DriftConfig:
    canary = config.canary
    if canary is None or canary.dataset is None:
        return config
    name, _, number = canary.dataset.partition("@")
    row = datasets.find(session, name, int(number) if number else None)
    if not row.test_rows:
        raise Conflict(f"{row.name}@{row.number} has no held-out rows: name a data set that has some")
    return config.model_copy(
        update={"canary": canary.model_copy(update={"dataset": f"{row.name}@{row.number}"})}
    )


def _next_time(session: Session, row: DriftWatch) -> dt.datetime | None:
    config = config_of(row)
    if config.schedule is None:
        return None
    return cron.next_time(config.schedule, config.timezone, clock(session))
