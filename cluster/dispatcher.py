"""Starts heavy jobs as Ray jobs, and notices those whose process ended without a word.

Holds nothing: what runs is read from Postgres, so an engine that was killed goes on where it was.
"""

from __future__ import annotations

import logging
import sys
import time
import uuid
from functools import partial
from typing import Any

import requests
from ray.exceptions import RayError
from ray.job_submission import JobStatus, JobSubmissionClient
from sqlalchemy import select
from sqlalchemy.orm import Session

from raymill.cluster.accelerators import ask, of_cluster
from raymill.cluster.claim import Claimer
from raymill.cluster.job_logs import last_lines
from raymill.cluster.job_numbers import JobNumbers
from raymill.cluster.kinds import kind_of
from raymill.cluster.ray_head import warm_socket
from raymill.cluster.ray_jobs import submission_id
from raymill.cluster.settings import Settings
from raymill.cluster.warm.setup_worker import SOCKET
from raymill.registry import accelerators, jobs
from raymill.registry.database import Database
from raymill.registry.failpoints import failpoint
from raymill.registry.jobs import Claimed, LeaseLost
from raymill.registry.placement_config import Resources, pin
from raymill.registry.tables import Job, JobState, Queue

log = logging.getLogger(__name__)

START_LEASE_S = 120.0
"""From the claim until the driver has started and takes over the lease."""

CHECK_EVERY_S = 3.0

WORKER = "dispatcher"
"""Holds a job from its claim until its driver takes over."""


class Dispatcher:
    """Claims heavy jobs up to the number of slots and hands each to a Ray job of its own."""

    def __init__(
        self, database: Database, settings: Settings, client: JobSubmissionClient, numbers: JobNumbers
    ) -> None:
        self._database = database
        self._settings = settings
        self._client = client
        self._warm = warm_socket(settings)
        self._numbers = numbers
        self._seen: dict[tuple[uuid.UUID, int], tuple[Job, float]] = {}
        """Attempts that ran at the last look, and since when they are known to, on the monotonic clock."""
        self._next_check = 0.0
        self._asked: dict[str, int] | None = None
        """What the cluster was asked to have; None: an engine before this one may have."""

        # What an engine before this one had claimed and not started is started now: its id says if it was.
        self._claimer = Claimer(database, settings, "heavy", WORKER, running=list, numbers=numbers)
        for job in database.hold_once(lambda connection: jobs.unheard(connection, WORKER, [])):
            self._submit(job)

    def step(self) -> bool:
        """Start what can be started. Returns whether anything was."""
        if time.monotonic() >= self._next_check:
            self._next_check = time.monotonic() + CHECK_EVERY_S
            self._tell_accelerators()
            self._requeue_ended()
        running = self._running()
        self._count_ended(running)
        free = self._settings.heavy_slots - len(running)
        lease_s = max(START_LEASE_S, self._settings.lease_s)
        started = self._claimer.take(free, lease_s=lease_s) if free > 0 else []
        for job in started:
            self._submit(job)
        return bool(started)

    def _tell_accelerators(self) -> None:
        try:
            found = of_cluster()
        except RayError as error:  # the head starts again: what was known stays
            log.warning("Ray does not tell its accelerators: %s", error)
            return
        self._database.patiently(lambda session: accelerators.tell(session, found))
        if self._settings.address is not None:
            self._ask_for_accelerators()

    def _ask_for_accelerators(self) -> None:
        """Jobs wait in their queue for GPUs to be free, where Ray does not see them."""
        slots = self._settings.heavy_slots
        wanted = self._database.patiently(lambda session: accelerators.wanted(session, slots))
        if wanted == self._asked:
            return
        try:
            ask(wanted)
        except RayError as error:
            log.warning("Ray was not asked for accelerators: %s", error)
            return
        if wanted or self._asked:
            log.info(
                "asked the cluster for %s",
                ", ".join(f"{n} GPUs ({name})" for name, n in wanted.items()) or "no GPUs",
            )
        self._asked = wanted

    def _submit(self, job: Claimed) -> None:
        # An attempt that hangs (stopped, swapped out) has lost its lease; end it before two share a directory.
        if job.epoch > 1:
            self._stop(submission_id(job.id, job.epoch - 1))
        failpoint("submit:before")
        program = f"-m raymill.cluster.driver {job.id} {job.epoch}"
        warm = self._warm if kind_of(job.kind).warm else None
        if warm is not None:
            program = f"-m raymill.cluster.warm.client {warm} {program}"
        try:
            self._client.submit_job(
                entrypoint=f"{sys.executable} {program}",
                submission_id=submission_id(job.id, job.epoch),
                metadata={"raymill_job": str(job.id), "step": job.step, "model": job.name},
                # All that Ray starts for it comes from the warm process too.
                runtime_env={"env_vars": {SOCKET: str(warm)}} if warm is not None else None,
                **_placed(job, self._settings),
            )
        except RuntimeError as error:
            if "already exists" not in str(error):
                raise
            return  # by an engine that died before it could know
        failpoint("submit:after")
        log.info(
            "job %s (%s of %s) started as a Ray job, attempt %d", job.id, job.step, job.name, job.attempt
        )

    def _stop(self, submission: str) -> None:
        try:
            if not self._client.get_job_status(submission).is_terminal():
                self._client.stop_job(submission)
        except RuntimeError:
            log.info("Ray does not know job %s: it went with an earlier cluster", submission)

    def _requeue_ended(self) -> None:
        """A Ray job that ended while its row still says `running` was killed: no need to wait for its lease."""
        for job in self._running():
            try:
                info = self._client.get_job_info(submission_id(job.id, job.epoch))
            except (RuntimeError, requests.RequestException):
                continue  # not submitted yet, or another cluster's: the lease decides
            if info.status is JobStatus.PENDING and job.worker == WORKER:
                self._wait_for_room(job)
                continue
            if info.status not in {JobStatus.FAILED, JobStatus.STOPPED, JobStatus.SUCCEEDED}:
                continue
            error = f"its process ended without finishing the job ({info.status.value.lower()})"
            try:
                self._database.patiently(partial(_lost, self._settings, job, error))
            except LeaseLost:
                continue  # it had ended the job after all
            self._numbers.lost(job.queue, job.kind)
            log.warning("job %s (%s): %s", job.id, job.step, error)

    def _wait_for_room(self, job: Job) -> None:
        """Ray has no room for its driver yet, so nobody else says that the job is not lost."""
        if job.cancel_requested_at is not None:
            self._stop(submission_id(job.id, job.epoch))
            return
        lease_s = max(START_LEASE_S, self._settings.lease_s)
        beat = [(job.id, job.epoch)]
        self._database.hold_once(lambda connection: jobs.beat(connection, beat, lease_s=lease_s))

    def _count_ended(self, running: list[Job]) -> None:
        """Their processes end them; that they did is seen here, where somebody reads the numbers."""
        now = time.monotonic()
        before = self._seen
        self._seen = {(job.id, job.epoch): before.get((job.id, job.epoch), (job, now)) for job in running}
        gone = [each for attempt, each in before.items() if attempt not in self._seen]
        if not gone:
            return
        ids = [job.id for job, _ in gone]

        def read(session: Session) -> dict[uuid.UUID, Job]:
            return {row.id: row for row in session.scalars(select(Job).where(Job.id.in_(ids)))}

        rows = self._database.patiently(read)
        for job, since in gone:
            row = rows.get(job.id)
            state = row.state.value if row is not None and row.epoch == job.epoch else "lost"
            self._numbers.ended(job.queue, job.kind, state, now - since)

    def _running(self) -> list[Job]:
        def read(session: Session) -> list[Job]:
            heavy = select(Queue.name).where(Queue.runner == "heavy")
            wanted = select(Job).where(Job.state == JobState.RUNNING, Job.queue.in_(heavy))
            return list(session.scalars(wanted))

        return self._database.patiently(read)


def _placed(job: Claimed, settings: Settings) -> dict[str, Any]:
    """What the driver itself asks of Ray; most kinds' drivers only wait for what they start, and run on the head."""
    if not kind_of(job.kind).in_driver:
        return {}
    asked = job.config.get("resources")
    if asked is None:
        # The head of a cluster does no heavy work; that of one machine is all there is.
        return {} if settings.address is None else {"entrypoint_num_cpus": 1}
    resources = Resources.model_validate(asked)
    return {"entrypoint_num_gpus": resources.gpus, "entrypoint_resources": pin(resources)}


def _lost(settings: Settings, job: Job, error: str, session: Session) -> None:
    jobs.lose(session, job.id, job.epoch, error, partial(last_lines, settings))
