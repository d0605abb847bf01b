"""Deployments and the audit log."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from sqlalchemy import func, select

from raymill.client import types
from raymill.registry import audit_export, tables
from raymill.serve.api import wire
from raymill.serve.api.context import PartsDep, SessionDep, Who
from raymill.serve.api.paging import Cursor, Limit, page
from raymill.serve.api.threads import ThreadRoute

router = APIRouter(route_class=ThreadRoute)

AUDIT_LINES = 2000


@router.get("/deployments", tags=["deployments"])
def deployments(_: Who, opened: SessionDep) -> types.Page[types.Deployment]:
    """What should be served, and whether it is."""
    rows = opened.scalars(select(tables.Deployment).order_by(tables.Deployment.updated_at.desc()))
    return types.Page(data=[wire.deployment(opened, row) for row in rows])


Kinds = Annotated[
    str | None,
    Query(
        max_length=200,
        pattern=r"^[a-z_]+(,[a-z_]+)*$",
        description="Of objects of these, such as route,tier.",
    ),
]


@router.get("/audit", tags=["audit"])
def audit(
    _: Who,
    opened: SessionDep,
    kinds: Kinds = None,
    object_: Annotated[str | None, Query(alias="object", max_length=300)] = None,
    actor: Annotated[str | None, Query(max_length=64)] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> types.Page[types.AuditEvent]:
    """Who changed what, newest first."""
    event = tables.AuditEvent
    rows = select(event)
    if kinds is not None:
        rows = rows.where(func.split_part(event.object, "/", 1).in_(kinds.split(",")))
    if object_ is not None:
        rows = rows.where(event.object == object_)
    if actor is not None:
        rows = rows.where(event.actor == actor)
    return page(opened, rows, tables.AuditEvent.seq, wire.audit_event, limit=limit, cursor=cursor)


@router.get("/audit/verify", tags=["audit"])
def verify_audit(_: Who, opened: SessionDep, found: PartsDep) -> types.AuditCheck:
    """Walk the whole log: its chain of hashes, and the roots that are kept here. 409 when it is broken; the message says
    where."""
    checked = found.settings.audit_roots.verify(opened)
    head = checked.head.hex() if checked.rows else None
    return types.AuditCheck(
        ok=True, rows=checked.rows, head=head, root=checked.root.hex(), vouched=checked.vouched
    )


@router.post("/audit/roots", status_code=201, tags=["audit"])
def take_audit_root(_: Who, opened: SessionDep, found: PartsDep) -> types.AuditRoot:
    """Sign a root of the log as it is now; it is kept here too. 409 when the log is broken."""
    return types.AuditRoot(envelope=found.settings.audit_roots.take(opened))


@router.get("/audit/lines", tags=["audit"])
def audit_lines(
    _: Who,
    opened: SessionDep,
    after: Annotated[int, Query(ge=0, le=2**62)] = 0,
    limit: Annotated[int, Query(ge=1, le=AUDIT_LINES)] = AUDIT_LINES,
) -> types.AuditLines:
    """The log as it is exported, oldest row first: what `raymill audit verify --log` reads."""
    return types.AuditLines(lines=audit_export.lines(opened, after, limit))
