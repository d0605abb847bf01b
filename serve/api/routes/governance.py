"""Promotions, deployments and the audit log."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from sqlalchemy import select

from raymill.client import types
from raymill.registry import audit_export, promotion, tables
from raymill.serve.api import wire
from raymill.serve.api.context import Approver, PartsDep, SessionDep, Viewer
from raymill.serve.api.paging import Cursor, Limit, page
from raymill.serve.api.threads import ThreadRoute

router = APIRouter(route_class=ThreadRoute)

AUDIT_LINES = 2000


@router.get("/promotions", tags=["promotions"])
def promotions(
    _: Viewer, opened: SessionDep, llm: str | None = None, limit: Limit = 50, cursor: Cursor = None
) -> types.Page[types.Promotion]:
    """Allowed and refused, newest first."""
    rows = select(tables.Promotion)
    if llm is not None:
        rows = rows.join(tables.LlmVersion).join(tables.Llm).where(tables.Llm.name == llm)
    return page(opened, rows, tables.Promotion.id, wire.promotion, limit=limit, cursor=cursor)


@router.post("/promotions", status_code=201, tags=["promotions"])
def promote(body: types.PromotionRequest, who: Approver, found: PartsDep) -> types.Promotion:
    """Ask the policy and, when it allows, sign the version and move the alias. A refusal is an answer."""
    row = promotion.promote(
        found.database,
        found.settings.artifacts,
        found.settings.keys_dir / "signing",
        llm=body.llm,
        number=body.version,
        alias=body.to,
        require=body.require,
        actor=who.actor,
    )
    with found.database.transaction() as opened:
        return wire.promotion(opened.get_one(tables.Promotion, row.id))


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
def verify_audit(_: Approver, opened: SessionDep, found: PartsDep) -> types.AuditCheck:
    """Walk the whole log: its chain of hashes, and the roots that are kept here. 409 when it is broken; the message says
    where."""
    checked = found.settings.audit_roots.verify(opened)
    head = checked.head.hex() if checked.rows else None
    return types.AuditCheck(
        ok=True, rows=checked.rows, head=head, root=checked.root.hex(), vouched=checked.vouched
    )


@router.post("/audit/roots", status_code=201, tags=["audit"])
def take_audit_root(_: Approver, opened: SessionDep, found: PartsDep) -> types.AuditRoot:
    """Sign a root of the log as it is now; it is kept here too. 409 when the log is broken."""
    return types.AuditRoot(envelope=found.settings.audit_roots.take(opened))


@router.get("/audit/lines", tags=["audit"])
def audit_lines(
    _: Approver,
    opened: SessionDep,
    after: Annotated[int, Query(ge=0, le=2**62)] = 0,
    limit: Annotated[int, Query(ge=1, le=AUDIT_LINES)] = AUDIT_LINES,
) -> types.AuditLines:
    """The log as it is exported, oldest row first: what `raymill audit verify --log` reads."""
    return types.AuditLines(lines=audit_export.lines(opened, after, limit))
