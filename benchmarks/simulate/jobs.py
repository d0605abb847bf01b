"""The job engine as stations: pool workers for short jobs, the dispatcher and the drivers of heavy ones.

    short:  Postgres (ends n, claims n) -> worker's threads, one in Python at a time -> what has ended -> Postgres
    heavy:  dispatcher's thread: polls all that run, claims, submits one by one -> driver: beats, works, ends

What a job does apart from the engine is a wait: it takes no time of a station.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from benchmarks.simulate.postgres import Postgres
from benchmarks.simulate.queueing import Simulation, Station
from benchmarks.simulate.times import JobTimes

CHECK_S = 3.0
"""Between two looks of the dispatcher at what runs (cluster/dispatcher.py)."""

BEAT_S = 5.0
"""A sixth of the lease of 30 s (cluster/keeper.py)."""


class Short(NamedTuple):
    """What became of short jobs."""

    jobs_per_s: float
    postgres: float
    python: float
    """Utilisations: of Postgres' cores, and the workers' own time in Python."""


class Worker:
    """One process: it ends what its threads have done and claims as many, one statement at a time."""

    def __init__(self, run: ShortRun, threads: int) -> None:
        self._run, self._idle = run, threads
        self.python = Station(run.simulation, "python")
        self._ended = 0
        self._asking = False
        self.ask()

    def ask(self) -> None:
        wanted = self._idle
        if self._asking or not wanted or not self._run.queued:
            return
        taken = min(wanted, self._run.queued)
        self._run.queued -= taken
        self._idle -= wanted
        self._asking = True
        ended, self._ended = self._ended, 0
        turn = self._run.times.turn
        rows = max(ended, taken)
        # The statement's text and answer are the worker's own work as well.
        self.python.ask(
            turn.client_s(rows),
            lambda: self._run.postgres.run(
                turn.server_s(rows), partial(self._answered, taken, wanted, ended)
            ),
        )

    def _answered(self, taken: int, wanted: int, ended: int) -> None:
        self._asking = False
        self._run.done += ended
        self._idle += wanted - taken
        for _ in range(taken):
            self.python.ask(self._run.times.python_s, self._work)
        self.ask()

    def _work(self) -> None:
        if self._run.job_s:
            self._run.simulation.after(self._run.simulation.exponential(self._run.job_s), self._over)
        else:
            self._over()

    def _over(self) -> None:
        self._idle += 1
        self._ended += 1
        self.ask()


class ShortRun:
    """Some workers and a queue."""

    def __init__(
        self, times: JobTimes, *, workers: int, threads: int, queued: int, job_s: float, cores: int, seed: int
    ) -> None:
        self.times, self.job_s = times, job_s
        self.queued = queued
        self.done = 0
        self.simulation = Simulation(seed)
        self.postgres = Postgres(self.simulation, cores)
        self.workers = [Worker(self, threads) for _ in range(workers)]


def short_jobs(
    times: JobTimes,
    *,
    workers: int = 1,
    threads: int = 8,
    queued: int = 100_000,
    job_s: float = 0.0,
    cores: int = 1,
    seconds: float = 5.0,
    seed: int = 1,
) -> Short:
    """Work on `queued` jobs for so many seconds, or until none is left.

    Args:
        workers: processes, each with `threads`.
        job_s: mean of what a job does, exponential; 0: nothing.
        cores: of Postgres.
    """
    run = ShortRun(
        times, workers=workers, threads=threads, queued=queued, job_s=job_s, cores=cores, seed=seed
    )
    run.simulation.run(seconds)
    python = sum(worker.python.utilisation() for worker in run.workers) / workers
    return Short(run.done / run.simulation.now, run.postgres.cpu.utilisation(), python)


@dataclass
class Heavy:
    """What became of heavy jobs."""

    nodes: int
    running: float = 0.0
    """Mean over the last half of the time: of the nodes, those that have a job."""

    dispatcher: float = 0.0
    """Share of its thread's time in which it polls, claims or submits."""

    polls: float = 0.0
    """Share of its thread's time that goes into polls alone."""

    postgres: float = 0.0
    beats_per_s: float = 0.0
    started_per_s: float = 0.0


class HeavyRun:
    """One dispatcher, and a node for each job that runs."""

    def __init__(
        self, times: JobTimes, *, nodes: int, job_s: float, cores: int, bound: bool, every_s: float, seed: int
    ) -> None:
        self.simulation = Simulation(seed)
        self.postgres = Postgres(self.simulation, cores)
        self.found = Heavy(nodes)
        self._times, self._nodes, self._job_s, self._every_s = times, nodes, job_s, every_s
        self._claim = times.bound if bound else times.claim
        self._running = self._started = 0
        self._busy_s = self._polling_s = 0.0
        self._checked_at = -CHECK_S
        self._area, self._since = 0.0, 0.0
        self._step()
        self._beats()

    def run(self, seconds: float) -> Heavy:
        self.simulation.run(seconds / 2)
        self._count()
        self._area, self._started = 0.0, 0
        self._busy_s = self._polling_s = 0.0
        self.simulation.run(seconds)
        self._count()
        half = seconds / 2
        self.found.running = self._area / half
        self.found.dispatcher, self.found.polls = self._busy_s / half, self._polling_s / half
        self.found.postgres = self.postgres.cpu.utilisation()
        self.found.beats_per_s = self.found.running / BEAT_S
        self.found.started_per_s = self._started / half
        return self.found

    def _count(self) -> None:
        self._area += self._running * (self.simulation.now - self._since)
        self._since = self.simulation.now

    def _step(self) -> None:
        """One turn of the engine's loop: the poll when it is due, then a claim, then submissions one by one."""
        delay = 0.0
        if self.simulation.now - self._checked_at >= self._every_s:
            self._checked_at = self.simulation.now
            delay = self._running * self._times.poll_s
            self._polling_s += delay
        self._busy_s += delay
        self.simulation.after(delay, self._take)

    def _take(self) -> None:
        free = self._nodes - self._running
        if free < 1:
            self.simulation.after(
                1.0, self._step
            )  # nothing to start: it sleeps until it is told, or for a second
            return
        asked_at = self.simulation.now
        self.postgres.run(self._claim.server_s(free), partial(self._submit, free, asked_at))

    def _submit(self, left: int, since: float) -> None:
        self._busy_s += self.simulation.now - since
        if not left:
            self._step()
            return
        self._count()
        self._running += 1
        self._started += 1
        self.simulation.after(self._times.submit_s + self._times.start_s, self._begun)
        self.simulation.after(self._times.submit_s, self._submit, left - 1, self.simulation.now)

    def _begun(self) -> None:
        self.simulation.after(self.simulation.gamma(self._job_s, 0.5), self._end)

    def _beats(self) -> None:
        """Of all drivers in a second, asked for together: each is a statement, and there are very many."""
        count = self._running / BEAT_S
        if count:
            self.postgres.run(self._times.beat.server_s(1) * count, lambda: None)
        self.simulation.after(1.0, self._beats)

    def _end(self) -> None:
        self.postgres.run(self._times.end.server_s(1), self._ended)

    def _ended(self) -> None:
        self._count()
        self._running -= 1


def heavy_jobs(
    times: JobTimes,
    *,
    nodes: int,
    job_s: float = 1800.0,
    cores: int = 4,
    bound: bool = False,
    every_s: float = CHECK_S,
    seconds: float = 0.0,
    seed: int = 1,
) -> Heavy:
    """Keep `nodes` nodes busy with jobs of `job_s` on average, of which there are always more.

    Args:
        bound: a quota or accelerators bind them, so that claims go under the one lock.
        every_s: between two looks of the dispatcher at what runs.
        seconds: of simulated time, of which the last half counts; 0: three times a job.
    """
    run = HeavyRun(times, nodes=nodes, job_s=job_s, cores=cores, bound=bound, every_s=every_s, seed=seed)
    return run.run(seconds or 3 * job_s)
