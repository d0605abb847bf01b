"""What a process of the service counts, in Prometheus' text form, and the file through which a scrape sees it.

Each process writes `<home>/metrics/<part>-<replica>.prom` every few seconds; `/metrics` of the control plane joins
the files of the living ones. So one address is scraped, whatever number of processes there is, and counting costs
no more than a few additions. A counter begins anew with its process, as Prometheus expects.
"""

from __future__ import annotations

import logging
import os
import threading
import uuid
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from pathlib import Path

import psutil
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from sqlalchemy.pool import QueuePool

from raymill.cluster.service import write_atomically
from raymill.registry.database import Database

log = logging.getLogger(__name__)

PREFIX = "raymill_"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
WRITE_S = 5.0

Families = Callable[[], Iterable[Metric]]


class Histogram:
    """Counts by bucket; cheaper to add to than a client library's, which locks and checks each time."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def into(self, family: HistogramMetricFamily, labels: list[str]) -> None:
        """As Prometheus wants it: each bucket counts all that is not above its bound."""
        names = [*(str(bound) for bound in self.bounds), "+Inf"]
        family.add_metric(labels, list(zip(names, accumulate(self.counts), strict=True)), self.total)


def counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"{PREFIX}{name}", text, labels=labels)


def gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{PREFIX}{name}", text, labels=labels)


def histogram(name: str, text: str, *labels: str) -> HistogramMetricFamily:
    return HistogramMetricFamily(f"{PREFIX}{name}", text, labels=labels)


def exposition(families: Iterable[Metric]) -> str:
    """The text of a scrape."""
    registry = CollectorRegistry()
    registry.register(_Collected(list(families)))
    return generate_latest(registry).decode()


class _Collected:
    """Families that are made already, for the client library's text form."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families


class ProcessNumbers:
    """Of the process that this is: memory, files, time on the processor, connections to Postgres.

    Args:
        part: gateway, api, engine, pool or reconciler.
        replica: tells processes of a part apart.
    """

    def __init__(self, part: str, replica: str, database: Database | None = None) -> None:
        self._labels = [part, replica]
        self._database = database
        self._process = psutil.Process()

    def families(self) -> Iterator[Metric]:
        with self._process.oneshot():
            times = self._process.cpu_times()
            values = (
                (
                    "process_resident_memory_bytes",
                    "Memory that a process holds.",
                    self._process.memory_info().rss,
                ),
                ("process_open_fds", "Files and sockets that a process holds open.", self._process.num_fds()),
                ("process_threads", "Threads of a process.", self._process.num_threads()),
                (
                    "process_start_time_seconds",
                    "When a process started, Unix time.",
                    self._process.create_time(),
                ),
            )
        for name, text, value in values:
            family = gauge(name, text, "part", "replica")
            family.add_metric(self._labels, float(value))
            yield family
        cpu = counter(
            "process_cpu_seconds", "Time that a process has spent on the processor.", "part", "replica"
        )
        cpu.add_metric(self._labels, times.user + times.system)
        yield cpu
        if self._database is not None:
            yield from self._connections(self._database.engine.pool)

    def _connections(self, pool: object) -> Iterator[Metric]:
        assert isinstance(pool, QueuePool)
        held = gauge(
            "postgres_pool_connections", "Connections of a process's pool.", "part", "replica", "state"
        )
        held.add_metric([*self._labels, "in_use"], pool.checkedout())
        held.add_metric([*self._labels, "idle"], pool.checkedin())
        most = gauge("postgres_pool_limit", "Connections that a process's pool may hold.", "part", "replica")
        most.add_metric(self._labels, pool.size() + pool._max_overflow)
        yield from (held, most)


def _of_replica(family: Metric, replica: str) -> Metric:
    """Two processes of a part must not tell the same series."""
    family.samples = [each._replace(labels={**each.labels, "replica": replica}) for each in family.samples]
    return family


class Publisher:
    """Writes a process's numbers every few seconds, on a thread of its own, until `stop`.

    Args:
        families: called on that thread each time; what they tell gets the label `replica`.
    """

    def __init__(
        self,
        directory: Path,
        part: str,
        *families: Families,
        database: Database | None = None,
        replica: str | None = None,
    ) -> None:
        replica = replica or f"{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._replica = replica
        self._own = ProcessNumbers(part, replica, database)
        self._families = families
        self._path = directory / f"{part}-{replica}.prom"
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="numbers", daemon=True)
        self._refused = False

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(WRITE_S)
        self._path.unlink(missing_ok=True)

    def write(self) -> None:
        """What the numbers are now."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        counted = (_of_replica(each, self._replica) for make in self._families for each in make())
        write_atomically(self._path, exposition([*self._own.families(), *counted]))

    def _run(self) -> None:
        while True:
            try:
                self.write()
                self._refused = False
            except Exception as error:  # noqa: BLE001 (a full disk, or a wrong number, takes the numbers and not the service)
                if not self._refused:
                    log.warning("the numbers of this process cannot be written: %s", error)
                self._refused = True
            if self._stopping.wait(WRITE_S):
                return
