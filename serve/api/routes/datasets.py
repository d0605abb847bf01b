"""Data sets: check, register, look at."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from sqlalchemy import select
from sqlalchemy.orm import Session

from raymill.client import dataset_types, types
from raymill.cluster.kinds import kind_of
from raymill.policies.errors import Invalid
from raymill.registry import audit, jobs, quotas, tables
from raymill.registry import datasets as sets
from raymill.registry.database import clock
from raymill.registry.jobs import JobSpec
from raymill.serve.api import wire
from raymill.serve.api.context import Caller, IdempotencyKey, PartsDep, SessionDep, Who
from raymill.serve.api.dataset_files import located, read_rows
from raymill.serve.api.dataset_planning import job_config, plan_dataset, plan_traffic
from raymill.serve.api.paging import Cursor, Limit, page
from raymill.serve.api.threads import ThreadRoute

router = APIRouter(prefix="/datasets", tags=["datasets"], route_class=ThreadRoute)

BENCHMARK = "benchmark"
"""Shape of rows in no known form (`train/dataset_rows.py`)."""

Number = Annotated[int | None, Query(ge=1, description="Which version; the newest when left out.")]


@router.get("")
def list_(
    _: Who,
    opened: SessionDep,
    name: str | None = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> types.Page[types.Dataset]:
    """Newest first."""
    rows = select(tables.Dataset)
    if name is not None:
        rows = rows.where(tables.Dataset.name == name)
    return page(opened, rows, tables.Dataset.id, wire.dataset, limit=limit, cursor=cursor)


@router.post("", status_code=202)
def add(
    body: dataset_types.DatasetRequest,
    who: Who,
    opened: SessionDep,
    found: PartsDep,
    idempotency_key: IdempotencyKey = None,
) -> types.Pipeline:
    """Check and register a data set: a pipeline of one step."""
    asked = body.model_dump(mode="json", exclude={"name"})
    config, digests = located(opened, found.settings.uploads_dir, who, asked)
    row = jobs.create_pipeline(
        opened,
        name=body.name,
        recipe={"dataset": asked},
        steps=[plan_dataset(opened, body.name, config, digests)],
        actor=who.actor,
        idempotency_key=idempotency_key,
    )
    return wire.pipeline_with_jobs(opened, row)


@router.post("/validate", status_code=202)
def validate(
    body: dataset_types.CheckRequest,
    who: Who,
    opened: SessionDep,
    found: PartsDep,
    idempotency_key: IdempotencyKey = None,
) -> types.Job:
    """Check files as if they were to be registered: a job whose result tells what is wrong."""
    asked = body.model_dump(mode="json")
    config, digests = located(opened, found.settings.uploads_dir, who, asked)
    config = job_config(opened, "", config, digests)
    return _start(opened, who, "dataset_check", "", config, idempotency_key)


@router.post("/from-traffic", status_code=202)
def from_traffic(
    body: dataset_types.TrafficRequest, who: Who, opened: SessionDep, idempotency_key: IdempotencyKey = None
) -> types.Pipeline:
    """Make a set of kept requests of a route. Takes an admin, who alone sees everyone's prompts."""
    asked = body.model_copy(update={"until": body.until or clock(opened)}).model_dump(mode="json")
    row = jobs.create_pipeline(
        opened,
        name=body.name,
        recipe={"traffic": body.model_dump(mode="json")},
        steps=plan_traffic(opened, body.name, asked),
        actor=who.actor,
        idempotency_key=idempotency_key,
    )
    return wire.pipeline_with_jobs(opened, row)


@router.get("/{name}")
def get(name: str, _: Who, opened: SessionDep, number: Number = None) -> dataset_types.DatasetDetail:
    """One version of a data set, with its statistics."""
    row = sets.find(opened, name, number)
    return dataset_types.DatasetDetail.model_validate(row, from_attributes=True)


@router.get("/{name}/rows")
def rows(
    name: str,
    _: Who,
    opened: SessionDep,
    found: PartsDep,
    number: Number = None,
    part: dataset_types.Part = "train",
    limit: Limit = 50,
    cursor: Cursor = None,
) -> types.Page[dataset_types.DatasetRow]:
    """Rows in normal form, in the order in which they lie in the set."""
    row = sets.find(opened, name, number)
    digest = opened.get_one(tables.Artifact, row.artifact_name).digest
    with found.settings.artifacts.hold(row.artifact_name, digest) as directory:
        return read_rows(directory, row.name, part, limit, cursor)


@router.post("/{name}/stats", status_code=202)
def token_stats(
    name: str,
    body: dataset_types.TokenRequest,
    who: Who,
    opened: SessionDep,
    idempotency_key: IdempotencyKey = None,
) -> types.Job:
    """Count its tokens by a base's tokenizer: a job whose result has the numbers."""
    return _look(opened, who, "dataset_tokens", name, body, idempotency_key)


@router.post("/{name}/preview", status_code=202)
def preview(
    name: str,
    body: dataset_types.TokenRequest,
    who: Who,
    opened: SessionDep,
    idempotency_key: IdempotencyKey = None,
) -> types.Job:
    """Render some of its rows as a base sees them: a job whose result has the texts, and which parts are trained."""
    return _look(opened, who, "dataset_preview", name, body, idempotency_key)


def _look(
    opened: Session, who: Caller, kind: str, name: str, body: dataset_types.TokenRequest, key: str | None
) -> types.Job:
    row = sets.find(opened, name, body.number)
    if row.shape == BENCHMARK:
        raise Invalid(
            f"data set {name} is a benchmark's, whose rows no template renders: look at its rows",
            param="name",
        )
    config = {"artifact": row.artifact_name, **body.model_dump(mode="json")}
    return _start(opened, who, kind, name, config, key)


def _start(
    opened: Session, who: Caller, kind: str, name: str, config: tables.JsonObject, key: str | None
) -> types.Job:
    spec = JobSpec(
        kind=kind,
        queue=kind_of(kind).queue,
        name=name,
        config=config,
        idempotency_key=key,
        team_id=quotas.team_of(opened, who.actor.name),
    )
    (job_id,) = jobs.enqueue(jobs.raw(opened), [spec])
    if job_id == spec.id:
        audit.record(opened, who.actor, "job.submit", f"job/{job_id}", kind=kind, queue=spec.queue)
    return wire.job(opened.get_one(tables.Job, job_id))
