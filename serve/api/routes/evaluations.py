"""Measuring a target; what was measured, compared example by example and ranked by task."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import Response
from sqlalchemy.orm import Session

from raymill.client import evaluation_types as types
from raymill.client.types import ImageFormat, JsonObject, Page, Pipeline
from raymill.evaluate.judge_config import Judgement
from raymill.evaluate.target_config import TargetEvaluation, remote_of
from raymill.policies.errors import Denied
from raymill.registry import jobs
from raymill.registry.tables import Role
from raymill.serve.api import evaluations, wire
from raymill.serve.api.access import reaches
from raymill.serve.api.chart import MEDIA
from raymill.serve.api.context import Caller, IdempotencyKey, PartsDep, SessionDep, Who
from raymill.serve.api.interval_chart import draw_comparison, draw_leaderboard
from raymill.serve.api.judge_planning import plan_judgement
from raymill.serve.api.paging import Cursor
from raymill.serve.api.target_planning import Plan, plan_target
from raymill.serve.api.threads import ThreadRoute

router = APIRouter(prefix="/evaluations", tags=["evaluations"], route_class=ThreadRoute)

PICTURE: dict[str, Any] = {
    "response_class": Response,
    "responses": {200: {"content": {media: {} for media in MEDIA.values()}}},
}
Version = Annotated[
    str,
    Query(
        max_length=400,
        description="Such as support@3, support@production, support@3:Q8_0, gateway:MODEL, https://HOST/v1#MODEL.",
    ),
]
Task = Annotated[str | None, Query(max_length=128, description="This one only.")]
Model = Annotated[str | None, Query(max_length=64, description="Versions of this model only.")]
Newest = Annotated[int, Query(ge=1, le=500, description="So many scores, the newest.")]
Better = Annotated[types.Side, Query(description="Who did better on them; neither: only the answers differ.")]
Examples = Annotated[int, Query(ge=1, le=100, description="Examples on a page.")]
Format = Annotated[ImageFormat, Query(alias="format")]


@router.post("", status_code=202)
def run(
    body: TargetEvaluation, who: Who, opened: SessionDep, idempotency_key: IdempotencyKey = None
) -> Pipeline:
    """Measure a target: a pipeline of one step. An address that is asked takes an admin, as a provider's does."""
    _may_name(who, body.target)
    plan = plan_target(opened, body)
    return _started(opened, who, plan, {"evaluation": body.model_dump(mode="json")}, idempotency_key)


@router.post("/judge", status_code=202)
def judge(body: Judgement, who: Who, opened: SessionDep, idempotency_key: IdempotencyKey = None) -> Pipeline:
    """Have a model judge answers that evaluations have kept: a pipeline of one step."""
    _may_name(who, body.target)
    plan = plan_judgement(opened, body)
    return _started(opened, who, plan, {"judgement": body.model_dump(mode="json")}, idempotency_key)


def _started(opened: Session, who: Caller, plan: Plan, asked: JsonObject, key: str | None) -> Pipeline:
    row = jobs.create_pipeline(
        opened, name=plan.name, recipe=asked, steps=[plan.step], actor=who.actor, idempotency_key=key
    )
    return wire.pipeline_with_jobs(opened, row)


def _may_name(who: Caller, target: str) -> None:
    remote = remote_of(target)
    if remote is not None and remote.url is not None and not reaches(who.role, Role.ADMIN):
        raise Denied(
            f"{who.actor.name} is {who.role.value}, and only an admin's word names an address that is asked: ask one to add "
            "the endpoint as a provider, and measure gateway:PROVIDER/MODEL"
        )


@router.get("/compare")
def compare(
    _: Who, opened: SessionDep, found: PartsDep, a: Version, b: Version, task: Task = None
) -> types.VersionComparison:
    """A verdict on A against B, for each task that both were measured on."""
    return evaluations.compare(opened, found.settings.artifacts, a, b, task)


@router.get("/compare/changed")
def changed(
    _: Who,
    opened: SessionDep,
    found: PartsDep,
    a: Version,
    b: Version,
    task: Task = None,
    better: Better = "either",
    limit: Examples = 20,
    cursor: Cursor = None,
) -> Page[types.ChangedSample]:
    """The examples of a task that the two did not answer alike, in the order of the data, with both answers."""
    return evaluations.changed(opened, found.settings.artifacts, (a, b), task, better, limit, cursor)


@router.get("/compare/plot", **PICTURE)
def compare_plot(
    _: Who,
    opened: SessionDep,
    found: PartsDep,
    a: Version,
    b: Version,
    task: Task = None,
    image: Format = "png",
) -> Response:
    """The differences with their intervals, as a picture."""
    compared = evaluations.compare(opened, found.settings.artifacts, a, b, task)
    return Response(draw_comparison(compared, image), media_type=MEDIA[image])


@router.get("/leaderboard")
def leaderboard(
    _: Who,
    opened: SessionDep,
    found: PartsDep,
    task: Task = None,
    model: Model = None,
    limit: Newest = 100,
) -> types.Leaderboard:
    """Scores with their intervals by task, the best first."""
    return evaluations.leaderboard(opened, found.settings.artifacts, task, model, limit)


@router.get("/leaderboard/plot", **PICTURE)
def leaderboard_plot(
    _: Who,
    opened: SessionDep,
    found: PartsDep,
    task: Task = None,
    model: Model = None,
    limit: Newest = 100,
    image: Format = "png",
) -> Response:
    """The scores with their intervals, as a picture."""
    board = evaluations.leaderboard(opened, found.settings.artifacts, task, model, limit)
    return Response(draw_leaderboard(board, image), media_type=MEDIA[image])
