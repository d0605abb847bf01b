"""Pipelines: run a recipe, follow it, pause, cancel and retry it."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from sqlalchemy import select
from sqlalchemy.orm import Session

from raymill.client import types
from raymill.client.console_types import EstimatedPlan
from raymill.client.recipe import parse_recipe
from raymill.policies.errors import NotFound
from raymill.registry import jobs
from raymill.registry.jobs import StepSpec
from raymill.registry.tables import JobState, Pipeline
from raymill.serve.api import events, wire
from raymill.serve.api.context import IdempotencyKey, PartsDep, SessionDep, Who
from raymill.serve.api.estimate import estimate
from raymill.serve.api.machine import refuse_what_the_cluster_lacks
from raymill.serve.api.paging import Cursor, Limit, page
from raymill.serve.api.planning import plan
from raymill.serve.api.threads import ThreadRoute

router = APIRouter(prefix="/pipelines", tags=["pipelines"], route_class=ThreadRoute)


@router.post("", status_code=202, response_model=types.Pipeline)
def create(
    body: types.PipelineRequest,
    who: Who,
    opened: SessionDep,
    idempotency_key: IdempotencyKey = None,
) -> Any:
    """Run a recipe. Answers as soon as its jobs are safely written."""
    recipe = parse_recipe(body.recipe)
    refuse_what_the_cluster_lacks(recipe)
    steps = plan(recipe, opened)
    if body.dry_run:
        told = types.Plan(recipe=recipe.resolved(), steps=_told(steps))
        return JSONResponse(told.model_dump(mode="json"))
    row = jobs.create_pipeline(
        opened,
        name=recipe.model,
        recipe=recipe.resolved(),
        steps=steps,
        actor=who.actor,
        idempotency_key=idempotency_key,
    )
    return wire.pipeline_with_jobs(opened, row)


@router.post("/plan")
def plan_only(body: types.PipelineRequest, _: Who, opened: SessionDep) -> EstimatedPlan:
    """Check a recipe, and tell its steps and about what its training takes. Writes nothing."""
    recipe = parse_recipe(body.recipe)
    refuse_what_the_cluster_lacks(recipe)
    steps = plan(recipe, opened)
    return EstimatedPlan(recipe=recipe.resolved(), steps=_told(steps), estimate=estimate(opened, recipe))


def _told(steps: Sequence[StepSpec]) -> list[types.PlannedStep]:
    return [types.PlannedStep.model_validate(each, from_attributes=True) for each in steps]


@router.get("")
def list_(
    _: Who,
    opened: SessionDep,
    state: JobState | None = None,
    name: str | None = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> types.Page[types.Pipeline]:
    """Newest first."""
    rows = select(Pipeline)
    if state is not None:
        rows = rows.where(Pipeline.state == state)
    if name is not None:
        rows = rows.where(Pipeline.name == name)
    return page(opened, rows, Pipeline.id, wire.pipeline, limit=limit, cursor=cursor)


@router.get("/{pipeline_id}")
def get(pipeline_id: uuid.UUID, _: Who, opened: SessionDep) -> types.Pipeline:
    """With its jobs."""
    return wire.pipeline_with_jobs(opened, _row(opened, pipeline_id))


@router.post("/{pipeline_id}/cancel")
def cancel(pipeline_id: uuid.UUID, who: Who, opened: SessionDep) -> types.Pipeline:
    """No effect of it commits once this is answered."""
    return wire.pipeline_with_jobs(opened, jobs.cancel_pipeline(opened, pipeline_id, who.actor))


@router.post("/{pipeline_id}/pause")
def pause(pipeline_id: uuid.UUID, who: Who, opened: SessionDep) -> types.Pipeline:
    """Let its steps rest: those that wait at once, one that runs once its worker has stopped."""
    return wire.pipeline_with_jobs(opened, jobs.pause_pipeline(opened, pipeline_id, who.actor))


@router.post("/{pipeline_id}/resume")
def resume(pipeline_id: uuid.UUID, who: Who, opened: SessionDep) -> types.Pipeline:
    """Let its paused steps go on."""
    return wire.pipeline_with_jobs(opened, jobs.resume_pipeline(opened, pipeline_id, who.actor))


@router.post("/{pipeline_id}/retry")
def retry(pipeline_id: uuid.UUID, who: Who, opened: SessionDep) -> types.Pipeline:
    """Run the steps again that ended badly, and those that waited for them."""
    return wire.pipeline_with_jobs(opened, jobs.retry_pipeline(opened, pipeline_id, who.actor))


@router.get("/{pipeline_id}/events", response_class=StreamingResponse)
def follow(
    pipeline_id: uuid.UUID,
    _: Who,
    opened: SessionDep,
    found: PartsDep,
    request: Request,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """Progress of all its jobs as server-sent events."""
    subject = events.subject_of(pipeline=_row(opened, pipeline_id))
    return events.response(found.database, request.app.state.bell, subject, last_event_id)


def _row(opened: Session, pipeline_id: uuid.UUID) -> Pipeline:
    row = opened.get(Pipeline, pipeline_id)
    if row is None:
        raise NotFound(f"no pipeline {pipeline_id}: `raymill pipeline list` shows the ones there are")
    return row
