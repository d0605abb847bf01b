"""Deployments and the audit log."""

from __future__ import annotations

from fastapi import APIRouter
from sqlalchemy import select

from raymill.client import types
from raymill.registry import audit as audit_log
from raymill.registry import tables
from raymill.serve.api import wire
from raymill.serve.api.context import Approver, SessionDep, Viewer
from raymill.serve.api.paging import Cursor, Limit, page
from raymill.serve.api.threads import ThreadRoute

router = APIRouter(route_class=ThreadRoute)


@router.get("/deployments", tags=["deployments"])
def deployments(_: Viewer, opened: SessionDep) -> types.Page[types.Deployment]:
    """What should be served, and whether it is."""
    rows = opened.scalars(select(tables.Deployment).order_by(tables.Deployment.updated_at.desc()))
    return types.Page(data=[wire.deployment(opened, row) for row in rows])


@router.get("/audit", tags=["audit"])
def audit(
    _: Approver, opened: SessionDep, limit: Limit = 50, cursor: Cursor = None
) -> types.Page[types.AuditEvent]:
    """Who changed what, newest first."""
    rows = select(tables.AuditEvent)
    return page(opened, rows, tables.AuditEvent.seq, wire.audit_event, limit=limit, cursor=cursor)


@router.get("/audit/verify", tags=["audit"])
def verify_audit(_: Approver, opened: SessionDep) -> types.AuditCheck:
    """Walk the whole log and check its chain of hashes. 409 when it is broken; the message says where."""
    rows, head = audit_log.verify(audit_log.all_rows(opened))
    return types.AuditCheck(ok=True, rows=rows, head=head.hex() if rows else None)
