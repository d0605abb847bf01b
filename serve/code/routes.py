"""`/code/v1`: submissions and the steps' versions. Anybody with a key may submit; one's own are seen, approvers see all."""

from __future__ import annotations

import uuid
from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from raymill.client import code_types as types
from raymill.client.types import Page
from raymill.policies.errors import Conflict, Denied, Invalid
from raymill.registry import code, code_experiments, code_steps, identity, jobs
from raymill.registry.tables import (
    CodeExperiment,
    CodeStep,
    CodeStepVersion,
    CodeSubmission,
    Job,
    JobState,
    Pipeline,
)
from raymill.serve.api import events
from raymill.serve.api.context import Caller, IdempotencyKey, PartsDep, SessionDep, Who
from raymill.serve.api.paging import Cursor, Limit, page, rows_of_page
from raymill.serve.api.scope import only_own
from raymill.serve.api.threads import ThreadRoute
from raymill.serve.code import wire
from raymill.serve.code.intake import checked
from raymill.serve.code.step_config import StepConfig

PREFIX = "/code/v1"
router = APIRouter(tags=["code"], route_class=ThreadRoute)


@router.post("/submissions", status_code=202)
def submit(
    body: types.SubmissionRequest,
    who: Who,
    opened: SessionDep,
    found: PartsDep,
    idempotency_key: IdempotencyKey = None,
) -> types.Submission:
    """Have code analysed, rebuilt and judged. Answers as soon as it is safely written."""
    account = identity.find_account(opened, who.actor.name)
    new = checked(body, code.most_bytes(opened, account, found.settings.code_max_bytes))
    for step in code_steps.missing(opened):
        raise Conflict(f"step {step} has no model yet: `raymill code set {step} --model ROUTE` gives it one")
    row = code.submit(opened, new, account, who.actor, idempotency_key=idempotency_key)
    return wire.submission(row, row.names, code.pipeline_of(opened, row), code.jobs_of(opened, row))


@router.get("/submissions")
def list_(
    who: Who, opened: SessionDep, state: JobState | None = None, limit: Limit = 50, cursor: Cursor = None
) -> Page[types.Submission]:
    """Newest first."""
    rows = code.heads()
    account_id = only_own(opened, who)
    if account_id is not None:
        rows = rows.where(CodeSubmission.account_id == account_id)
    if state is not None:
        rows = rows.join(Pipeline, Pipeline.id == CodeSubmission.pipeline_id).where(Pipeline.state == state)
    found, next_cursor = rows_of_page(opened, rows, CodeSubmission.id, limit=limit, cursor=cursor)
    ids = [row.pipeline_id for row in found]
    pipelines = {row.id: row for row in opened.scalars(select(Pipeline).where(Pipeline.id.in_(ids)))}
    steps: dict[uuid.UUID, list[Job]] = {id_: [] for id_ in ids}
    for job in opened.scalars(select(Job).where(Job.pipeline_id.in_(ids)).order_by(Job.id)):
        assert job.pipeline_id is not None
        steps[job.pipeline_id].append(job)
    names = code.names_of(opened, [row.id for row in found])
    data = [
        wire.submission(row, names[row.id], pipelines[row.pipeline_id], steps[row.pipeline_id])
        for row in found
        if row.id in names  # else it was deleted between the statements
    ]
    return Page(data=data, next_cursor=next_cursor)


@router.get("/submissions/{submission_id}")
def get(submission_id: uuid.UUID, who: Who, opened: SessionDep) -> types.SubmissionDetail:
    """With findings, dossier, rebuilt code and report, as far as there are any."""
    return wire.detail(opened, _row(opened, who, submission_id))


@router.get("/submissions/{submission_id}/answers")
def answers(submission_id: uuid.UUID, who: Who, opened: SessionDep) -> Page[types.CodeAnswer]:
    """Every answer of a model, also those that could not be used, in their order."""
    row = _row(opened, who, submission_id)
    return Page(data=[wire.answer(each, cost) for each, cost in code.answers_of(opened, row.id)])


@router.post("/submissions/{submission_id}/cancel")
def cancel(submission_id: uuid.UUID, who: Who, opened: SessionDep) -> types.SubmissionDetail:
    """No effect of a step commits once this is answered; what steps have left stays."""
    row = _row(opened, who, submission_id)
    jobs.cancel_pipeline(opened, row.pipeline_id, who.actor)
    return wire.detail(opened, row)


@router.delete("/submissions/{submission_id}")
def delete(submission_id: uuid.UUID, who: Who, opened: SessionDep) -> types.SubmissionDetail:
    """Forget the code and all that was found and said of it, once it is over. Its last answer."""
    row = _row(opened, who, submission_id)
    last = wire.detail(opened, row)
    code.delete(opened, row, who.actor)
    return last


@router.post("/submissions/{submission_id}/retry")
def retry(submission_id: uuid.UUID, who: Who, opened: SessionDep) -> types.SubmissionDetail:
    """Run the steps again that ended badly, and those that waited for them."""
    row = _row(opened, who, submission_id)
    jobs.retry_pipeline(opened, row.pipeline_id, who.actor)
    return wire.detail(opened, row)


@router.get("/submissions/{submission_id}/events", response_class=StreamingResponse)
def follow(
    submission_id: uuid.UUID,
    who: Who,
    opened: SessionDep,
    found: PartsDep,
    request: Request,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """Progress of its steps as server-sent events."""
    row = _row(opened, who, submission_id)
    subject = events.subject_of(pipeline=code.pipeline_of(opened, row))
    frames = events.stream(
        found.database, request.app.state.bell, subject, events.last_event_id(last_event_id)
    )
    return StreamingResponse(frames, media_type="text/event-stream")


@router.get("/steps")
def steps(_: Who, opened: SessionDep) -> Page[types.CodeStepVersion]:
    """The version of each step that is in use; a step without one is left out."""
    used = [code_steps.active(opened, step) for step in code.STEPS]
    return Page(data=[_version(opened, row) for row in used if row is not None])


@router.put("/steps/{step}")
def set_step(
    step: types.Step, body: types.CodeStepSettings, who: Who, opened: SessionDep
) -> types.CodeStepVersion:
    """Another version, used by every step that starts from now on; or, with `use` false, to be tried first."""
    try:
        config = StepConfig.model_validate(body.model_dump(exclude={"note", "use"}))
    except ValidationError as error:
        raise Invalid(f"params: {error.errors()[0]['msg']}", param="params") from None
    row = code_steps.put(
        opened, step, config.model_dump(mode="json"), who.actor, note=body.note, in_use=body.use
    )
    return _version(opened, row)


@router.get("/steps/{step}/versions")
def step_versions(step: types.Step, _: Who, opened: SessionDep) -> Page[types.CodeStepVersion]:
    """Newest first."""
    return Page(data=[_version(opened, row) for row in code_steps.versions(opened, step)])


@router.post("/steps/{step}/use")
def use_step(
    step: types.Step, body: types.CodeStepUse, who: Who, opened: SessionDep
) -> types.CodeStepVersion:
    """Use an earlier version again, or one that was tried."""
    return _version(opened, code_steps.use(opened, step, body.version, who.actor))


@router.put("/steps/{step}/canary")
def set_canary(
    step: types.Step, body: types.CodeCanary, who: Who, opened: SessionDep
) -> Page[types.CodeTrial]:
    """Try a version on a share of the submissions, or end that."""
    code_steps.set_canary(opened, step, body.version, body.share, who.actor)
    return _trials(opened, step)


@router.get("/steps/{step}/canary")
def canary(step: types.Step, _: Who, opened: SessionDep) -> Page[types.CodeTrial]:
    """What was measured of the submissions of each version, side by side; the newest first."""
    return _trials(opened, step)


@router.post("/experiments", status_code=201)
def start_experiment(
    body: types.CodeExperimentRequest, who: Who, opened: SessionDep, found: PartsDep
) -> types.CodeExperiment:
    """Put a fault into the steps for a while. Refused under RAYMILL_PRODUCTION."""
    if found.settings.production:
        raise Denied("this service runs in production mode: experiments are refused; try them elsewhere")
    row = code_experiments.start(opened, who.actor, **body.model_dump())
    return types.CodeExperiment.model_validate(row, from_attributes=True)


@router.get("/experiments")
def experiments(
    _: Who, opened: SessionDep, limit: Limit = 50, cursor: Cursor = None
) -> Page[types.CodeExperiment]:
    """Newest first; those that have ended too."""

    def to_wire(row: CodeExperiment) -> types.CodeExperiment:
        return types.CodeExperiment.model_validate(row, from_attributes=True)

    return page(opened, select(CodeExperiment), CodeExperiment.id, to_wire, limit=limit, cursor=cursor)


@router.post("/experiments/{experiment_id}/stop")
def stop_experiment(experiment_id: uuid.UUID, who: Who, opened: SessionDep) -> types.CodeExperiment:
    """End it now."""
    row = code_experiments.stop(opened, experiment_id, who.actor)
    return types.CodeExperiment.model_validate(row, from_attributes=True)


def _version(opened: Session, row: CodeStepVersion) -> types.CodeStepVersion:
    return wire.step_version(row, opened.get(CodeStep, row.step))


def _trials(opened: Session, step: str) -> Page[types.CodeTrial]:
    used = opened.get(CodeStep, step)
    return Page(data=[wire.trial(row, used) for row in code_steps.trials(opened, step)])


def _row(opened: Session, who: Caller, submission_id: uuid.UUID) -> CodeSubmission:
    return code.find(opened, submission_id, account_id=only_own(opened, who))
