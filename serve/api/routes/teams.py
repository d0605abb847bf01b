"""Teams, tiers, limits and budgets: who may use how much.

Administrators change them. Tiers are no secret; an account's own limits and budgets are shown to itself,
everyone's to approvers and administrators.
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated, cast

from fastapi import APIRouter, Path
from sqlalchemy.orm import Session

from raymill.client import types, usage_types
from raymill.registry import budgets, identity, limits, quotas, tables, teams
from raymill.registry.tables import BudgetPeriod, Role
from raymill.serve.api import wire
from raymill.serve.api.context import SessionDep, Who
from raymill.serve.api.scope import account_in_reach, sees_all
from raymill.serve.api.threads import ThreadRoute

router = APIRouter(route_class=ThreadRoute)

Subject = Annotated[str, Path(max_length=120, description="account:NAME, team:NAME or key:ID.")]


@router.get("/teams", tags=["teams"])
def list_teams(_: Who, opened: SessionDep) -> types.Page[usage_types.Team]:
    """All of them, by name, with their accounts."""
    return types.Page(data=[_team(team, members) for team, members in teams.list_teams(opened)])


@router.post("/teams", status_code=201, tags=["teams"])
def create_team(body: usage_types.TeamRequest, who: Who, opened: SessionDep) -> usage_types.Team:
    """A team without accounts; `PATCH /accounts/{name}` puts them in."""
    return _team(teams.create_team(opened, body.name, who.actor), [])


@router.patch("/teams/{name}", tags=["teams"])
def update_team(name: str, body: usage_types.TeamUpdate, who: Who, opened: SessionDep) -> usage_types.Team:
    """Disable a team, or enable it again. Its accounts are refused within a second."""
    team = teams.set_disabled(opened, name, body.disabled, who.actor)
    return _team(team, teams.members_of(opened, team))


@router.get("/teams/{name}/quota", tags=["teams"])
def team_quota(name: str, _: Who, opened: SessionDep) -> usage_types.TeamQuota:
    """What the running jobs of a team may hold at once, and hold."""
    return usage_types.TeamQuota.model_validate(quotas.quota_of(opened, name), from_attributes=True)


@router.patch("/teams/{name}/quota", tags=["teams"])
def set_team_quota(
    name: str, body: usage_types.TeamQuotaUpdate, who: Who, opened: SessionDep
) -> usage_types.TeamQuota:
    """Change a team's quota. What runs goes on, also above a bound that was lowered."""
    quota = quotas.set_quota(opened, name, body.model_dump(exclude_unset=True), who.actor)
    return usage_types.TeamQuota.model_validate(quota, from_attributes=True)


@router.patch("/accounts/{name}", tags=["identity"])
def update_account(name: str, body: usage_types.AccountUpdate, who: Who, opened: SessionDep) -> types.Account:
    """Role, team, tier, limits, disabled: what is left out of the body stays as it is."""
    account = identity.find_account(opened, name, lock=True)
    given = body.model_fields_set
    if "team" in given:
        teams.put_into_team(opened, account, body.team, who.actor)
    if "tier" in given:
        limits.set_tier(opened, account, body.tier, who.actor)
    if "limits" in given:
        back = frozenset(name for name, number in body.limits.items() if number == usage_types.TIERS_OWN)
        changes = {key: cast(int | None, number) for key, number in body.limits.items() if key not in back}
        limits.set_limits(opened, account, changes, who.actor, clear=back)
    if "role" in given:
        identity.set_role(opened, account, Role(body.role), who.actor)
    if "disabled" in given:
        identity.set_disabled(opened, account, body.disabled, who.actor)
    return wire.account(account)


@router.get("/accounts/{name}/limits", tags=["limits"])
def account_limits(name: str, who: Who, opened: SessionDep) -> usage_types.AccountLimits:
    """What an account may use and has used. Anyone's for approvers, else one's own."""
    account = account_in_reach(opened, who, name)
    now = dt.datetime.now(dt.UTC)
    found, used = limits.limits_of(opened, account), limits.uses_of(opened, account, now)
    none = limits.Use(0, 0)
    return usage_types.AccountLimits(
        account=account.name,
        team=account.team.name if account.team else None,
        tier=account.tier,
        overrides=account.limits,
        limits=[
            usage_types.LimitUse(
                name=limit,
                limit=found.get(limit),
                source="account" if limit in account.limits else "tier",
                used=used.get(limit, none).used,
                held=used.get(limit, none).held,
            )
            for limit in limits.LIMITS
        ],
        budgets=[
            _budget(status)
            for status in budgets.list_budgets(opened, now, budgets.subjects_of(opened, account))
        ],
    )


@router.get("/tiers", tags=["limits"])
def list_tiers(_: Who, opened: SessionDep) -> types.Page[usage_types.Tier]:
    """By name."""
    return types.Page(data=[_tier(tier) for tier in limits.list_tiers(opened)])


@router.put("/tiers/{name}", tags=["limits"])
def set_tier(name: str, body: usage_types.TierRequest, who: Who, opened: SessionDep) -> usage_types.Tier:
    """Replace the limits of a tier; its accounts follow within a second."""
    return _tier(limits.set_tier_limits(opened, name, body.limits, who.actor))


@router.get("/budgets", tags=["budgets"])
def list_budgets(who: Who, opened: SessionDep, subject: str | None = None) -> types.Page[usage_types.Budget]:
    """With what is spent now. All of them for approvers, else those that bind the caller."""
    now = dt.datetime.now(dt.UTC)
    if sees_all(who):
        within = None if subject is None else [budgets.find_subject(opened, subject).id_text]
        return types.Page(data=[_budget(each) for each in budgets.list_budgets(opened, now, within)])
    own = budgets.subjects_of(opened, identity.find_account(opened, who.actor.name))
    found = budgets.list_budgets(opened, now, own)
    return types.Page(data=[_budget(each) for each in found if subject in (None, *each.subject.texts)])


@router.put("/budgets/{subject}/{period}", tags=["budgets"])
def set_budget(
    subject: Subject, period: BudgetPeriod, body: usage_types.BudgetRequest, who: Who, opened: SessionDep
) -> usage_types.Budget:
    """What was spent in the period before there was a budget counts."""
    found = budgets.find_subject(opened, subject)
    budgets.set_budget(opened, found, period, body.limit_micro_usd, who.actor)
    return _status(opened, found, period)


@router.delete("/budgets/{subject}/{period}", tags=["budgets"])
def remove_budget(subject: Subject, period: BudgetPeriod, who: Who, opened: SessionDep) -> usage_types.Budget:
    """No limit from now on. Answers the budget as it was."""
    found = budgets.find_subject(opened, subject)
    budgets.find_budget(opened, found, period)
    answer = _status(opened, found, period)
    budgets.remove_budget(opened, found, period, who.actor)
    return answer


def _status(opened: Session, subject: budgets.Subject, period: BudgetPeriod) -> usage_types.Budget:
    opened.flush()
    found = budgets.list_budgets(opened, dt.datetime.now(dt.UTC), [subject.id_text])
    return _budget(next(status for status in found if status.budget.period == period))


def _team(team: tables.Team, members: list[str]) -> usage_types.Team:
    return usage_types.Team(
        id=team.id,
        name=team.name,
        accounts=members,
        disabled_at=team.disabled_at,
        created_at=team.created_at,
    )


def _tier(tier: tables.Tier) -> usage_types.Tier:
    return usage_types.Tier(name=tier.name, limits=tier.limits)


def _budget(status: budgets.Status) -> usage_types.Budget:
    return usage_types.Budget(
        subject=status.subject.text,
        name=status.subject.name,
        period=status.budget.period.value,
        limit_micro_usd=status.budget.limit_micro_usd,
        spent_micro_usd=status.use.used,
        held_micro_usd=status.use.held,
        resets_at=status.resets_at,
        created_at=status.budget.created_at,
    )
