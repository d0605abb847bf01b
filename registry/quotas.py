"""Quotas of teams: how many jobs, GPUs and CPUs their running jobs hold at once. Claims keep them (`jobs.bounds`)."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from raymill.policies.errors import Invalid
from raymill.registry import audit
from raymill.registry.audit import Actor
from raymill.registry.jobs.events import notify
from raymill.registry.tables import Account, Job, JobState, Queue, Team, TeamQuota
from raymill.registry.teams import find_team

BOUNDS = ("max_running", "max_gpus", "max_cpus")


@dataclass(frozen=True, kw_only=True)
class Quota:
    """What a team may hold and holds. None: no bound."""

    team: str
    max_running: int | None
    max_gpus: int | None
    max_cpus: int | None
    running: int
    gpus: int
    cpus: int
    queued: int
    """Jobs that wait, for whatever reason."""


def team_of(session: Session, account: str) -> uuid.UUID | None:
    """The team whose quota jobs of this account count against from now on."""
    return session.scalar(select(Account.team_id).where(Account.name == account))


def quota_of(session: Session, name: str) -> Quota:
    """Raises NotFound."""
    return _quota(session, find_team(session, name))


def set_quota(session: Session, name: str, changes: Mapping[str, int | None], actor: Actor) -> Quota:
    """Change the bounds that are named; None takes one away. What runs goes on, also above a bound that was lowered.

    Raises:
        NotFound: no such team.
        Invalid: a bound below 0.
    """
    for bound, number in changes.items():
        if number is not None and number < 0:
            raise Invalid(f"{bound} is {number}: it must be 0 or more, or null for no bound", param=bound)
    team = find_team(session, name, lock=True)
    row = session.get(TeamQuota, team.id)
    before = {bound: getattr(row, bound) if row is not None else None for bound in BOUNDS}
    after = before | dict(changes)
    if after == before:
        return _quota(session, team)
    if row is None:
        row = TeamQuota(team_id=team.id)
        session.add(row)
    for bound, number in after.items():
        setattr(row, bound, number)
    session.flush()
    if not any(number is not None for number in after.values()):
        session.execute(delete(TeamQuota).where(TeamQuota.team_id == team.id))
    audit.record(session, actor, "team.quota", f"team/{name}", before=before, after=after)
    for queue in session.scalars(select(Queue.name)):
        notify(session, "raymill_job", queue)
    return _quota(session, team)


def _quota(session: Session, team: Team) -> Quota:
    row = session.get(TeamQuota, team.id, populate_existing=True)
    running, gpus, cpus = session.execute(
        select(
            func.count(), func.coalesce(func.sum(Job.gpus), 0), func.coalesce(func.sum(Job.cpus), 0)
        ).where(Job.team_id == team.id, Job.state == JobState.RUNNING)
    ).one()
    queued = session.scalar(select(func.count()).where(Job.team_id == team.id, Job.state == JobState.QUEUED))
    return Quota(
        team=team.name,
        max_running=row.max_running if row else None,
        max_gpus=row.max_gpus if row else None,
        max_cpus=row.max_cpus if row else None,
        running=running,
        gpus=gpus,
        cpus=cpus,
        queued=queued or 0,
    )
