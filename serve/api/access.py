"""Who may call which route: the table that the control plane's checks and their test are made from.

A route without a row, or a row without a route, keeps the application from starting. Some routes look closer once
their door is passed; the comment says how.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from raymill.registry.tables import Role

PREFIX = "/api/v1"

OPEN = None
"""To everybody: no key is asked for."""

CONVERTER = re.compile(r"(?<=\w):path(?=})")
"""Of a parameter that may hold slashes; the OpenAPI document leaves it out too."""

_RANK = {role: rank for rank, role in enumerate(Role)}

ACCESS: dict[str, Role | None] = {
    "GET /pipelines": Role.VIEWER,
    "POST /pipelines": Role.OPERATOR,
    "POST /pipelines/plan": Role.OPERATOR,
    "GET /pipelines/{pipeline_id}": Role.VIEWER,
    "POST /pipelines/{pipeline_id}/cancel": Role.OPERATOR,
    "POST /pipelines/{pipeline_id}/pause": Role.OPERATOR,
    "POST /pipelines/{pipeline_id}/resume": Role.OPERATOR,
    "POST /pipelines/{pipeline_id}/retry": Role.OPERATOR,
    "GET /pipelines/{pipeline_id}/events": Role.VIEWER,
    "GET /jobs": Role.VIEWER,
    "POST /jobs": Role.OPERATOR,
    "GET /jobs/stats": Role.VIEWER,
    "POST /jobs/redrive": Role.OPERATOR,
    "GET /jobs/{job_id}": Role.VIEWER,
    "POST /jobs/{job_id}/cancel": Role.OPERATOR,
    "POST /jobs/{job_id}/pause": Role.OPERATOR,
    "POST /jobs/{job_id}/resume": Role.OPERATOR,
    "POST /jobs/{job_id}/retry": Role.OPERATOR,
    "GET /jobs/{job_id}/events": Role.VIEWER,
    "GET /jobs/{job_id}/logs": Role.VIEWER,
    "GET /queues": Role.VIEWER,
    "PUT /queues/{name}": Role.OPERATOR,
    "POST /queues/{name}/pause": Role.OPERATOR,
    "POST /queues/{name}/resume": Role.OPERATOR,
    "GET /triggers": Role.VIEWER,
    "POST /triggers": Role.OPERATOR,
    "POST /triggers/events": Role.OPERATOR,
    "GET /triggers/{name}": Role.VIEWER,
    "PATCH /triggers/{name}": Role.OPERATOR,
    "DELETE /triggers/{name}": Role.OPERATOR,
    "POST /triggers/{name}/fire": Role.OPERATOR,
    "POST /triggers/{name}/webhook": OPEN,  # whoever posts has no account; the trigger's secret decides
    "GET /hooks": Role.VIEWER,
    "POST /hooks": Role.OPERATOR,  # one that moves aliases takes an approver
    "GET /hooks/{name}": Role.VIEWER,
    "PATCH /hooks/{name}": Role.OPERATOR,
    "DELETE /hooks/{name}": Role.OPERATOR,
    "GET /hooks/{name}/deliveries": Role.VIEWER,
    "GET /drift": Role.VIEWER,
    "POST /drift": Role.OPERATOR,  # one that freezes or moves an alias takes an approver, here and below
    "GET /drift/events": Role.VIEWER,
    "GET /drift/{name}": Role.VIEWER,
    "PATCH /drift/{name}": Role.OPERATOR,
    "DELETE /drift/{name}": Role.OPERATOR,
    "POST /drift/{name}/run": Role.OPERATOR,
    "GET /drift/{name}/runs": Role.VIEWER,
    "GET /searches": Role.VIEWER,
    "GET /searches/{search_id}": Role.VIEWER,
    "GET /searches/{search_id}/plot": Role.VIEWER,
    "GET /runs": Role.VIEWER,
    "GET /runs/compare": Role.VIEWER,
    "GET /runs/{run_id}": Role.VIEWER,
    "GET /runs/{run_id}/points": Role.VIEWER,
    "GET /runs/{run_id}/plot": Role.VIEWER,
    "GET /runs/{run_id}/card": Role.VIEWER,
    "POST /runs/{run_id}/exports": Role.OPERATOR,
    "GET /runs/{run_id}/file": Role.OPERATOR,
    "GET /llms": Role.VIEWER,
    "GET /llms/{name}": Role.VIEWER,
    "GET /llms/{name}/versions": Role.VIEWER,
    "GET /llms/{name}/versions/{number}": Role.VIEWER,
    "GET /llms/{name}/versions/{number}/lineage": Role.VIEWER,
    "GET /llms/{name}/versions/{number}/verify": Role.VIEWER,
    "GET /llms/{name}/versions/{number}/sbom": Role.VIEWER,
    "GET /llms/{name}/aliases/history": Role.VIEWER,
    "POST /evaluations": Role.OPERATOR,
    "POST /evaluations/judge": Role.OPERATOR,
    "GET /evaluations/compare": Role.VIEWER,
    "GET /evaluations/compare/changed": Role.VIEWER,
    "GET /evaluations/compare/plot": Role.VIEWER,
    "GET /evaluations/leaderboard": Role.VIEWER,
    "GET /evaluations/leaderboard/plot": Role.VIEWER,
    "GET /datasets": Role.VIEWER,
    "POST /datasets": Role.OPERATOR,
    "POST /datasets/validate": Role.OPERATOR,
    "POST /datasets/from-traffic": Role.ADMIN,
    "GET /datasets/{name}": Role.VIEWER,
    "GET /datasets/{name}/rows": Role.VIEWER,
    "POST /datasets/{name}/stats": Role.OPERATOR,
    "POST /datasets/{name}/preview": Role.OPERATOR,
    "POST /uploads": Role.OPERATOR,
    "GET /uploads/{upload_id}": Role.OPERATOR,
    "HEAD /uploads/{upload_id}": Role.OPERATOR,
    "PUT /uploads/{upload_id}": Role.OPERATOR,
    "DELETE /uploads/{upload_id}": Role.OPERATOR,
    "GET /promotions": Role.VIEWER,
    "POST /promotions": Role.APPROVER,
    "GET /promotions/{promotion_id}": Role.VIEWER,
    "POST /promotions/{promotion_id}/approve": Role.OPERATOR,  # whose approvals count, the environment says
    "POST /promotions/{promotion_id}/reject": Role.OPERATOR,
    "POST /promotions/{promotion_id}/execute": Role.APPROVER,
    "POST /promotions/{promotion_id}/advance": Role.APPROVER,
    "POST /promotions/{promotion_id}/abort": Role.APPROVER,
    "GET /promotions/{promotion_id}/explanation": Role.VIEWER,
    "GET /promotions/{promotion_id}/replay": Role.VIEWER,
    "GET /policies": Role.VIEWER,
    "POST /policies": Role.ADMIN,
    "GET /policies/{name}": Role.VIEWER,
    "POST /policies/test": Role.OPERATOR,
    "POST /policies/dry-run": Role.OPERATOR,
    "GET /environments": Role.VIEWER,
    "PUT /environments/{name}": Role.ADMIN,
    "POST /llms/{name}/versions/{number}/archive": Role.APPROVER,
    "POST /llms/{name}/versions/{number}/restore": Role.APPROVER,
    "POST /llms/{name}/aliases/{alias}/freeze": Role.APPROVER,
    "POST /llms/{name}/aliases/{alias}/unfreeze": Role.APPROVER,
    "POST /llms/{name}/aliases/{alias}/rollback": Role.APPROVER,
    "GET /deployments": Role.VIEWER,
    "GET /audit": Role.APPROVER,
    "GET /audit/verify": Role.APPROVER,
    "GET /audit/lines": Role.APPROVER,
    "POST /audit/roots": Role.APPROVER,
    "GET /signing/keys": Role.VIEWER,
    "POST /signing/rotate": Role.ADMIN,
    "POST /signing/keys/{key_id}/revoke": Role.ADMIN,
    "GET /accounts": Role.ADMIN,
    "POST /accounts": Role.ADMIN,
    "GET /keys": Role.ADMIN,
    "POST /keys": Role.ADMIN,
    "DELETE /keys/{key_id}": Role.ADMIN,
    "GET /status": Role.VIEWER,
    "GET /overview": Role.VIEWER,  # spend is one's own; everybody's for approvers
    "GET /provider-presets": Role.VIEWER,
    "GET /providers": Role.VIEWER,
    "POST /providers": Role.ADMIN,
    "GET /providers/{name}": Role.VIEWER,
    "PATCH /providers/{name}": Role.ADMIN,
    "DELETE /providers/{name}": Role.ADMIN,
    "POST /providers/{name}/test": Role.ADMIN,
    "GET /providers/{name}/checks": Role.VIEWER,
    "POST /providers/{name}/sync": Role.ADMIN,
    "GET /providers/{name}/models": Role.VIEWER,
    "GET /providers/{name}/keys": Role.VIEWER,
    "PUT /providers/{name}/keys/{key}": Role.ADMIN,
    "PATCH /providers/{name}/keys/{key}": Role.ADMIN,
    "DELETE /providers/{name}/keys/{key}": Role.ADMIN,
    "GET /accounts/{name}/person": Role.VIEWER,  # one's own; others' for administrators
    "PATCH /accounts/{name}/person": Role.VIEWER,  # one's own; others' for administrators
    "GET /accounts/{name}/export": Role.VIEWER,  # one's own; others' for administrators
    "POST /accounts/{name}/erase": Role.ADMIN,
    "GET /master-keys": Role.ADMIN,
    "POST /master-keys/rotate": Role.ADMIN,
    "POST /master-keys/rewrap": Role.ADMIN,
    "DELETE /master-keys/{key_id}": Role.ADMIN,
    "GET /prices": Role.VIEWER,
    "PUT /prices/{provider}/{model}": Role.ADMIN,
    "DELETE /prices/{provider}/{model}": Role.ADMIN,
    "GET /routes": Role.VIEWER,
    "GET /routes/{name}": Role.VIEWER,
    "PUT /routes/{name}": Role.OPERATOR,
    "PATCH /routes/{name}": Role.OPERATOR,
    "DELETE /routes/{name}": Role.OPERATOR,
    "GET /presets": Role.VIEWER,
    "GET /presets/{name}": Role.VIEWER,
    "PUT /presets/{name}": Role.OPERATOR,
    "DELETE /presets/{name}": Role.OPERATOR,
    "GET /teams": Role.APPROVER,
    "POST /teams": Role.ADMIN,
    "PATCH /teams/{name}": Role.ADMIN,
    "GET /teams/{name}/quota": Role.VIEWER,  # why a job waits says as much
    "PATCH /teams/{name}/quota": Role.ADMIN,
    "PATCH /accounts/{name}": Role.ADMIN,
    "GET /accounts/{name}/limits": Role.VIEWER,  # one's own; others' for approvers
    "GET /tiers": Role.VIEWER,
    "PUT /tiers/{name}": Role.ADMIN,
    "GET /budgets": Role.VIEWER,
    "PUT /budgets/{subject}/{period}": Role.ADMIN,
    "DELETE /budgets/{subject}/{period}": Role.ADMIN,
    "GET /usage": Role.VIEWER,
    "GET /usage/records": Role.VIEWER,
    "GET /usage/anomalies": Role.VIEWER,
    "GET /usage.csv": Role.VIEWER,
    "GET /traces": Role.VIEWER,
    "GET /traces/{request_id}": Role.VIEWER,
    "GET /feedback": Role.VIEWER,
    "POST /feedback": Role.VIEWER,
    "POST /code/v1/submissions": Role.VIEWER,
    "GET /code/v1/submissions": Role.VIEWER,
    "GET /code/v1/submissions/{submission_id}": Role.VIEWER,
    "GET /code/v1/submissions/{submission_id}/answers": Role.VIEWER,
    "POST /code/v1/submissions/{submission_id}/cancel": Role.VIEWER,
    "DELETE /code/v1/submissions/{submission_id}": Role.VIEWER,
    "POST /code/v1/submissions/{submission_id}/retry": Role.VIEWER,
    "GET /code/v1/submissions/{submission_id}/events": Role.VIEWER,
    "GET /code/v1/steps": Role.VIEWER,
    "PUT /code/v1/steps/{step}": Role.OPERATOR,
    "GET /code/v1/steps/{step}/versions": Role.VIEWER,
    "POST /code/v1/steps/{step}/use": Role.OPERATOR,
    "PUT /code/v1/steps/{step}/canary": Role.OPERATOR,
    "GET /code/v1/steps/{step}/canary": Role.VIEWER,
    "POST /code/v1/experiments": Role.ADMIN,
    "GET /code/v1/experiments": Role.VIEWER,
    "POST /code/v1/experiments/{experiment_id}/stop": Role.ADMIN,
    "POST /sessions": OPEN,
    "POST /sessions/refresh": OPEN,
    "GET /sessions": Role.VIEWER,  # one's own; others' for administrators
    "DELETE /sessions/{session_id}": Role.VIEWER,  # one's own; others' for administrators
    "POST /oidc/start": OPEN,
    "POST /oidc/finish": OPEN,
    "PUT /accounts/{name}/identity": Role.ADMIN,
    "DELETE /accounts/{name}/identity": Role.ADMIN,
    "GET /whoami": Role.VIEWER,
    "GET /access": Role.VIEWER,
    "POST /browser/session": OPEN,
    "DELETE /browser/session": Role.VIEWER,  # one's own
    "GET /browser/sso": OPEN,
    "POST /browser/sso": OPEN,
    "POST /browser/sso/session": OPEN,
    "POST /browser/key": Role.VIEWER,  # one's own, for models
    "GET /events": Role.VIEWER,  # what changed, not who did it
    "PUT /password": Role.VIEWER,  # one's own
    "PUT /accounts/{name}/password": Role.ADMIN,
    "GET /healthz": OPEN,
    "GET /readyz": OPEN,
    "GET /metrics": Role.VIEWER,
}
"""Method and path, below the prefix where it has one -> the lowest role that is let in. The ones above it are too."""


def allowed_to(role: Role, routes: list[BaseRoute]) -> list[str]:
    """Method and path, as the OpenAPI document writes it, of the routes that let `role` in."""
    return sorted(
        f"{method} {CONVERTER.sub('', route.path)}"
        for route in routes
        if isinstance(route, APIRoute)
        for method in route.methods
        if (lowest := ACCESS[row_of(method, route.path)]) is OPEN or reaches(role, lowest)
    )


def reaches(role: Role, lowest: Role) -> bool:
    """Whether who has `role` is let in where `lowest` is asked for."""
    return _RANK[role] >= _RANK[lowest]


def row_of(method: str, path: str) -> str:
    """Which row of the table a route's method and path are."""
    return f"{method} {CONVERTER.sub('', path.removeprefix(PREFIX))}"


def check_complete(routes: list[BaseRoute], asks: Callable[..., Any]) -> None:
    """Hold an application's routes against the table.

    Args:
        asks: the dependency that finds out who calls, and looks into the table.

    Raises:
        RuntimeError: they differ, or a route that is not open never asks who calls, or an open one does.
    """
    found = {
        row_of(method, route.path): _asks(route.dependant, asks)
        for route in routes
        if isinstance(route, APIRoute)
        for method in route.methods
    }
    wrong = sorted(found.keys() ^ ACCESS.keys())
    if wrong:
        raise RuntimeError(f"give each route one row in serve/api/access.py, and each row a route: {wrong}")
    wrong = sorted(row for row, asked in found.items() if asked is (ACCESS[row] is OPEN))
    if wrong:
        raise RuntimeError(
            f"these routes ask who calls though they are open, or do not though they are not: {wrong}"
        )


def _asks(dependant: Dependant, asks: Callable[..., Any]) -> bool:
    return any(each.call is asks for each in _all(dependant))


def _all(dependant: Dependant) -> Iterator[Dependant]:
    for each in dependant.dependencies:
        yield each
        yield from _all(each)
