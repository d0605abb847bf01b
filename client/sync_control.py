"""Resources of the blocking client for work: pipelines, jobs, queues."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from raymill.client import control_endpoints, control_types, endpoints, types
from raymill.client.code_types import SubmissionDetail
from raymill.client.endpoints import Call, Id
from raymill.client.errors import WaitedTooLong
from raymill.client.http import Http
from raymill.client.retry import Outage
from raymill.client.validation import checked

POLL_S = 1.0

Work = TypeVar("Work", types.Pipeline, types.Job, SubmissionDetail)
"""What can be waited for."""


class Resource:
    def __init__(self, http: Http) -> None:
        self._http = http


class Pipelines(Resource):
    """Recipes being run."""

    def create(self, recipe: types.JsonObject, *, idempotency_key: str | None = None) -> types.Pipeline:
        """Start a resolved recipe (`Recipe.resolved()`). The same key and recipe give the same pipeline."""
        return self._http.send(endpoints.create_pipeline(recipe), idempotency_key)

    def plan(self, recipe: types.JsonObject) -> types.Plan:
        """What `create` would run. Writes nothing."""
        return self._http.send(endpoints.plan_pipeline(recipe))

    def get(self, pipeline_id: Id) -> types.Pipeline:
        return self._http.send(endpoints.pipeline(pipeline_id))

    def list(
        self, *, state: types.State | None = None, name: str | None = None, limit: int | None = None
    ) -> Iterator[types.Pipeline]:
        """Newest first, without their jobs."""
        return self._http.items(endpoints.pipelines(state, name), limit)

    def cancel(self, pipeline_id: Id) -> types.Pipeline:
        return self._http.send(endpoints.cancel_pipeline(pipeline_id))

    def pause(self, pipeline_id: Id) -> types.Pipeline:
        """Let its steps rest: those that wait at once, one that runs once its worker has stopped."""
        return self._http.send(control_endpoints.pause_pipeline(pipeline_id))

    def resume(self, pipeline_id: Id) -> types.Pipeline:
        return self._http.send(control_endpoints.resume_pipeline(pipeline_id))

    def retry(self, pipeline_id: Id) -> types.Pipeline:
        """Run the steps again that ended badly, and those that waited for them.

        Raises:
            Clash: no step of it ended badly.
        """
        return self._http.send(control_endpoints.retry_pipeline(pipeline_id))

    def events(self, pipeline_id: Id, *, after: int | None = None) -> Iterator[types.JobEvent]:
        """Events of all its jobs until it ends, each once; `after` is the id of the last one known."""
        return self._http.events(endpoints.pipeline_events(pipeline_id), after)

    def wait(self, pipeline_id: Id, *, timeout_s: float | None = None) -> types.Pipeline:
        """The pipeline once it is over, however it ended.

        Raises:
            WaitedTooLong: it is not over after `timeout_s`.
        """
        return until_over(self._http, endpoints.pipeline(pipeline_id), f"pipeline {pipeline_id}", timeout_s)


class Jobs(Resource):
    """Steps of pipelines, and jobs that stand alone."""

    def get(self, job_id: Id) -> types.Job:
        return self._http.send(endpoints.job(job_id))

    def list(
        self,
        *,
        state: types.State | None = None,
        kind: str | None = None,
        pipeline_id: Id | None = None,
        queue: str | None = None,
        name: str | None = None,
        limit: int | None = None,
    ) -> Iterator[types.Job]:
        """Newest first."""
        return self._http.items(control_endpoints.jobs(state, kind, pipeline_id, queue, name), limit)

    def cancel(self, job_id: Id) -> types.Job:
        return self._http.send(endpoints.cancel_job(job_id))

    def submit(
        self,
        kind: str,
        config: types.JsonObject | None = None,
        *,
        name: str = "",
        queue: str | None = None,
        priority: int | str = "normal",
        run_at: dt.datetime | None = None,
        max_attempts: int = 3,
        concurrency_key: str | None = None,
        concurrency_limit: int = 1,
        unique_key: str | None = None,
        idempotency_key: str | None = None,
    ) -> types.Job:
        """Submit a job that stands alone. It is safely written when this returns.

        Args:
            queue: the kind's own by default.
            priority: low, normal, high or urgent.
            run_at: not before; with a time zone.
            concurrency_key: of its jobs only `concurrency_limit` run at once.
            unique_key: while a job of it has not ended, that one is returned.
            idempotency_key: the same key and request give the same job, also after it ended.
        """
        data = {
            "kind": kind,
            "config": config or {},
            "name": name,
            "queue": queue,
            "priority": priority,
            "run_at": run_at,
            "max_attempts": max_attempts,
            "concurrency_key": concurrency_key,
            "concurrency_limit": concurrency_limit,
            "unique_key": unique_key,
        }
        body = checked(control_types.JobRequest, data)
        return self._http.send(control_endpoints.submit_job(body), idempotency_key)

    def pause(self, job_id: Id) -> types.Job:
        """Let it rest: at once when it waits, else once its worker has stopped."""
        return self._http.send(control_endpoints.pause_job(job_id))

    def resume(self, job_id: Id) -> types.Job:
        return self._http.send(control_endpoints.resume_job(job_id))

    def retry(self, job_id: Id) -> types.Job:
        """Run it again, with all its tries, and with it the steps that its end had ended.

        Raises:
            Clash: it did not end badly, or may not run again now.
        """
        return self._http.send(control_endpoints.retry_job(job_id))

    def redrive(
        self,
        *,
        states: Sequence[control_types.BadEnd] = ("dead",),
        queue: str | None = None,
        kind: str | None = None,
        error: str | None = None,
        limit: int = 1000,
    ) -> control_types.Redriven:
        """Run the dead letters again that match, oldest first; `error` is a part of their error's text."""
        data = {"states": list(states), "queue": queue, "kind": kind, "error": error, "limit": limit}
        return self._http.send(control_endpoints.redrive_jobs(checked(control_types.Redrive, data)))

    def stats(self) -> control_types.JobStats:
        """How every queue is doing."""
        return self._http.send(control_endpoints.job_stats())

    def events(self, job_id: Id, *, after: int | None = None) -> Iterator[types.JobEvent]:
        return self._http.events(endpoints.job_events(job_id), after)

    def logs(self, job_id: Id, *, attempt: int | None = None, follow: bool = False) -> Iterator[str]:
        """The log in pieces: what there is now, or with `follow` until the job is over."""
        after, outage = 0, Outage(self._http.retry)
        while True:
            chunk = self._http.patient(endpoints.job_logs(job_id, after, attempt), outage)
            if chunk.text:
                yield chunk.text
            grown, after = chunk.next > after, chunk.next
            if chunk.ended or not (grown or follow):
                return
            if not grown:
                time.sleep(POLL_S)

    def wait(self, job_id: Id, *, timeout_s: float | None = None) -> types.Job:
        """The job once it is over, however it ended.

        Raises:
            WaitedTooLong: it is not over after `timeout_s`.
        """
        return until_over(self._http, endpoints.job(job_id), f"job {job_id}", timeout_s)


class Queues(Resource):
    """Where jobs wait, and how many of them run at once."""

    def list(self, *, limit: int | None = None) -> Iterator[control_types.Queue]:
        return self._http.items(control_endpoints.queues(), limit)

    def set(
        self, name: str, *, max_running: int | None = None, runner: control_types.Runner | None = None
    ) -> control_types.Queue:
        """Make a queue, or change how many of its jobs run at once; None: as many as there are workers for."""
        data = {"max_running": max_running, "runner": runner}
        body = checked(control_types.QueueSettings, data)
        return self._http.send(control_endpoints.set_queue(name, body))

    def pause(self, name: str) -> control_types.Queue:
        """Start nothing of it any more; what runs goes on."""
        return self._http.send(control_endpoints.pause_queue(name))

    def resume(self, name: str) -> control_types.Queue:
        return self._http.send(control_endpoints.resume_queue(name))


def until_over(http: Http, call: Call[Work], what: str, timeout_s: float | None) -> Work:
    """Ask again and again, also while the service is away.

    Raises:
        WaitedTooLong: it is not over after `timeout_s`.
    """
    outage, deadline_s = Outage(http.retry), deadline(timeout_s)
    while (found := http.patient(call, outage)).state not in types.TERMINAL:
        too_late(deadline_s, what, found.state)
        time.sleep(POLL_S)
    return found


def deadline(timeout_s: float | None) -> float | None:
    return None if timeout_s is None else time.monotonic() + timeout_s


def too_late(deadline_s: float | None, what: str, state: str) -> None:
    """Raise `WaitedTooLong` when the deadline has passed."""
    if deadline_s is not None and time.monotonic() >= deadline_s:
        raise WaitedTooLong(f"{what} is still {state}: wait longer, or cancel it")
