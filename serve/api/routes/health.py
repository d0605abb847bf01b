"""Whether the service lives and can take traffic, (the only routes without a key), and its numbers."""

from __future__ import annotations

from itertools import chain

from fastapi import APIRouter, Response
from ray import serve
from ray.serve.schema import ApplicationStatus
from sqlalchemy import text

from raymill.cluster.numbers import exposition
from raymill.policies.errors import Unavailable
from raymill.serve.api.context import PartsDep, SessionDep, Who
from raymill.serve.api.threads import ThreadRoute
from raymill.serve.operating import facts, scrape
from raymill.serve.operating.alerts import alerts
from raymill.serve.operating.families import families

router = APIRouter(tags=["health"], route_class=ThreadRoute)


@router.get("/healthz")
def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz")
def readyz(found: PartsDep) -> dict[str, str]:
    """The database answers, and the gateway runs and takes more requests."""
    with found.database.transaction() as opened:
        opened.execute(text("SELECT 1"))
    gateway = serve.status().applications.get("gateway")
    if gateway is None or gateway.status is not ApplicationStatus.RUNNING:
        raise Unavailable("the gateway is starting: try again in a few seconds")
    if scrape.not_ready(found.settings.metrics_dir):
        raise Unavailable("every gateway replica has its queues nearly full: send less, or add replicas")
    return {"status": "ready"}


@router.get("/metrics", response_class=Response)
def metrics(_: Who, opened: SessionDep, found: PartsDep) -> Response:
    """The whole service's numbers in Prometheus' text form. A scraper sends a viewer's key: they tell models and spend."""
    known = facts.read(opened, found.settings)
    own = exposition(families(known, alerts(known)))
    counted = scrape.living(found.settings.metrics_dir)
    return Response(
        scrape.joined(chain([own], counted)), media_type="text/plain; version=0.0.4; charset=utf-8"
    )
