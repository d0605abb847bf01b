"""Queues: where jobs wait, how many of them run at once, and stopping them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from sqlalchemy import select

from raymill.client import control_types as types
from raymill.client.types import Page
from raymill.registry import jobs, tables
from raymill.serve.api import control_wire as wire
from raymill.serve.api.context import SessionDep, Who
from raymill.serve.api.paging import Cursor, Limit, page
from raymill.serve.api.threads import ThreadRoute

router = APIRouter(prefix="/queues", tags=["queues"], route_class=ThreadRoute)

Name = Annotated[str, Path(pattern=types.NAME)]


@router.get("")
def list_(_: Who, opened: SessionDep, limit: Limit = 50, cursor: Cursor = None) -> Page[types.Queue]:
    """By name, the last one first. How they are doing is told by `/api/v1/jobs/stats`."""
    return page(opened, select(tables.Queue), tables.Queue.name, wire.queue, limit=limit, cursor=cursor)


@router.put("/{name}")
def set_(name: Name, body: types.QueueSettings, who: Who, opened: SessionDep) -> types.Queue:
    """Make a queue, or change how many of its jobs run at once."""
    known = opened.get(tables.Queue, name)
    runner = body.runner or (known.runner if known is not None else "short")
    row = jobs.set_queue(opened, name, who.actor, runner=runner, max_running=body.max_running)
    opened.refresh(row)
    return wire.queue(row)


@router.post("/{name}/pause")
def pause(name: Name, who: Who, opened: SessionDep) -> types.Queue:
    """Nothing of it is started any more; what runs goes on."""
    return wire.queue(jobs.pause_queue(opened, name, who.actor))


@router.post("/{name}/resume")
def resume(name: Name, who: Who, opened: SessionDep) -> types.Queue:
    """Its jobs are started again."""
    return wire.queue(jobs.resume_queue(opened, name, who.actor))
