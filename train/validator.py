"""The actor that measures the loss on held-out rows, and the driver's side of it.

It has a model of its own and takes the weights from files, so the training workers wait for nothing but a copy.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import ray

from raymill.cluster.context import JobContext, JsonObject
from raymill.cluster.plain import last_line
from raymill.train.run_config import EarlyStop
from raymill.train.validation import FOLDER, Snapshots, Verdict

if TYPE_CHECKING:
    from raymill.train.engines import PlainEngine
    from raymill.train.loop import Shares
    from raymill.train.worker import Task


class Measured(NamedTuple):
    loss: float
    more: Mapping[str, float]
    """What the objective tells beside the loss, such as rewards."""

    verdict: Verdict


class Validator:
    """Measures one step after the other. What dies with its process is measured again."""

    def __init__(
        self,
        task_of: Callable[[JsonObject], Task],
        settings: JsonObject,
        early: EarlyStop | None,
        threads: int,
    ) -> None:
        import torch

        from raymill.cluster.processes import give_way

        give_way()
        torch.set_num_threads(threads)
        self._task = task_of(settings)
        self._early = early
        self._work_dir = Path(settings["work_dir"])
        self._snapshots = Snapshots(self._work_dir / FOLDER)
        self._engine: PlainEngine | None = None
        self._device = torch.device("cuda" if ray.get_gpu_ids() else "cpu")

    def measure(self, step: int) -> Measured | None:
        """The loss of the weights of `step`; None when they are gone: the run went back behind it."""
        from safetensors.torch import load_file

        from raymill.train.loop import measure

        if not self._snapshots.path(step).is_file():
            return None
        assert self._task.validation is not None
        if self._engine is None:
            self._engine = self._fresh(self._task.validation)
        self._engine.put(load_file(self._snapshots.path(step)))
        loss, more = measure(self._engine, self._task.validation)
        return Measured(loss, more, self._snapshots.measured(step, loss, self._early))

    def _fresh(self, shares: Shares) -> PlainEngine:
        """The model as it is before the first step; a method that compares takes its reference from it."""
        from raymill.train.reference import HELD_OUT_REFERENCE, take_reference
        from raymill.train.worker import measuring_engine

        engine = measuring_engine(self._task, self._device)
        take_reference(engine, shares, self._work_dir, HELD_OUT_REFERENCE)
        return engine


class Validations:
    """What the driver does about it: one measurement at a time, in the order of the steps.

    Args:
        gpu: there is one that no worker has.
    """

    def __init__(
        self,
        task_of: Callable[[JsonObject], Task],
        settings: JsonObject,
        early: EarlyStop | None,
        *,
        workers: int,
        gpu: bool,
    ) -> None:
        threads = max(1, (os.cpu_count() or 1) // (workers + 1))
        # No CPU is asked for: where the workers hold all of them it would wait for the end of what it watches.
        options = {"num_cpus": 0, "num_gpus": int(gpu), "max_restarts": -1, "max_task_retries": 2}
        self._actor = ray.remote(**options)(Validator).remote(task_of, settings, early, threads)
        self._waiting: list[int] = []
        self._running: tuple[int, Any] | None = None

    def add(self, step: int) -> None:
        self._waiting.append(step)

    def look(self, sink: Any, context: JobContext) -> None:
        """Start the next measurement; tell of one that is done."""
        if self._running is not None:
            step, answer = self._running
            if not ray.wait([answer], timeout=0)[0]:
                return
            self._running = None
            verdict: Verdict | None = None
            try:
                measured: Measured | None = ray.get(answer)
            except ray.exceptions.RayError as error:
                context.event("log", text=f"the validation of step {step} failed: {last_line(error)}")
            else:
                if measured is not None:
                    verdict = measured.verdict
                    told = {"loss": measured.loss, "best_step": verdict.best_step, **measured.more}
                    context.event("validation", step=step, **told)
            sink.measured.remote(step, verdict)
        if self._waiting:
            step = self._waiting.pop(0)
            self._running = step, self._actor.measure.remote(step)
