"""Versions that are put away: neither promoted nor served, and kept with all that is known of them."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from raymill.policies.errors import Conflict
from raymill.registry import aliases, audit, canaries
from raymill.registry.audit import Actor
from raymill.registry.catalog import find_version
from raymill.registry.tables import Alias, Archived, LlmVersion


def archive(session: Session, llm: str, number: int, actor: Actor, reason: str | None = None) -> LlmVersion:
    """Put a version away. One that is away already stays so, with the first reason.

    Raises:
        NotFound: there is no such version.
        Conflict: an alias points to it, or it is a canary.
    """
    version = find_version(session, llm, number)
    aliases.take_turn(session, version.llm_id)
    if session.get(Archived, version.id) is not None:
        return version
    at = session.scalars(select(Alias.name).where(Alias.version_id == version.id).order_by(Alias.name)).all()
    if at:
        raise Conflict(f"{llm} version {number} is {', '.join(at)}: move the alias first, then archive it")
    trial = canaries.running_of(session, version.id)
    if trial is not None:
        raise Conflict(
            f"{llm} version {number} is a canary at {trial.alias}: `raymill promotion abort {trial.promotion_id}` first"
        )
    session.add(Archived(version_id=version.id, archived_by=actor.name, reason=reason))
    audit.record(session, actor, "version.archive", f"llm/{llm}/{number}", reason=reason)
    return version


def restore(session: Session, llm: str, number: int, actor: Actor) -> LlmVersion:
    """Let a version be promoted and served again. Raises NotFound."""
    version = find_version(session, llm, number)
    aliases.take_turn(session, version.llm_id)
    row = session.get(Archived, version.id)
    if row is not None:
        session.delete(row)
        audit.record(session, actor, "version.restore", f"llm/{llm}/{number}")
    return version


def is_archived(session: Session, version: LlmVersion) -> bool:
    return session.get(Archived, version.id, populate_existing=True) is not None


def check_not_archived(session: Session, version: LlmVersion) -> None:
    """Raises Conflict, naming who archived it and why."""
    row = session.get(Archived, version.id, populate_existing=True)
    if row is not None:
        why = f" ({row.reason})" if row.reason else ""
        llm, number = version.llm.name, version.number
        raise Conflict(
            f"{llm} version {number} was archived by {row.archived_by}{why}: "
            f"`raymill model restore {llm} --version {number}` brings it back"
        )
