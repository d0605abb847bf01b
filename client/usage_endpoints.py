"""The calls for teams, limits, budgets, usage, feedback and traces as data, like `endpoints.py`. Sends nothing."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from raymill.client import types
from raymill.client import usage_types as usage
from raymill.client.endpoints import Call, Listing, Query, at

# Reads over months of usage take a while.
USAGE_TIMEOUT_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Which:
    """Which requests are meant; None is no condition. Accounts, teams and keys by name or id."""

    since: dt.datetime | None = None
    """7 days before `until` by default."""

    until: dt.datetime | None = None
    """Now by default."""

    account: str | None = None
    team: str | None = None
    key: str | None = None
    route: str | None = None
    provider: str | None = None
    model: str | None = None
    operation: str | None = None
    outcome: str | None = None
    request_id: str | None = None

    def query(self) -> Query:
        times = {"since": _iso(self.since), "until": _iso(self.until)}
        return {**asdict(self), **times}


def _iso(moment: dt.datetime | None) -> str | None:
    return moment.isoformat() if moment is not None else None


# Teams, accounts and their limits


def teams() -> Listing[usage.Team]:
    return Listing(path=at("teams"), item=usage.Team)


def create_team(body: usage.TeamRequest) -> Call[usage.Team]:
    return Call(method="POST", path=at("teams"), body=body, returns=usage.Team, repeatable=False)


def update_team(name: str, body: usage.TeamUpdate) -> Call[usage.Team]:
    return Call(method="PATCH", path=at("teams", name), body=body, returns=usage.Team)


def team_quota(name: str) -> Call[usage.TeamQuota]:
    return Call(path=at("teams", name, "quota"), returns=usage.TeamQuota)


def set_team_quota(name: str, body: usage.TeamQuotaUpdate) -> Call[usage.TeamQuota]:
    return Call(method="PATCH", path=at("teams", name, "quota"), body=body, returns=usage.TeamQuota)


def update_account(name: str, body: usage.AccountUpdate) -> Call[types.Account]:
    return Call(method="PATCH", path=at("accounts", name), body=body, returns=types.Account)


def account_limits(name: str) -> Call[usage.AccountLimits]:
    return Call(path=at("accounts", name, "limits"), returns=usage.AccountLimits)


def tiers() -> Listing[usage.Tier]:
    return Listing(path=at("tiers"), item=usage.Tier)


def set_tier(name: str, body: usage.TierRequest) -> Call[usage.Tier]:
    return Call(method="PUT", path=at("tiers", name), body=body, returns=usage.Tier)


# Budgets


def budgets(subject: str | None) -> Listing[usage.Budget]:
    return Listing(path=at("budgets"), item=usage.Budget, query={"subject": subject})


def set_budget(subject: str, period: usage.Period, body: usage.BudgetRequest) -> Call[usage.Budget]:
    return Call(method="PUT", path=at("budgets", subject, period), body=body, returns=usage.Budget)


def remove_budget(subject: str, period: usage.Period) -> Call[usage.Budget]:
    path = at("budgets", subject, period)
    return Call(method="DELETE", path=path, returns=usage.Budget, repeatable=False)


# Usage


def usage_summary(group_by: Sequence[usage.Dimension], which: Which) -> Call[usage.UsageSummary]:
    query = {**which.query(), "group_by": ",".join(group_by)}
    return Call(path=at("usage"), query=query, returns=usage.UsageSummary, timeout_s=USAGE_TIMEOUT_S)


def usage_records(which: Which) -> Listing[usage.UsageRecord]:
    return Listing(path=at("usage", "records"), query=which.query(), item=usage.UsageRecord)


def usage_anomalies(by: usage.Dimension, window_hours: int, which: Which) -> Call[usage.AnomalyReport]:
    return Call(
        path=at("usage", "anomalies"),
        query={**which.query(), "by": by, "window_hours": window_hours},
        returns=usage.AnomalyReport,
        timeout_s=USAGE_TIMEOUT_S,
    )


# Feedback and traces


def give_feedback(body: usage.FeedbackRequest) -> Call[usage.Feedback]:
    return Call(method="POST", path=at("feedback"), body=body, returns=usage.Feedback)


def feedback(request_id: str | None) -> Listing[usage.Feedback]:
    return Listing(path=at("feedback"), item=usage.Feedback, query={"request_id": request_id})


def traces(route: str | None) -> Listing[usage.Trace]:
    return Listing(path=at("traces"), item=usage.Trace, query={"route": route})


def trace(request_id: str) -> Call[usage.TraceDetail]:
    return Call(path=at("traces", request_id), returns=usage.TraceDetail)
