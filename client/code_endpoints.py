"""The calls of `/code/v1` as data, for both clients. Sends nothing."""

from __future__ import annotations

from urllib.parse import quote

from raymill.client import code_types as types
from raymill.client.endpoints import Call, Id, Listing
from raymill.client.types import Page, State

PREFIX = "/code/v1"


def _at(*parts: Id) -> str:
    return "/".join([PREFIX, *(quote(str(part), safe="") for part in parts)])


def submit(body: types.SubmissionRequest) -> Call[types.Submission]:
    return Call(method="POST", path=_at("submissions"), body=body, returns=types.Submission)


def submissions(state: State | None) -> Listing[types.Submission]:
    return Listing(path=_at("submissions"), item=types.Submission, query={"state": state})


def submission(submission_id: Id) -> Call[types.SubmissionDetail]:
    return Call(path=_at("submissions", submission_id), returns=types.SubmissionDetail)


def answers(submission_id: Id) -> Call[Page[types.CodeAnswer]]:
    return Call(path=_at("submissions", submission_id, "answers"), returns=Page[types.CodeAnswer])


def cancel(submission_id: Id) -> Call[types.SubmissionDetail]:
    return Call(
        method="POST", path=_at("submissions", submission_id, "cancel"), returns=types.SubmissionDetail
    )


def delete(submission_id: Id) -> Call[types.SubmissionDetail]:
    path = _at("submissions", submission_id)
    return Call(method="DELETE", path=path, returns=types.SubmissionDetail, repeatable=False)


def retry(submission_id: Id) -> Call[types.SubmissionDetail]:
    return Call(
        method="POST", path=_at("submissions", submission_id, "retry"), returns=types.SubmissionDetail
    )


def events(submission_id: Id) -> str:
    return _at("submissions", submission_id, "events")


def steps() -> Call[Page[types.CodeStepVersion]]:
    return Call(path=_at("steps"), returns=Page[types.CodeStepVersion])


def set_step(step: str, body: types.CodeStepSettings) -> Call[types.CodeStepVersion]:
    return Call(method="PUT", path=_at("steps", step), body=body, returns=types.CodeStepVersion)


def versions(step: str) -> Call[Page[types.CodeStepVersion]]:
    return Call(path=_at("steps", step, "versions"), returns=Page[types.CodeStepVersion])


def use_step(step: str, body: types.CodeStepUse) -> Call[types.CodeStepVersion]:
    return Call(method="POST", path=_at("steps", step, "use"), body=body, returns=types.CodeStepVersion)


def canary(step: str) -> Call[Page[types.CodeTrial]]:
    return Call(path=_at("steps", step, "canary"), returns=Page[types.CodeTrial])


def set_canary(step: str, body: types.CodeCanary) -> Call[Page[types.CodeTrial]]:
    return Call(method="PUT", path=_at("steps", step, "canary"), body=body, returns=Page[types.CodeTrial])


def experiments() -> Listing[types.CodeExperiment]:
    return Listing(path=_at("experiments"), item=types.CodeExperiment)


def start_experiment(body: types.CodeExperimentRequest) -> Call[types.CodeExperiment]:
    path = _at("experiments")
    return Call(method="POST", path=path, body=body, returns=types.CodeExperiment, repeatable=False)


def stop_experiment(experiment_id: Id) -> Call[types.CodeExperiment]:
    path = _at("experiments", experiment_id, "stop")
    return Call(method="POST", path=path, returns=types.CodeExperiment)
