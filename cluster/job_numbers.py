"""What a process of the job engine counts: attempts and their ends, waiting, claims, lost workers.

Labels are kinds and queues, of which there are few; no job has a number of its own. Times are seconds.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator

from prometheus_client.core import Metric

from raymill.cluster.numbers import Histogram, counter, histogram
from raymill.registry.jobs import Claimed

CLAIM_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
WORK_S = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 600, 1800, 3600, 4 * 3600, 12 * 3600, 24 * 3600)

Of = tuple[str, str]
"""Queue and kind."""


class JobNumbers:
    """Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._attempts: dict[Of, int] = defaultdict(int)
        self._ends: dict[tuple[str, str, str], int] = defaultdict(int)
        self._lost: dict[Of, int] = defaultdict(int)
        self._waits: dict[Of, Histogram] = defaultdict(Histogram)
        self._works: dict[Of, Histogram] = defaultdict(lambda: Histogram(WORK_S))
        self._claims = Histogram(CLAIM_S)

    def claimed(self, jobs: Iterable[Claimed], took_s: float) -> None:
        """A claim came back, with none or some. What waited for parents or another try tells nothing of the queue."""
        now = dt.datetime.now(dt.UTC)
        with self._lock:
            self._claims.add(took_s)
            for job in jobs:
                of = (job.queue, job.kind)
                self._attempts[of] += 1
                if job.attempt == 1 and job.pipeline_id is None:
                    waited = now - max(job.created_at, job.run_at)
                    self._waits[of].add(max(0.0, waited.total_seconds()))

    def ended(self, queue: str, kind: str, state: str, took_s: float) -> None:
        """An attempt is over.

        Args:
            state: that the job is in now: queued, when it is tried again; lost, when it was not this worker's any more.
        """
        with self._lock:
            self._ends[queue, kind, state] += 1
            self._works[queue, kind].add(took_s)

    def lost(self, queue: str, kind: str) -> None:
        """A worker went silent, or its process ended without a word."""
        with self._lock:
            self._lost[queue, kind] += 1

    def families(self) -> Iterator[Metric]:
        attempts = counter("job_attempts", "Attempts that were begun.", "queue", "kind")
        ends = counter(
            "job_attempts_ended", "Attempts that are over, by the job's state then.", "queue", "kind", "state"
        )
        lost = counter("job_workers_lost", "Workers that were lost with a job.", "queue", "kind")
        waits = histogram(
            "job_wait_seconds", "From when a job could start until it was claimed.", "queue", "kind"
        )
        works = histogram("job_attempt_seconds", "How long attempts took.", "queue", "kind")
        claims = histogram("job_claim_seconds", "How long a claim's statement took.")
        with self._lock:
            for of, count in self._attempts.items():
                attempts.add_metric([*of], count)
            for end, count in self._ends.items():
                ends.add_metric([*end], count)
            for of, count in self._lost.items():
                lost.add_metric([*of], count)
            for of, each in self._waits.items():
                each.into(waits, [*of])
            for of, each in self._works.items():
                each.into(works, [*of])
            self._claims.into(claims, [])
        yield from (attempts, ends, lost, waits, works, claims)
