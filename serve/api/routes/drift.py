"""Drift: what is watched, what each look found, and the look that is asked for by hand."""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import Annotated

from fastapi import APIRouter, Path, Query
from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from raymill.client import drift_types as types
from raymill.client.control_types import NAME
from raymill.client.trigger_types import Switch
from raymill.client.types import Page
from raymill.evaluate.prompts import read_rows
from raymill.evaluate.row_files import check_file
from raymill.policies.errors import Denied
from raymill.registry import drift, tables
from raymill.registry.artifacts import sha256_file
from raymill.registry.drift_config import DriftConfig
from raymill.registry.tables import Role
from raymill.serve.api.access import reaches
from raymill.serve.api.context import Caller, SessionDep, Who
from raymill.serve.api.paging import Cursor, Limit, page
from raymill.serve.api.threads import ThreadRoute

router = APIRouter(prefix="/drift", tags=["drift"], route_class=ThreadRoute)

Name = Annotated[str, Path(pattern=NAME)]


@router.get("")
def list_(_: Who, opened: SessionDep, limit: Limit = 50, cursor: Cursor = None) -> Page[types.DriftWatch]:
    """Newest first."""
    rows = select(tables.DriftWatch)
    return page(opened, rows, tables.DriftWatch.id, lambda row: wire(opened, row), limit=limit, cursor=cursor)


@router.post("", status_code=201)
def create(body: types.DriftRequest, who: Who, opened: SessionDep) -> types.DriftWatch:
    """A new watch; one that freezes an alias or rolls it back takes an approver."""
    _may(who, body.config)
    config = _with_digest(body.config)
    return wire(opened, drift.create(opened, body.name, who.actor, config, enabled=body.enabled))


@router.get("/events")
def events(
    _: Who,
    opened: SessionDep,
    watch: Annotated[str | None, Query(pattern=NAME)] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[types.DriftRun]:
    """Looks that found drift, of one watch or of all, newest first."""
    rows = select(tables.DriftRun).where(tables.DriftRun.severity != "none")
    if watch is not None:
        rows = rows.where(tables.DriftRun.watch_id == drift.find(opened, watch).id)
    return _runs(opened, rows, limit, cursor)


@router.get("/{name}")
def get(name: Name, _: Who, opened: SessionDep) -> types.DriftWatch:
    """One watch, and what it found last."""
    return wire(opened, drift.find(opened, name))


@router.patch("/{name}")
def change(name: Name, body: Switch, who: Who, opened: SessionDep) -> types.DriftWatch:
    """Let it look by its schedule, or not."""
    _may(who, drift.config_of(drift.find(opened, name)))
    return wire(opened, drift.enable(opened, name, who.actor, enabled=body.enabled))


@router.delete("/{name}")
def remove(name: Name, who: Who, opened: SessionDep) -> types.DriftWatch:
    """Forget it, and what it found; the audit log keeps that it did."""
    row = drift.find(opened, name)
    _may(who, drift.config_of(row))
    gone = wire(opened, row)
    drift.remove(opened, name, who.actor)
    return gone


@router.post("/{name}/run", status_code=202)
def run(name: Name, body: types.LookRequest, who: Who, opened: SessionDep) -> types.Look:
    """Have it look now; while one is under way, that one is it."""
    row = drift.find(opened, name, lock=True)
    _may(who, drift.config_of(row))
    return types.Look(job_id=drift.look(opened, row, baseline=body.baseline))


@router.get("/{name}/runs")
def runs(
    name: Name, _: Who, opened: SessionDep, limit: Limit = 50, cursor: Cursor = None
) -> Page[types.DriftRun]:
    """What each look found, newest first."""
    row = drift.find(opened, name)
    return _runs(opened, select(tables.DriftRun).where(tables.DriftRun.watch_id == row.id), limit, cursor)


def wire(opened: Session, row: tables.DriftWatch) -> types.DriftWatch:
    last = drift.last_run(opened, row.id)
    columns = ("id", "name", "config", "enabled", "next_at", "last_job_id", "created_by", "created_at")
    found = {"severity": last.severity, "looked_at": last.at} if last is not None else {}
    return types.DriftWatch.model_validate(
        {"severity": None, "looked_at": None, **found, **{name: getattr(row, name) for name in columns}}
    )


def _runs(
    opened: Session, rows: Select[tables.DriftRun], limit: int, cursor: str | None
) -> Page[types.DriftRun]:
    def to_wire(row: tables.DriftRun) -> types.DriftRun:
        values = {name: getattr(row, name) for name in types.DriftRun.model_fields if name != "watch"}
        return types.DriftRun(**values, watch=opened.get_one(tables.DriftWatch, row.watch_id).name)

    return page(opened, rows, tables.DriftRun.id, to_wire, limit=limit, cursor=cursor)


def _with_digest(config: DriftConfig) -> DriftConfig:
    """With the sha256 of the canary's file, whose rows are read once. Raises NotFound, Invalid."""
    canary = config.canary
    if canary is None or canary.file is None:
        return config
    path = FilePath(canary.file)
    check_file(path, canary.sha256, "one with rows in normal form")
    read_rows(path, canary.limit)
    return config.model_copy(update={"canary": canary.model_copy(update={"sha256": sha256_file(path)})})


def _may(who: Caller, config: DriftConfig) -> None:
    """Moving or holding an alias is an approver's to decide, now or for later. Raises Denied."""
    if config.acts and not reaches(who.role, Role.APPROVER):
        raise Denied(
            f"{who.actor.name} is {who.role.value}, a watch that freezes or rolls back takes "
            f"{Role.APPROVER.value}: ask an approver for it"
        )
