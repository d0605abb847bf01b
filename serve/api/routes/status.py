"""One screen: nodes, queues, what is served, and what somebody should look at."""

from __future__ import annotations

import importlib.metadata
from collections import Counter
from dataclasses import asdict

from fastapi import APIRouter
from sqlalchemy import select

from raymill.client import status_types as types
from raymill.client.console_types import Overview
from raymill.registry import tables
from raymill.serve.api import control_wire, overview, wire
from raymill.serve.api.context import PartsDep, SessionDep, Who
from raymill.serve.api.threads import ThreadRoute
from raymill.serve.operating import facts
from raymill.serve.operating.alerts import alerts

router = APIRouter(tags=["status"], route_class=ThreadRoute)

QUEUED = {"ready", "scheduled", "waiting"}


@router.get("/overview")
def all_at_once(who: Who, opened: SessionDep, found: PartsDep) -> Overview:
    """What runs, what waits and why, what is served, what needs somebody, and spend today."""
    return overview.read(opened, who, found.settings)


@router.get("/status")
def status(_: Who, opened: SessionDep, found: PartsDep) -> types.Status:
    """What there is and how it is doing."""
    known = facts.read(opened, found.settings)
    counts: Counter[str] = Counter()
    for each in known.kinds:
        counts["queued" if each.state in QUEUED else each.state] += each.jobs
    return types.Status(
        version=importlib.metadata.version("raymill"),
        at=known.at,
        nodes=[asdict(node) for node in known.nodes],
        jobs=dict(counts),
        deployments=[wire.deployment(opened, row) for row in opened.scalars(select(tables.Deployment))],
        database=known.postgres.version,
        queues=[control_wire.queue_stats(each) for each in known.queues],
        canaries=[types.RunningCanary.model_validate(each, from_attributes=True) for each in known.canaries],
        gateway=types.GatewayStatus(
            replicas=known.parts.replicas.get("gateway", 0),
            in_flight=known.parts.in_flight,
            breakers=known.parts.breakers,
        ),
        parts=known.parts.replicas,
        alerts=alerts(known),
    )
