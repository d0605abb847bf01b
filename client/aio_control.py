"""Resources of the asyncio client for work: what `sync_control.py` has, awaiting."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Sequence

from raymill.client import control_endpoints, control_types, endpoints, types
from raymill.client.aio_http import AsyncHttp
from raymill.client.endpoints import Call, Id
from raymill.client.retry import Outage
from raymill.client.sync_control import POLL_S, Work, deadline, too_late
from raymill.client.validation import checked


class Resource:
    def __init__(self, http: AsyncHttp) -> None:
        self._http = http


class Pipelines(Resource):
    """Recipes being run."""

    async def create(self, recipe: types.JsonObject, *, idempotency_key: str | None = None) -> types.Pipeline:
        """Start a resolved recipe (`Recipe.resolved()`). The same key and recipe give the same pipeline."""
        return await self._http.send(endpoints.create_pipeline(recipe), idempotency_key)

    async def plan(self, recipe: types.JsonObject) -> types.Plan:
        """What `create` would run. Writes nothing."""
        return await self._http.send(endpoints.plan_pipeline(recipe))

    async def get(self, pipeline_id: Id) -> types.Pipeline:
        return await self._http.send(endpoints.pipeline(pipeline_id))

    def list(
        self, *, state: types.State | None = None, name: str | None = None, limit: int | None = None
    ) -> AsyncIterator[types.Pipeline]:
        """Newest first, without their jobs."""
        return self._http.items(endpoints.pipelines(state, name), limit)

    async def cancel(self, pipeline_id: Id) -> types.Pipeline:
        return await self._http.send(endpoints.cancel_pipeline(pipeline_id))

    async def pause(self, pipeline_id: Id) -> types.Pipeline:
        """Let its steps rest: those that wait at once, one that runs once its worker has stopped."""
        return await self._http.send(control_endpoints.pause_pipeline(pipeline_id))

    async def resume(self, pipeline_id: Id) -> types.Pipeline:
        return await self._http.send(control_endpoints.resume_pipeline(pipeline_id))

    async def retry(self, pipeline_id: Id) -> types.Pipeline:
        """Run the steps again that ended badly, and those that waited for them.

        Raises:
            Clash: no step of it ended badly.
        """
        return await self._http.send(control_endpoints.retry_pipeline(pipeline_id))

    def events(self, pipeline_id: Id, *, after: int | None = None) -> AsyncIterator[types.JobEvent]:
        """Events of all its jobs until it ends, each once; `after` is the id of the last one known."""
        return self._http.events(endpoints.pipeline_events(pipeline_id), after)

    async def wait(self, pipeline_id: Id, *, timeout_s: float | None = None) -> types.Pipeline:
        """The pipeline once it is over, however it ended.

        Raises:
            WaitedTooLong: it is not over after `timeout_s`.
        """
        return await until_over(
            self._http, endpoints.pipeline(pipeline_id), f"pipeline {pipeline_id}", timeout_s
        )


class Jobs(Resource):
    """Steps of pipelines, and jobs that stand alone."""

    async def get(self, job_id: Id) -> types.Job:
        return await self._http.send(endpoints.job(job_id))

    def list(
        self,
        *,
        state: types.State | None = None,
        kind: str | None = None,
        pipeline_id: Id | None = None,
        queue: str | None = None,
        name: str | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[types.Job]:
        """Newest first."""
        return self._http.items(control_endpoints.jobs(state, kind, pipeline_id, queue, name), limit)

    async def cancel(self, job_id: Id) -> types.Job:
        return await self._http.send(endpoints.cancel_job(job_id))

    async def submit(
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
        return await self._http.send(control_endpoints.submit_job(body), idempotency_key)

    async def pause(self, job_id: Id) -> types.Job:
        """Let it rest: at once when it waits, else once its worker has stopped."""
        return await self._http.send(control_endpoints.pause_job(job_id))

    async def resume(self, job_id: Id) -> types.Job:
        return await self._http.send(control_endpoints.resume_job(job_id))

    async def retry(self, job_id: Id) -> types.Job:
        """Run it again, with all its tries, and with it the steps that its end had ended.

        Raises:
            Clash: it did not end badly, or may not run again now.
        """
        return await self._http.send(control_endpoints.retry_job(job_id))

    async def redrive(
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
        return await self._http.send(control_endpoints.redrive_jobs(checked(control_types.Redrive, data)))

    async def stats(self) -> control_types.JobStats:
        """How every queue is doing."""
        return await self._http.send(control_endpoints.job_stats())

    def events(self, job_id: Id, *, after: int | None = None) -> AsyncIterator[types.JobEvent]:
        return self._http.events(endpoints.job_events(job_id), after)

    async def logs(
        self, job_id: Id, *, attempt: int | None = None, follow: bool = False
    ) -> AsyncIterator[str]:
        """The log in pieces: what there is now, or with `follow` until the job is over."""
        after, outage = 0, Outage(self._http.retry)
        while True:
            chunk = await self._http.patient(endpoints.job_logs(job_id, after, attempt), outage)
            if chunk.text:
                yield chunk.text
            grown, after = chunk.next > after, chunk.next
            if chunk.ended or not (grown or follow):
                return
            if not grown:
                await asyncio.sleep(POLL_S)

    async def wait(self, job_id: Id, *, timeout_s: float | None = None) -> types.Job:
        """The job once it is over, however it ended.

        Raises:
            WaitedTooLong: it is not over after `timeout_s`.
        """
        return await until_over(self._http, endpoints.job(job_id), f"job {job_id}", timeout_s)


class Queues(Resource):
    """Where jobs wait, and how many of them run at once."""

    def list(self, *, limit: int | None = None) -> AsyncIterator[control_types.Queue]:
        return self._http.items(control_endpoints.queues(), limit)

    async def set(
        self, name: str, *, max_running: int | None = None, runner: control_types.Runner | None = None
    ) -> control_types.Queue:
        """Make a queue, or change how many of its jobs run at once; None: as many as there are workers for."""
        data = {"max_running": max_running, "runner": runner}
        body = checked(control_types.QueueSettings, data)
        return await self._http.send(control_endpoints.set_queue(name, body))

    async def pause(self, name: str) -> control_types.Queue:
        """Start nothing of it any more; what runs goes on."""
        return await self._http.send(control_endpoints.pause_queue(name))

    async def resume(self, name: str) -> control_types.Queue:
        return await self._http.send(control_endpoints.resume_queue(name))


async def until_over(http: AsyncHttp, call: Call[Work], what: str, timeout_s: float | None) -> Work:
    """As `sync_control.until_over`."""
    outage, deadline_s = Outage(http.retry), deadline(timeout_s)
    while (found := await http.patient(call, outage)).state not in types.TERMINAL:
        too_late(deadline_s, what, found.state)
        await asyncio.sleep(POLL_S)
    return found
