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

from raymill.cluster.attempt import open_attempt
from raymill.cluster.claim import take
from raymill.cluster.kinds import KINDS
from raymill.cluster.settings import Settings
from raymill.cluster.wake import Wake
from raymill.registry.jobs import LeaseLost

log = logging.getLogger(__name__)

POLL_S = 1.0
"""How long a ready job waits at most when its notification was missed."""


class PoolWorker:
    """Claims short jobs, as many as it has threads free, until it is told to stop."""

    def __init__(self) -> None:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._settings = Settings()
        self._threads = self._settings.pool_threads
        self._database = self._settings.open_database(pool_size=self._threads + 2)
        self._worker = f"pool {ray.get_runtime_context().get_actor_id()}"
        self._free = threading.Semaphore(self._threads)
        self._busy = 0
        self._busy_lock = threading.Lock()
        for kind in KINDS.values():
            if kind.queue == "short":
                kind.load()  # warm: the first job does not wait for imports

    def run(self) -> None:
        """Work for ever."""
        wake = Wake(self._database.url, "raymill_job")
        with ThreadPoolExecutor(self._threads, thread_name_prefix="short-job") as executor:
            while True:
                with self._busy_lock:
                    free = self._threads - self._busy
                claimed = take(self._database, self._settings, "short", self._worker, limit=free)
                for job in claimed:
                    with self._busy_lock:
                        self._busy += 1
                    executor.submit(self._run_one, job.id, job.epoch)
                if not claimed:
                    wake.wait(POLL_S)

    def pid(self) -> int:
        return os.getpid()

    def _run_one(self, job_id: uuid.UUID, epoch: int) -> None:
        try:
            open_attempt(self._database, self._settings, job_id, epoch, self._worker).run()
        except LeaseLost:
            log.warning("job %s: epoch %d owns it no longer", job_id, epoch)
        except Exception:
            log.exception("job %s: nobody reads a thread's error; its lease decides", job_id)
        finally:
            with self._busy_lock:
                self._busy -= 1


class Pool:
    """Keeps one `PoolWorker` alive. Its owner's death ends it, so an engine that comes back starts anew."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._actor = ray.remote(num_cpus=0, max_concurrency=2)(PoolWorker).remote()
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
