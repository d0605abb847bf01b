"""Measured versions: compared example by example, and ranked by task."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import Response

from raymill.client import evaluation_types as types
from raymill.client.types import ImageFormat
from raymill.serve.api import evaluations
from raymill.serve.api.chart import MEDIA
from raymill.serve.api.context import PartsDep, SessionDep, Viewer
from raymill.serve.api.interval_chart import draw_comparison, draw_leaderboard
from raymill.serve.api.threads import ThreadRoute

router = APIRouter(prefix="/evaluations", tags=["evaluations"], route_class=ThreadRoute)

PICTURE: dict[str, Any] = {
    "response_class": Response,
    "responses": {200: {"content": {media: {} for media in MEDIA.values()}}},
}
Version = Annotated[
    str, Query(max_length=200, description="Such as support@3, support@production, support@3:Q8_0.")
]
Task = Annotated[str | None, Query(max_length=128, description="This one only.")]
Model = Annotated[str | None, Query(max_length=64, description="Versions of this model only.")]
Newest = Annotated[int, Query(ge=1, le=500, description="So many scores, the newest.")]
Format = Annotated[ImageFormat, Query(alias="format")]


@router.get("/compare")
def compare(
    _: Viewer, opened: SessionDep, found: PartsDep, a: Version, b: Version, task: Task = None
) -> types.VersionComparison:
    """A verdict on A against B, for each task that both were measured on."""
    return evaluations.compare(opened, found.settings.artifacts, a, b, task)


@router.get("/compare/plot", **PICTURE)
def compare_plot(
    _: Viewer,
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
    _: Viewer,
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
    _: Viewer,
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
