"""What one worker tells the driver and is told in return, and what all workers agree on after a step."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import torch

from raymill.train import notice
from raymill.train.checkpoints import Checkpoints, Saved
from raymill.train.loop import Engine, StepMetrics
from raymill.train.metrics import CURVES, MetricsFile, Pace
from raymill.train.run_config import EarlyStop
from raymill.train.sink import REST_NOW, SNAPSHOT
from raymill.train.validation import Snapshots, Verdict, verdict_of

REST, END, BROKEN = 1.0, 1e6, 1e9
"""What workers add up after each step: who wants the run to rest, whether it ends early (the first worker alone knows),
and who cannot write checkpoints. Told apart as long as there are fewer than 1e3 workers."""

POLL_S = 0.2


class Told:
    """One worker's line to the driver."""

    def __init__(self, sink: Any, *, rank: int) -> None:
        self.rank = rank
        self._sink = sink
        self._answer: Any = None
        self._file: MetricsFile | None = None
        self._pace = Pace(0)

    def begin(self, file: Path, after: int, steps: int) -> None:
        """On the first worker, which alone writes the curves."""
        self._file = MetricsFile(file, after=after)
        self._pace = Pace(steps)

    def flush(self) -> None:
        if self._file is not None:
            self._file.flush()

    def tell(self, kind: str, **data: Any) -> None:
        self._sink.tell.remote(kind, data)

    def step(self, metrics: StepMetrics) -> None:
        if self._file is not None:
            point = metrics.event()
            curves = {name: point[name] for name in CURVES}
            self._file.add({"step": metrics.step, **curves, **metrics.more})
            told = point if self._pace.due(metrics.step, time.monotonic()) else None
            self._answer = self._sink.step.remote(told)

    def checkpoint(self, saved: Saved) -> None:
        self.tell("checkpoint", **saved._asdict())

    def wish(self, step: int) -> float:
        """`REST` when the driver wants it or this worker's machine is taken away, `END` when `step` is enough, or 0."""
        if notice.terminated():
            self._sink.leave.remote(f"worker {self.rank} on {socket.gethostname()} was asked to go")
            return REST
        # The answer of the step before: nobody waits for it.
        if self._answer is None or not ray.wait([self._answer], timeout=0)[0]:
            return 0.0
        answer: int = ray.get(self._answer)
        return REST if answer == REST_NOW else END if 0 < answer <= step else 0.0

    def rested(self, step: int) -> None:
        if self.rank == 0:
            ray.get(self._sink.rested.remote(step))

    def unmeasured(self, snapshots: Snapshots, after: int, early: EarlyStop | None) -> None:
        """What an earlier attempt had not come to measure, and what it had learnt."""
        for step in snapshots.begin(after):
            self.tell(SNAPSHOT, step=step)
        self._sink.measured.remote(0, verdict_of(snapshots.losses(), early))

    def verdict(self) -> Verdict | None:
        """What the validations say, once all are over."""
        while True:
            over, found = ray.get(self._sink.verdict.remote())
            if over:
                answer: Verdict | None = found
                return answer
            time.sleep(POLL_S)


def agree(engine: Engine, value: float) -> float:
    """The sum of what each worker says. Every worker must call it."""
    return float(engine.total(torch.tensor(value, dtype=torch.float64, device=engine.device)))


def take_up(engine: Engine, checkpoints: Checkpoints, tell: Callable[[str], None]) -> int:
    """Load the newest checkpoint that is whole, on all workers; a damaged one is told of and left out.

    Returns:
        Its step; 0 when there is none.
    """
    first = engine.rank == 0
    step: int | None = None
    while step != 0:
        # The first worker says which; files may reach the other nodes' view of the storage a little later.
        step = int(agree(engine, checkpoints.newest(before=step) if first else 0))
        problem = checkpoints.problem(step) if step else None
        if problem is not None:
            tell(f"the checkpoint of step {step} cannot be used ({problem}): the one before it is")
        if agree(engine, float(problem is not None)) == 0:
            break
    if first:
        checkpoints.forget_others(step or 0)
    agree(engine, 0.0)  # nobody writes before the remains are gone
    if step:
        engine.load(checkpoints.path(step))
        if first:
            tell(f"going on from the checkpoint of step {step}")
    return step or 0
