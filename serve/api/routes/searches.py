"""Searches over fields of a recipe: how far they are, their trials, and plots of these."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from fastapi import APIRouter, Response
from sqlalchemy import select

from raymill.client import search_types as types
from raymill.client.types import ImageFormat, Page
from raymill.registry import trials
from raymill.registry.tables import Job, Trial
from raymill.registry.trials import Tally
from raymill.serve.api.chart import MEDIA
from raymill.serve.api.context import SessionDep, Who
from raymill.serve.api.paging import Cursor, Limit, rows_of_page
from raymill.serve.api.search_chart import draw_search
from raymill.serve.api.threads import ThreadRoute
from raymill.tune.config import TuneConfig

router = APIRouter(prefix="/searches", tags=["searches"], route_class=ThreadRoute)


@router.get("")
def list_(
    _: Who, opened: SessionDep, name: str | None = None, limit: Limit = 50, cursor: Cursor = None
) -> Page[types.Search]:
    """Newest first, without their trials."""
    rows = select(Job).where(Job.kind == trials.KIND)
    if name is not None:
        rows = rows.where(Job.name == name)
    found, next_cursor = rows_of_page(opened, rows, Job.id, limit=limit, cursor=cursor)
    tallies = trials.tallies(opened, [_made_by(job) for job in found])
    data = [search_of(job, tallies.get(_made_by(job))) for job in found]
    return Page(data=data, next_cursor=next_cursor)


@router.get("/{search_id}")
def get(search_id: uuid.UUID, _: Who, opened: SessionDep) -> types.Search:
    """With its trials. `search_id` is that of its job or of its pipeline."""
    job = trials.find_search(opened, search_id)
    rows = trials.trials_of(opened, job)
    tally = Tally(len(rows), sum(row.state.over for row in rows), sum(row.steps for row in rows))
    return search_of(job, tally, rows)


@router.get(
    "/{search_id}/plot",
    response_class=Response,
    responses={200: {"content": {media: {} for media in MEDIA.values()}}},
)
def plot(
    search_id: uuid.UUID,
    _: Who,
    opened: SessionDep,
    kind: types.PlotKind = "curves",
    format: ImageFormat = "svg",
) -> Response:
    """curves: the loss of each trial over its steps. parallel: the values of all trials side by side."""
    job = trials.find_search(opened, search_id)
    image = draw_search(
        kind, TuneConfig.model_validate(job.config["tune"]), trials.trials_of(opened, job), format
    )
    return Response(image, media_type=MEDIA[format])


def _made_by(job: Job) -> uuid.UUID:
    return job.reused_job_id or job.id


def search_of(job: Job, tally: Tally | None, rows: Sequence[Trial] = ()) -> types.Search:
    config, result = TuneConfig.model_validate(job.config["tune"]), job.result or {}
    tally = tally or Tally(0, 0, 0)
    return types.Search(
        id=job.id,
        pipeline_id=job.pipeline_id,
        name=job.name,
        state=job.state.value,
        error=job.error,
        search=config.search,
        scheduler=config.scheduler,
        metric=config.metric,
        over=config.model_dump(mode="json")["over"],
        size=config.size,
        over_trials=tally.over,
        steps=tally.steps,
        best=result.get("search", {}).get("best"),
        version=result.get("version"),
        created_at=job.created_at,
        finished_at=job.finished_at,
        trials=[types.Trial.model_validate(row, from_attributes=True) for row in rows],
    )
