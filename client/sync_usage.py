"""The blocking client's resources for accounts, teams, limits, budgets, usage, feedback and traces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Unpack

from raymill.client import endpoints, types
from raymill.client import usage_endpoints as calls
from raymill.client import usage_types as usage
from raymill.client.http import Http
from raymill.client.usage_endpoints import Which
from raymill.client.validation import checked

EVERYTHING = Which()


class UsageResource:
    def __init__(self, http: Http) -> None:
        self._http = http


class Accounts(UsageResource):
    """Who may call, and how much."""

    def list(self, *, limit: int | None = None) -> Iterator[types.Account]:
        return self._http.items(endpoints.accounts(), limit)

    def create(
        self,
        name: str,
        *,
        role: types.RoleName = "viewer",
        team: str | None = None,
        tier: str = "enterprise",
        idempotency_key: str | None = None,
    ) -> types.Account:
        body = checked(types.AccountRequest, {"name": name, "role": role, "team": team, "tier": tier})
        return self._http.send(endpoints.create_account(body), idempotency_key)

    def update(self, name: str, **changes: Unpack[usage.AccountChanges]) -> types.Account:
        """What is not given stays as it is: `update("ann", tier="pro", team=None)` keeps its limits."""
        return self._http.send(calls.update_account(name, checked(usage.AccountUpdate, {**changes})))

    def limits(self, name: str) -> usage.AccountLimits:
        """What it may use, and what it has used."""
        return self._http.send(calls.account_limits(name))


class Teams(UsageResource):
    """Accounts that share limits and budgets. `accounts.update(name, team=…)` puts one in."""

    def list(self, *, limit: int | None = None) -> Iterator[usage.Team]:
        return self._http.items(calls.teams(), limit)

    def create(self, name: str, *, idempotency_key: str | None = None) -> usage.Team:
        body = checked(usage.TeamRequest, {"name": name})
        return self._http.send(calls.create_team(body), idempotency_key)

    def update(self, name: str, *, disabled: bool) -> usage.Team:
        return self._http.send(calls.update_team(name, usage.TeamUpdate(disabled=disabled)))

    def quota(self, name: str) -> usage.TeamQuota:
        """What its running jobs may hold at once, and hold."""
        return self._http.send(calls.team_quota(name))

    def set_quota(self, name: str, **bounds: int | None) -> usage.TeamQuota:
        """`max_running`, `max_gpus`, `max_cpus`: what is not given stays, None takes a bound away."""
        return self._http.send(calls.set_team_quota(name, checked(usage.TeamQuotaUpdate, {**bounds})))


class Tiers(UsageResource):
    """Limits of accounts that have no others of their own."""

    def list(self, *, limit: int | None = None) -> Iterator[usage.Tier]:
        return self._http.items(calls.tiers(), limit)

    def set(self, name: str, limits: Mapping[str, int | None]) -> usage.Tier:
        """All limits of a tier; one that is missing is no limit."""
        return self._http.send(calls.set_tier(name, checked(usage.TierRequest, {"limits": dict(limits)})))


class Budgets(UsageResource):
    """What may be spent, in micro-dollars. A subject is `account:ann`, `team:ops` or `key:<id>`."""

    def list(self, *, subject: str | None = None, limit: int | None = None) -> Iterator[usage.Budget]:
        return self._http.items(calls.budgets(subject), limit)

    def set(self, subject: str, period: usage.Period, limit_micro_usd: int) -> usage.Budget:
        body = checked(usage.BudgetRequest, {"limit_micro_usd": limit_micro_usd})
        return self._http.send(calls.set_budget(subject, period, body))

    def remove(self, subject: str, period: usage.Period) -> usage.Budget:
        return self._http.send(calls.remove_budget(subject, period))


class Usage(UsageResource):
    """What was asked, what it cost, and how long it took."""

    def summary(
        self, group_by: Sequence[usage.Dimension] = ("day",), which: Which = EVERYTHING
    ) -> usage.UsageSummary:
        return self._http.send(calls.usage_summary(group_by, which))

    def records(self, which: Which = EVERYTHING, *, limit: int | None = None) -> Iterator[usage.UsageRecord]:
        """Single requests, newest first."""
        return self._http.items(calls.usage_records(which), limit)

    def anomalies(
        self, by: usage.Dimension = "route", *, window_hours: int = 24, which: Which = EVERYTHING
    ) -> usage.AnomalyReport:
        """What was unlike the same hours of the last 28 days."""
        return self._http.send(calls.usage_anomalies(by, window_hours, which))


class FeedbackGiven(UsageResource):
    """What people thought of answers."""

    def create(
        self,
        request_id: str,
        *,
        score: float | None = None,
        correction: str | None = None,
        comment: str = "",
    ) -> usage.Feedback:
        """On the answer whose `x-request-id` this is, a second or two after it; again replaces it."""
        given = {"request_id": request_id, "score": score, "correction": correction, "comment": comment}
        return self._http.send(calls.give_feedback(checked(usage.FeedbackRequest, given)))

    def list(self, *, request_id: str | None = None, limit: int | None = None) -> Iterator[usage.Feedback]:
        return self._http.items(calls.feedback(request_id), limit)


class Traces(UsageResource):
    """Prompts and answers of routes that keep them, personal data masked."""

    def list(self, *, route: str | None = None, limit: int | None = None) -> Iterator[usage.Trace]:
        return self._http.items(calls.traces(route), limit)

    def get(self, request_id: str) -> usage.TraceDetail:
        return self._http.send(calls.trace(request_id))
