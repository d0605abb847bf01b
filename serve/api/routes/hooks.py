"""Hooks: what follows from the end of pipelines and their steps, and how it went."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from sqlalchemy import select

from raymill.client import trigger_types as types
from raymill.client.control_types import NAME
from raymill.client.types import Job, Page
from raymill.policies.errors import Denied
from raymill.registry import hooks, tables
from raymill.registry.tables import Role
from raymill.serve.api import wire as job_wire
from raymill.serve.api.access import reaches
from raymill.serve.api.context import Caller, PartsDep, SessionDep, Who
from raymill.serve.api.paging import Cursor, Limit, page
from raymill.serve.api.threads import ThreadRoute

router = APIRouter(prefix="/hooks", tags=["hooks"], route_class=ThreadRoute)

Name = Annotated[str, Path(pattern=NAME)]


@router.get("")
def list_(_: Who, opened: SessionDep, limit: Limit = 50, cursor: Cursor = None) -> Page[types.Hook]:
    """Newest first."""
    return page(opened, select(tables.Hook), tables.Hook.id, wire, limit=limit, cursor=cursor)


@router.post("", status_code=201)
def create(body: types.HookRequest, who: Who, opened: SessionDep, found: PartsDep) -> types.NewHook:
    """A new hook; one that moves aliases takes an approver. The secret of a webhook is in this answer alone."""
    _may(who, body.action)
    row, secret = hooks.create(
        opened,
        body.name,
        who.actor,
        on=list(body.on),
        action=body.action,
        config=body.config,
        subject=body.subject,
        enabled=body.enabled,
        box=found.settings.secret_box,
    )
    return types.NewHook(**wire(row).model_dump(), secret=secret)


@router.get("/{name}")
def get(name: Name, _: Who, opened: SessionDep) -> types.Hook:
    """One hook."""
    return wire(hooks.find(opened, name))


@router.patch("/{name}")
def change(name: Name, body: types.Switch, who: Who, opened: SessionDep) -> types.Hook:
    """Let it act, or not; one that moves aliases takes an approver."""
    _may(who, hooks.find(opened, name).action)
    return wire(hooks.enable(opened, name, who.actor, enabled=body.enabled))


@router.delete("/{name}")
def remove(name: Name, who: Who, opened: SessionDep) -> types.Hook:
    """What it has not done yet ends as failed."""
    _may(who, hooks.find(opened, name).action)
    return wire(hooks.remove(opened, name, who.actor))


@router.get("/{name}/deliveries")
def deliveries(name: Name, _: Who, opened: SessionDep, limit: Limit = 50, cursor: Cursor = None) -> Page[Job]:
    """The jobs that it wrote, newest first: each is retried, cancelled and read as any job."""
    row = hooks.find(opened, name)
    rows = select(tables.Job).where(
        tables.Job.queue == hooks.QUEUE,
        tables.Job.name == name,
        tables.Job.idempotency_key.startswith(f"hook/{row.id}/"),  # not those of another that had the name
    )
    return job_wire.job_page(opened, rows, limit=limit, cursor=cursor)


def wire(row: tables.Hook) -> types.Hook:
    return types.Hook.model_validate(row, from_attributes=True)


def _may(who: Caller, action: str) -> None:
    """Moving an alias is an approver's to decide, now or for later. Raises Denied."""
    if action != "webhook" and not reaches(who.role, Role.APPROVER):
        raise Denied(
            f"{who.actor.name} is {who.role.value}, a hook that does {action} takes {Role.APPROVER.value}: "
            "ask an approver for it"
        )
