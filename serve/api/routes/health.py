"""Whether the service lives, and whether it can take traffic. The only routes without a key."""

from __future__ import annotations

from fastapi import APIRouter
from ray import serve
from ray.serve.schema import ApplicationStatus
from sqlalchemy import text

from raymill.policies.errors import Unavailable
from raymill.serve.api.context import PartsDep

router = APIRouter(tags=["health"])


@router.get("/healthz")
def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz")
def readyz(found: PartsDep) -> dict[str, str]:
    """The database answers and the gateway runs."""
    with found.database.transaction() as opened:
        opened.execute(text("SELECT 1"))
    gateway = serve.status().applications.get("gateway")
    if gateway is None or gateway.status is not ApplicationStatus.RUNNING:
        raise Unavailable("the gateway is starting: try again in a few seconds")
    return {"status": "ready"}
