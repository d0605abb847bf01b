"""Training runs: what they were told to do, how they went, and what they made to take away."""

from __future__ import annotations

import uuid
from contextlib import ExitStack
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import FileResponse, PlainTextResponse, Response
from sqlalchemy import select
from starlette.background import BackgroundTask

from raymill.client import run_types, types
from raymill.policies.errors import Invalid, NotFound
from raymill.registry.artifacts import digests_of
from raymill.registry.tables import Job, JobState
from raymill.serve.api import runs
from raymill.serve.api.chart import MEDIA, draw_runs
from raymill.serve.api.context import PartsDep, SessionDep, Who
from raymill.serve.api.paging import Cursor, Limit, rows_of_page
from raymill.serve.api.threads import ThreadRoute
from raymill.train.card import card

router = APIRouter(prefix="/runs", tags=["runs"], route_class=ThreadRoute)

METRICS = r"^[a-z][a-z0-9_]{0,63}(,[a-z][a-z0-9_]{0,63}){0,7}$"


@router.get("")
def list_(
    _: Who,
    opened: SessionDep,
    state: JobState | None = None,
    name: str | None = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> types.Page[run_types.Run]:
    """Newest first."""
    rows = select(Job).where(Job.kind.in_(runs.KINDS))
    if state is not None:
        rows = rows.where(Job.state == state)
    if name is not None:
        rows = rows.where(Job.name == name)
    found, next_cursor = rows_of_page(opened, rows, Job.id, limit=limit, cursor=cursor)
    return types.Page(data=runs.as_runs(opened, found), next_cursor=next_cursor)


@router.get("/compare")
def compare(
    _: Who, opened: SessionDep, ids: Annotated[str, Query(max_length=400)]
) -> run_types.RunComparison:
    """2 to 8 runs side by side, their ids with commas between."""
    return runs.compare(opened, ids_of(ids))


@router.get("/{run_id}")
def get(run_id: uuid.UUID, _: Who, opened: SessionDep) -> run_types.RunDetail:
    """One run, with its configuration."""
    return runs.detail(opened, runs.find(opened, run_id))


@router.get("/{run_id}/points")
def points(run_id: uuid.UUID, _: Who, opened: SessionDep) -> run_types.RunPoints:
    """Its curves, also while it goes on."""
    job = runs.find(opened, run_id)
    return run_types.RunPoints(id=job.id, name=job.name, points=runs.points_of(opened, job))


@router.get("/{run_id}/plot", response_class=Response)
def plot(
    run_id: uuid.UUID,
    _: Who,
    opened: SessionDep,
    metric: Annotated[str, Query(pattern=METRICS)] = "loss",
    others: Annotated[str, Query(alias="with", max_length=400)] = "",
    image: Annotated[types.ImageFormat, Query(alias="format")] = "png",
) -> Response:
    """A picture of its curves, a panel for each metric; those of other runs beside them."""
    found = [runs.find(opened, each) for each in (run_id, *ids_of(others))][: runs.MOST_COMPARED]
    curves = {f"{job.name} {str(job.id)[-6:]}": runs.points_of(opened, job) for job in found}
    return Response(draw_runs(curves, metric.split(","), image), media_type=MEDIA[image])


@router.get("/{run_id}/card", response_class=PlainTextResponse)
def model_card(run_id: uuid.UUID, _: Who, opened: SessionDep) -> Response:
    """The model card, with what is known of the model by now."""
    text = card(runs.facts_of(opened, runs.find(opened, run_id)))
    return PlainTextResponse(text, media_type="text/markdown; charset=utf-8")


@router.post("/{run_id}/exports")
def export(
    run_id: uuid.UUID, body: run_types.RunExportRequest, who: Who, opened: SessionDep
) -> run_types.RunExport:
    """What there is to fetch of its model. A GGUF file that nobody made yet is made by a job: ask again at its end."""
    return runs.export(opened, runs.find(opened, run_id), body.form, body.type, who.actor)


@router.get("/{run_id}/file", response_class=FileResponse)
def file(
    run_id: uuid.UUID,
    _: Who,
    opened: SessionDep,
    found: PartsDep,
    form: run_types.ExportForm,
    path: Annotated[str, Query(max_length=400)],
    kind: Annotated[str, Query(alias="type", pattern=r"^[A-Z0-9_]{1,16}$")] = "F16",
) -> Response:
    """One file of an export."""
    made = runs.exported(opened, runs.find(opened, run_id), form, kind)
    files = {each.path: each for each in digests_of(made[0].files)} if made is not None else {}
    if made is None or path not in files:
        raise NotFound(f"no file {path!r} in the {form} export of run {run_id}: ask for the export first")
    held = ExitStack()
    there = held.enter_context(found.settings.artifacts.hold_file(made[0].name, files[path]))
    return FileResponse(there, background=BackgroundTask(held.close))


def ids_of(text: str) -> list[uuid.UUID]:
    """Raises Invalid."""
    try:
        return [uuid.UUID(each.strip()) for each in text.split(",") if each.strip()]
    except ValueError:
        raise Invalid(f"{text[:80]!r} are no ids of runs: separate them by commas", param="ids") from None
