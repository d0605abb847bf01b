"""The calls of job control as data, used by both clients. Sends nothing."""

from __future__ import annotations

from raymill.client import control_types as types
from raymill.client.endpoints import Call, Id, Listing, at
from raymill.client.types import Job, Pipeline, State

REDRIVE_TIMEOUT_S = 300.0
"""Each job that runs again leaves an audit row."""


def submit_job(body: types.JobRequest) -> Call[Job]:
    return Call(method="POST", path=at("jobs"), body=body, returns=Job)


def jobs(
    state: State | None, kind: str | None, pipeline_id: Id | None, queue: str | None, name: str | None
) -> Listing[Job]:
    of = str(pipeline_id) if pipeline_id else None
    query = {"state": state, "kind": kind, "pipeline_id": of, "queue": queue, "name": name}
    return Listing(path=at("jobs"), item=Job, query=query)


def pause_job(job_id: Id) -> Call[Job]:
    return Call(method="POST", path=at("jobs", job_id, "pause"), returns=Job)


def resume_job(job_id: Id) -> Call[Job]:
    return Call(method="POST", path=at("jobs", job_id, "resume"), returns=Job)


def retry_job(job_id: Id) -> Call[Job]:
    # Sent twice it would be refused, for the job is not over any more.
    return Call(method="POST", path=at("jobs", job_id, "retry"), returns=Job, repeatable=False)


def redrive_jobs(body: types.Redrive) -> Call[types.Redriven]:
    return Call(
        method="POST",
        path=at("jobs", "redrive"),
        body=body,
        returns=types.Redriven,
        timeout_s=REDRIVE_TIMEOUT_S,
        repeatable=False,
    )


def job_stats() -> Call[types.JobStats]:
    return Call(path=at("jobs", "stats"), returns=types.JobStats)


def pause_pipeline(pipeline_id: Id) -> Call[Pipeline]:
    return Call(method="POST", path=at("pipelines", pipeline_id, "pause"), returns=Pipeline)


def resume_pipeline(pipeline_id: Id) -> Call[Pipeline]:
    return Call(method="POST", path=at("pipelines", pipeline_id, "resume"), returns=Pipeline)


def retry_pipeline(pipeline_id: Id) -> Call[Pipeline]:
    path = at("pipelines", pipeline_id, "retry")
    return Call(method="POST", path=path, returns=Pipeline, repeatable=False)


def queues() -> Listing[types.Queue]:
    return Listing(path=at("queues"), item=types.Queue)


def set_queue(name: str, body: types.QueueSettings) -> Call[types.Queue]:
    return Call(method="PUT", path=at("queues", name), body=body, returns=types.Queue)


def pause_queue(name: str) -> Call[types.Queue]:
    return Call(method="POST", path=at("queues", name, "pause"), returns=types.Queue)


def resume_queue(name: str) -> Call[types.Queue]:
    return Call(method="POST", path=at("queues", name, "resume"), returns=types.Queue)
