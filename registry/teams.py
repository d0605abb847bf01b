"""Teams: accounts that share limits and budgets. An account is in one team or in none.

A disabled team's accounts are refused everywhere, as if each were disabled.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections import defaultdict

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from raymill.policies.errors import Conflict, NotFound
from raymill.registry import audit
from raymill.registry.audit import Actor
from raymill.registry.gateway_config import tell_gateways
from raymill.registry.tables import Account, Team


def find_team(session: Session, name: str, *, lock: bool = False) -> Team:
    """Raises NotFound."""
    rows = select(Team).where(Team.name == name)
    row = session.scalar(rows.with_for_update() if lock else rows)
    if row is None:
        raise NotFound(f"no team {name!r}: make it with `raymill team create {name}`")
    return row


def create_team(session: Session, name: str, actor: Actor) -> Team:
    """Raises Conflict when the name is taken."""
    team = Team(name=name)
    try:
        with session.begin_nested():
            session.add(team)
    except IntegrityError:
        raise Conflict(f"team {name!r} exists already: choose another name") from None
    audit.record(session, actor, "team.create", f"team/{name}")
    tell_gateways(session)
    return team


def list_teams(session: Session) -> list[tuple[Team, list[str]]]:
    """Every team with the names of its accounts, both in alphabetical order."""
    members: dict[uuid.UUID | None, list[str]] = defaultdict(list)
    for team_id, name in session.execute(select(Account.team_id, Account.name).order_by(Account.name)):
        members[team_id].append(name)
    return [(team, members[team.id]) for team in session.scalars(select(Team).order_by(Team.name))]


def members_of(session: Session, team: Team) -> list[str]:
    """The names of a team's accounts."""
    return list(
        session.scalars(select(Account.name).where(Account.team_id == team.id).order_by(Account.name))
    )


def set_disabled(session: Session, name: str, disabled: bool, actor: Actor) -> Team:
    """Shut a team's accounts out, or let them in again. What is so already changes nothing.

    Raises:
        NotFound: no such team.
        Conflict: the caller is in it, and would be shut out too.
    """
    team = find_team(session, name, lock=True)
    if disabled == (team.disabled_at is not None):
        return team
    if disabled and actor.name in members_of(session, team):
        raise Conflict(
            f"team {name!r} holds your own account {actor.name!r}: "
            f"take it out first with `raymill team remove {name} {actor.name}`"
        )
    team.disabled_at = dt.datetime.now(dt.UTC) if disabled else None
    audit.record(session, actor, "team.disable" if disabled else "team.enable", f"team/{name}")
    tell_gateways(session)
    return team


def put_into_team(session: Session, account: Account, team_name: str | None, actor: Actor) -> Account:
    """Move an account into a team, or with None out of the one it is in.

    Raises:
        NotFound: no such team.
        Conflict: the caller would put the own account into a disabled team.
    """
    team = find_team(session, team_name) if team_name is not None else None
    if account.team_id == (team.id if team else None):
        return account
    if team is not None and team.disabled_at is not None and account.name == actor.name:
        raise Conflict(
            f"team {team.name!r} is disabled, and so would be your own account: "
            f"enable it first with `raymill team enable {team.name}`"
        )
    previous = account.team.name if account.team else None
    account.team = team
    session.flush()
    audit.record(
        session,
        actor,
        "account.team",
        f"account/{account.name}",
        before={"team": previous},
        after={"team": team.name if team else None},
    )
    tell_gateways(session)
    return account
