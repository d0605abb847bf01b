"""Aliases that are held where they are, and where one was before. Only `registry/promotion.py` moves one."""

from __future__ import annotations

import datetime as dt
import uuid

from sqlalchemy import select
from sqlalchemy.orm import Session

from raymill.policies.errors import Conflict, NotFound
from raymill.registry import audit
from raymill.registry.audit import Actor
from raymill.registry.tables import Alias, AliasMove, Llm, LlmVersion


def find_alias(session: Session, llm: str, name: str) -> Alias:
    """As it is now, locked until the caller's commit. Raises NotFound."""
    rows = select(Alias).join(Llm, Llm.id == Alias.llm_id).where(Llm.name == llm, Alias.name == name)
    row = session.scalar(rows.with_for_update(of=Alias).execution_options(populate_existing=True))
    if row is None:
        raise NotFound(f"{llm!r} has no alias {name!r}: promote a version to it first")
    return row


def freeze(session: Session, llm: str, name: str, actor: Actor, reason: str | None = None) -> Alias:
    """Hold an alias where it is: promotions and roll backs are refused until it is unfrozen.

    What is frozen already stays as it is, with the first reason.

    Raises:
        NotFound: there is no such alias.
    """
    row = find_alias(session, llm, name)
    if row.frozen_at is None:
        row.frozen_at, row.frozen_by, row.frozen_reason = dt.datetime.now(dt.UTC), actor.name, reason
        audit.record(session, actor, "alias.freeze", f"llm/{llm}@{name}", reason=reason)
    return row


def unfreeze(session: Session, llm: str, name: str, actor: Actor) -> Alias:
    """Let an alias move again. Raises NotFound."""
    row = find_alias(session, llm, name)
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
    raise Conflict(
        f"{row.version.llm.name}@{name} was frozen by {row.frozen_by}{why}: "
        "`raymill drift release NAME` of the watch that froze it lets it move"
    )


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
