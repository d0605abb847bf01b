"""Warm workers for short jobs: a Ray actor that claims and runs them in threads.

What runs in it when its process dies is started again by another once its lease has run out.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import ray

from raymill.cluster import logs
from raymill.cluster.attempt import Attempt, open_attempt
from raymill.cluster.claim import Claimer
from raymill.cluster.job_logs import AttemptLogs
from raymill.cluster.job_numbers import JobNumbers
from raymill.cluster.keeper import Keeper
from raymill.cluster.kinds import all_kinds
from raymill.cluster.numbers import Publisher
from raymill.cluster.ray_head import on_this_node
from raymill.cluster.settings import Settings
from raymill.cluster.wake import Wake
from raymill.registry.jobs import Claimed, Done, LeaseLost

log = logging.getLogger(__name__)

POLL_S = 1.0
"""How long a ready job waits at most when its notification was missed."""

DRAIN_S = 5.0


class PoolWorker:
    """Claims short jobs, as many as it has threads free, until it is told to stop.

    Args:
        name: unique; by default that of the Ray actor that this is.
    """

    def __init__(self, name: str | None = None) -> None:
        logs.set_up("pool")
        self._settings = Settings()
        self._threads = self._settings.pool_threads
        self._database = self._settings.open_database(pool_size=self._threads + 2)
        self._worker = name or f"pool {ray.get_runtime_context().get_actor_id()}"
        self._keeper = Keeper(self._database, self._settings.lease_s, self._end_and_take)
        self._logs = AttemptLogs(self._settings)
        logging.getLogger().addHandler(self._logs)
        self._stopping = threading.Event()
        self._mine: dict[tuple[uuid.UUID, int], Attempt | None] = {}
        self._changed = threading.Condition()
        self._executor = ThreadPoolExecutor(self._threads, thread_name_prefix="short-job")
        self._numbers = JobNumbers()
        self._publisher = Publisher(
            self._settings.metrics_dir, "pool", self._numbers.families, database=self._database
        )
        self._claimer = Claimer(
            self._database,
            self._settings,
            "short",
            self._worker,
            running=lambda: [id_ for id_, _ in list(self._mine)],
            numbers=self._numbers,
        )
        self._claiming = threading.Lock()  # held until what was claimed is in `_mine`
        self._busy = False
        """The last claim found as many jobs as it asked for: there may be more."""
        for kind in all_kinds().values():
            if kind.queue == "short":
                kind.load()  # warm: the first job does not wait for imports

    def run(self) -> None:
        """Work until `drain`."""
        wake = Wake(self._database.url, "raymill_job")
        self._publisher.start()
        while not self._stopping.is_set():
            with self._changed:
                if len(self._mine) >= self._threads:
                    self._changed.wait(POLL_S)
                    continue
            if not self._take():
                wake.wait(POLL_S)
        with self._claiming:
            self._claimer.close()
        self._executor.shutdown()
        self._publisher.stop()

    def _take(self) -> bool:
        """Claim as many jobs as there are threads free. Returns whether there may be more to do."""
        with self._claiming:
            free = self._threads - len(self._mine)
            if free < 1 or self._stopping.is_set():
                return True
            claimed = self._claimer.take(free)
            self._busy = len(claimed) >= free
            self._hand_out(claimed)
        return bool(claimed)

    def _end_and_take(self, done: list[Done]) -> set[uuid.UUID]:
        """End jobs and, while there are more, claim one for each thread that this frees."""
        with self._claiming:
            wanted = len(done) if self._busy and not self._stopping.is_set() else 0
            ended, claimed = self._claimer.end_and_take(done, wanted)
            self._busy = self._busy and len(claimed) == wanted
            self._hand_out(claimed)
        return ended

    def _hand_out(self, claimed: list[Claimed]) -> None:
        with self._changed:
            for job in claimed:
                self._mine[job.id, job.epoch] = None
        for job in claimed:
            self._executor.submit(self._run_one, job)

    def drain(self) -> int:
        """Take no more jobs, and give back those that do not end in a few seconds. Returns how many."""
        self._stopping.set()
        deadline = time.monotonic() + DRAIN_S
        if self._claiming.acquire(timeout=DRAIN_S):  # what is being claimed now is in `_mine` then
            self._claiming.release()
        with self._changed:
            while self._mine and time.monotonic() < deadline:
                self._changed.wait(0.2)
            left = [attempt for attempt in self._mine.values() if attempt is not None]
        for attempt in left:
            attempt.give_back("the service was stopped")
        return len(left)

    def pid(self) -> int:
        return os.getpid()

    def _run_one(self, job: Claimed) -> None:
        state, started = "lost", time.monotonic()
        try:
            with self._logs.of(job.id, job.epoch):
                attempt = self._open(job)
                with self._changed:
                    self._mine[job.id, job.epoch] = attempt
                ended = attempt.run()
                state = ended.value if ended is not None else state
        except LeaseLost:
            log.warning("job %s: epoch %d owns it no longer", job.id, job.epoch)
        except Exception:
            log.exception("job %s: nobody reads a thread's error; its lease decides", job.id)
        finally:
            self._numbers.ended(job.queue, job.kind, state, time.monotonic() - started)
            with self._changed:
                self._mine.pop((job.id, job.epoch), None)
                self._changed.notify_all()

    def _open(self, job: Claimed) -> Attempt:
        if job.pipeline_id is None:  # nothing more to be known of it
            return Attempt(self._database, self._settings, job, {}, self._keeper)
        return open_attempt(self._database, self._settings, job.id, job.epoch, keeper=self._keeper)


class Pool:
    """Keeps one `PoolWorker` alive. Its owner's death ends it, so an engine that comes back starts anew."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        # Here: its jobs ask the gateway at this machine's own port.
        worker = ray.remote(num_cpus=0, max_concurrency=3, scheduling_strategy=on_this_node())(PoolWorker)
        self._actor = worker.remote()
        self._running = self._actor.run.remote()

    def tend(self) -> None:
        """Start the worker again when it has died."""
        done, _ = ray.wait([self._running], timeout=0)
        if done:
            try:
                ray.get(done)
            except ray.exceptions.RayError as error:
                log.warning("the pool worker died (%s): starting another", type(error).__name__)
            time.sleep(1)
            self._start()

    def drain(self) -> None:
        """The service stops: what does not end soon is given back."""
        try:
            given_back = ray.get(self._actor.drain.remote(), timeout=2 * DRAIN_S)
        except ray.exceptions.RayError as error:
            log.warning("the pool worker could not be drained (%s): leases decide", type(error).__name__)
        else:
            log.info("the pool worker is drained, %d jobs were given back", given_back)
