"""Aliases: where they point, where they pointed, and whether they may move.

All that moves or holds the aliases of one model takes turns (`take_turn`), so their history is one line. Only
`registry/promotion.py` moves one.
"""

from __future__ import annotations

import datetime as dt
import uuid

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import distinct_on, insert
from sqlalchemy.orm import Session

from raymill.policies.errors import Conflict, NotFound
from raymill.registry import audit, canaries, triggers
from raymill.registry.audit import Actor
from raymill.registry.database import one_at_a_time
from raymill.registry.jobs import notify
from raymill.registry.tables import Alias, AliasMove, Job, Llm, LlmVersion, Promotion

ALIAS_CHANNEL = "raymill_alias"
"""Notified when an alias has moved, so that gateways and the reconciler follow."""


def take_turn(session: Session, llm_id: uuid.UUID) -> None:
    """Nobody else moves or holds an alias of that model until the caller's commit."""
    one_at_a_time(session, f"aliases/{llm_id}")


def find_alias(session: Session, llm: str, name: str) -> Alias:
    """As it is now. Raises NotFound, naming what there is."""
    rows = select(Alias).join(Llm, Llm.id == Alias.llm_id).where(Llm.name == llm).order_by(Alias.name)
    there = {
        row.name: row for row in session.scalars(rows.execution_options(populate_existing=True)).unique()
    }
    if name not in there:
        cure = f"it has {', '.join(there)}" if there else "promote a version to it first"
        raise NotFound(f"{llm!r} has no alias {name!r}: {cure}")
    return there[name]


def freeze(session: Session, llm: str, name: str, actor: Actor, reason: str | None = None) -> Alias:
    """Hold an alias where it is: promotions and roll backs are refused until it is unfrozen, and its canary ends.

    What is frozen already stays as it is, with the first reason.

    Raises:
        NotFound: there is no such alias.
    """
    row = alias_in_turn(session, llm, name)
    if row.frozen_at is None:
        row.frozen_at, row.frozen_by, row.frozen_reason = dt.datetime.now(dt.UTC), actor.name, reason
        audit.record(session, actor, "alias.freeze", f"llm/{llm}@{name}", reason=reason)
        why = f"{llm}@{name} was frozen by {actor.name}" + (f": {reason}" if reason else "")
        if canaries.end(session, row.llm_id, name, why, actor) is not None:
            notify(session, ALIAS_CHANNEL, llm)
    return row


def unfreeze(session: Session, llm: str, name: str, actor: Actor) -> Alias:
    """Let an alias move again. Raises NotFound."""
    row = alias_in_turn(session, llm, name)
    if row.frozen_at is not None:
        row.frozen_at = row.frozen_by = row.frozen_reason = None
        audit.record(session, actor, "alias.unfreeze", f"llm/{llm}@{name}")
    return row


def check_not_frozen(session: Session, llm_id: uuid.UUID, name: str) -> None:
    """Raises Conflict, naming who froze it and why."""
    row = session.get(Alias, (llm_id, name), populate_existing=True)
    if row is None or row.frozen_at is None:
        return
    why = f" ({row.frozen_reason})" if row.frozen_reason else ""
    llm = row.version.llm.name
    raise Conflict(
        f"{llm}@{name} was frozen by {row.frozen_by}{why}: `raymill alias unfreeze {llm} {name}` lets it move"
    )


def move(session: Session, version: LlmVersion, promotion: Promotion, actor: Actor) -> None:
    """Point an alias to `version`; a canary of it ends. The caller has its turn, and the right to."""
    key = (version.llm_id, promotion.alias)
    canaries.end(session, *key, f"the alias was moved to version {version.number} meanwhile", actor)
    alias = session.get(Alias, key, with_for_update=True, populate_existing=True)
    previous_id = alias.version_id if alias else None
    now = dt.datetime.now(dt.UTC)
    values = {"llm_id": key[0], "name": key[1], "version_id": version.id, "updated_at": now}
    session.execute(
        insert(Alias)
        .values(**values)
        .on_conflict_do_update(
            index_elements=["llm_id", "name"], set_={"version_id": version.id, "updated_at": now}
        )
    )
    session.add(
        AliasMove(
            llm_id=version.llm_id,
            alias=promotion.alias,
            version_id=version.id,
            previous_version_id=previous_id,
            promotion_id=promotion.id,
            actor=actor.name,
        )
    )
    what = f"llm/{version.llm.name}@{promotion.alias}"
    audit.record(session, actor, "alias.move", what, version=version.number)
    notify(session, ALIAS_CHANNEL, version.llm.name)
    if previous_id != version.id:
        subject, about = f"{version.llm.name}@{promotion.alias}", {"version": version.number}
        cause = pipeline_behind(session, promotion.job_id)
        triggers.happened(session, "promotion", subject, str(promotion.id), about, caused_by=cause)


def version_before(session: Session, version: LlmVersion, name: str) -> LlmVersion | None:
    """Where the alias was before it first came to `version`: never one that was taken back in favor of it."""
    moves = (
        select(AliasMove.previous_version_id)
        .where(AliasMove.llm_id == version.llm_id, AliasMove.alias == name)
        .where(AliasMove.version_id == version.id)
        .order_by(AliasMove.id)
        .limit(1)
    )
    found = session.scalar(moves)
    return session.get_one(LlmVersion, found) if found is not None else None


def was_at(session: Session, version: LlmVersion, name: str) -> bool:
    """Whether the alias ever pointed to that version."""
    moves = select(AliasMove.id).where(AliasMove.version_id == version.id, AliasMove.alias == name)
    return session.scalar(moves.limit(1)) is not None


def aliases_at(session: Session, llm_id: uuid.UUID, moment: dt.datetime | None = None) -> dict[str, int]:
    """Alias -> number of the version that it pointed to at `moment`; None: points to now."""
    if moment is None:
        rows = session.scalars(select(Alias).where(Alias.llm_id == llm_id)).unique()
        return {row.name: row.version.number for row in rows}
    last = (
        select(AliasMove.alias, LlmVersion.number)
        .join(LlmVersion, LlmVersion.id == AliasMove.version_id)
        .where(AliasMove.llm_id == llm_id, AliasMove.moved_at <= moment)
        .ext(distinct_on(AliasMove.alias))
        .order_by(AliasMove.alias, AliasMove.moved_at.desc(), AliasMove.id.desc())
    )
    return {row.alias: row.number for row in session.execute(last)}


def alias_in_turn(session: Session, llm: str, name: str) -> Alias:
    """As it is now, and stays until the caller's commit. Raises NotFound."""
    take_turn(session, find_alias(session, llm, name).llm_id)
    return find_alias(session, llm, name)


def pipeline_behind(session: Session, job_id: uuid.UUID | None) -> uuid.UUID | None:
    """The pipeline whose step, or whose hook, a job is."""
    job = session.get(Job, job_id) if job_id is not None else None
    if job is None or job.pipeline_id is not None:
        return job.pipeline_id if job is not None else None
    known = job.config.get("pipeline_id")
    return uuid.UUID(known) if known else None
