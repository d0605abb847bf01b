"""One screen: nodes, jobs, deployments."""

from __future__ import annotations

import importlib.metadata

import ray
from fastapi import APIRouter
from sqlalchemy import func, select, text

from raymill.client import types
from raymill.client.console_types import Overview
from raymill.registry import tables
from raymill.serve.api import overview, wire
from raymill.serve.api.context import PartsDep, SessionDep, Who
from raymill.serve.api.threads import ThreadRoute

router = APIRouter(tags=["status"], route_class=ThreadRoute)


@router.get("/overview")
def all_at_once(who: Who, opened: SessionDep, found: PartsDep) -> Overview:
    """What runs, what waits and why, what is served, what needs somebody, and spend today."""
    return overview.read(opened, who, found.settings)


@router.get("/status")
def status(_: Who, opened: SessionDep) -> types.Status:
    """What there is and how it is doing."""
    counts = opened.execute(select(tables.Job.state, func.count()).group_by(tables.Job.state)).all()
    rows = opened.scalars(select(tables.Deployment))
    nodes = [
        {"node_id": node["NodeID"], "alive": node["Alive"], "resources": node.get("Resources", {})}
        for node in (ray.nodes() if ray.is_initialized() else [])
    ]
    return types.Status(
        version=importlib.metadata.version("raymill"),
        nodes=nodes,
        jobs={state.value: count for state, count in counts},
        deployments=[wire.deployment(opened, row) for row in rows],
        database=opened.scalar(text("SHOW server_version")) or "",
    )
