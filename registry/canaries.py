"""Canaries: a version that was promoted answers a share of the alias's requests before the alias moves.

    begin ──> pending ──> starting <──> running ──step, step──> advanced      the alias has moved
                 └───────────┴────────────┴──> ended                          it has not, and the reason is kept

All that is known of one is its row, and who changes it has the turn of the model's aliases (`aliases.take_turn`): a
service that was killed goes on with it where it was. What it is measured by and when it goes on is `canary_looks.py`'s;
this knows only rows, and what ends one: `aliases.py` asks for that when it freezes or moves an alias.
"""

from __future__ import annotations

import datetime as dt
import uuid

from sqlalchemy import select
from sqlalchemy.orm import Session

from raymill.policies.errors import Conflict
from raymill.registry import audit
from raymill.registry.audit import SYSTEM, Actor
from raymill.registry.canary_config import CanaryConfig
from raymill.registry.database import clock
from raymill.registry.tables import (
    Alias,
    Canary,
    CanaryState,
    Deployment,
    JsonObject,
    LlmVersion,
    Promotion,
    PromotionState,
)


def config_of(row: Canary) -> CanaryConfig:
    return CanaryConfig.model_validate(row.config)


def share_of(row: Canary) -> float:
    """The share that it takes, or will take once it is ready."""
    return config_of(row).shares[row.step]


def running(session: Session) -> list[Canary]:
    """Those that have not ended."""
    rows = select(Canary).where(Canary.ended_at.is_(None)).order_by(Canary.promotion_id)
    return list(session.scalars(rows.execution_options(populate_existing=True)))


def running_at(session: Session, llm_id: uuid.UUID, alias: str) -> Canary | None:
    """The one of an alias."""
    rows = select(Canary).where(Canary.llm_id == llm_id, Canary.alias == alias, Canary.ended_at.is_(None))
    return session.scalar(rows.execution_options(populate_existing=True))


def running_of(session: Session, version_id: uuid.UUID) -> Canary | None:
    """One of a version, at whatever alias."""
    rows = select(Canary).where(Canary.version_id == version_id, Canary.ended_at.is_(None)).limit(1)
    return session.scalar(rows)


def why_none(session: Session, version: LlmVersion, alias: str) -> str | None:
    """Why a canary of `version` has nothing that it could be compared with; None: it has."""
    llm = version.llm.name
    at = session.get(Alias, (version.llm_id, alias), populate_existing=True)
    if at is None:
        return f"{llm} has no {alias} yet"
    if at.version_id == version.id:
        return f"{llm}@{alias} is version {version.number} already"
    served = session.get(Deployment, (version.llm_id, alias), populate_existing=True)
    if served is None or served.serving_version_id != at.version_id:
        return f"version {at.version.number} of {llm} does not answer for {alias} now (`raymill status`)"
    return None


def check_possible(session: Session, version: LlmVersion, alias: str) -> None:
    """Raises Conflict: there is nothing to compare it with."""
    why = why_none(session, version, alias)
    if why is not None:
        raise Conflict(
            f"{why}, so there is nothing to compare a canary with: ask for the promotion without one"
        )


def begin(session: Session, promotion: Promotion, actor: Actor) -> bool:
    """Let a promotion that is allowed and approved begin as its canary. The caller has its turn.

    Returns:
        Whether it does: where nothing answers for the alias, it moves at once.

    Raises:
        Conflict: something answers, and not yet, or not any more, the version that the alias is at.
    """
    version = promotion.version
    if promotion.canary is None:
        return False
    why = why_none(session, version, promotion.alias)
    if why is not None:
        key = (version.llm_id, promotion.alias)
        at, served = session.get(Alias, key), session.get(Deployment, key)
        answers = served is not None and served.serving_version_id is not None
        if at is not None and at.version_id != version.id and answers:
            raise Conflict(f"{why}: a canary waits until it does, or roll back first")
        return False
    end(
        session,
        version.llm_id,
        promotion.alias,
        f"version {version.number} was promoted (promotion {promotion.id})",
        actor,
    )
    row = Canary(
        llm_id=version.llm_id,
        alias=promotion.alias,
        version_id=version.id,
        current_id=session.get_one(Alias, (version.llm_id, promotion.alias)).version_id,
        config=promotion.canary,
        state=CanaryState.PENDING,
    )
    promotion.trial = row
    promotion.state = PromotionState.CANARY
    session.flush()
    audit.record(
        session,
        actor,
        "canary.begin",
        f"promotion/{promotion.id}",
        alias=f"llm/{version.llm.name}@{promotion.alias}",
        version=version.number,
        current=row.current.number,
        shares=list(config_of(row).shares),
    )
    return True


def end(session: Session, llm_id: uuid.UUID, alias: str, reason: str, actor: Actor) -> Promotion | None:
    """End an alias's canary, if one runs; the alias stays. The caller has its turn, and tells who follows aliases.

    Returns:
        The promotion that it was of.
    """
    row = running_at(session, llm_id, alias)
    if row is None:
        return None
    promotion = close(session, row, CanaryState.ENDED, reason, actor)
    promotion.state, promotion.note = PromotionState.ABORTED, reason
    audit.record(
        session, actor, "canary.end", f"promotion/{promotion.id}", reason=reason, share=share_of(row)
    )
    return promotion


def close(session: Session, row: Canary, state: CanaryState, reason: str | None, actor: Actor) -> Promotion:
    """It runs no more, whatever came of it."""
    row.state, row.reason, row.ended_at = state, reason, clock(session)
    row.promotion.closed_at, row.promotion.closed_by = row.ended_at, actor.name
    session.flush()
    return row.promotion


def serve_with(session: Session, row: Canary, serving: JsonObject) -> None:
    """Have it deployed with these settings; anew, where they are others."""
    if serving_of(session, row) != serving:
        row.state = CanaryState.PENDING
    row.promotion.serving = serving
    session.flush()


def serving_of(session: Session, row: Canary) -> JsonObject:
    """The settings that it is deployed with: its own, or those of the present version."""
    return row.promotion.serving or session.get_one(Deployment, (row.llm_id, row.alias)).config


def report(session: Session, row: Canary, state: CanaryState) -> None:
    """How its deployment is: called by the reconciler. It takes its share while it is `running`."""
    if row.state is state or row.ended_at is not None:
        return
    if row.state is CanaryState.PENDING and state is CanaryState.RUNNING:
        return  # what is ready was deployed with other settings
    row.state = state
    if state is CanaryState.RUNNING and row.step_at is None:
        row.step_at = clock(session)
        what = f"promotion/{row.promotion_id}"
        audit.record(session, SYSTEM, "canary.ready", what, version=row.version.number, share=share_of(row))
    session.flush()


def next_step(session: Session, row: Canary) -> bool:
    """Go on to the next share. Returns False where this is the last one."""
    if row.step + 1 >= len(config_of(row).shares):
        return False
    row.step, row.step_at, row.looks, row.measured = row.step + 1, clock(session), 0, None
    audit.record(session, SYSTEM, "canary.step", f"promotion/{row.promotion_id}", share=share_of(row))
    return True


def elapsed_s(row: Canary, now: dt.datetime) -> float:
    """Since it takes this share; of one that was never ready, since it began."""
    return (now - (row.step_at or row.created_at)).total_seconds()
