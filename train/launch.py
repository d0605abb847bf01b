"""The Ray edge of training, seen from the driver: start workers, pass on what they tell, wait for the end.

Metrics go through an actor of our own, for `ray.train.report` tells the driver once in two seconds and only
with a checkpoint. Knows nothing of models.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import ray

from raymill.cluster.context import JobContext, JsonObject
from raymill.policies.errors import Invalid, Unavailable
from raymill.train.config import ClusterUse

POLL_S = 0.5
MOST_CORES = 16
"""Cores for one CPU worker; more rarely help a matrix product of this size."""

FINISHED = "finished.json"
EXPORT = "export"

WORKER_ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_OFFLINE": "1",
    "DS_SKIP_CUDA_CHECK": "1",
}

log = logging.getLogger(__name__)


class TrainingFailed(Unavailable):
    """The workers died more often than `max_failures` allows."""

    code = "training_failed"


class Sink:
    """What the workers tell. Lives as long as the driver, so a worker's death loses nothing it told."""

    def __init__(self) -> None:
        self._events: list[tuple[str, JsonObject]] = []
        self._refusal: str | None = None

    def tell(self, kind: str, data: JsonObject) -> None:
        self._events.append((kind, data))

    def refuse(self, reason: str) -> None:
        """The input is at fault: starting again would end the same way."""
        self._refusal = reason

    def drain(self) -> tuple[list[tuple[str, JsonObject]], str | None]:
        """What was told since the last call, and why the workers gave up, if they did."""
        events, self._events = self._events, []
        return events, self._refusal


def launch(
    worker: Callable[[JsonObject], None], settings: JsonObject, use: ClusterUse, context: JobContext
) -> JsonObject:
    """Run `worker` on `use.workers` Ray Train workers until `finished.json` lies in the work directory.

    A run that finished earlier is not started again. One that was interrupted goes on from its last
    checkpoint, whether a worker died or this process.

    Returns:
        What the first worker wrote to `finished.json`.

    Raises:
        Invalid: the input is at fault; the message says how.
        TrainingFailed: the workers died more than `use.max_failures` times.
    """
    finished = context.work_dir / FINISHED
    if finished.is_file():
        context.event("log", text="training had finished before: its result is used")
        return read_finished(finished)
    if not ray.is_initialized():
        ray.init()
    context.event("phase", name="start workers")
    sink = ray.remote(num_cpus=0)(Sink).remote()
    refusal = watch(
        Run(worker, {**settings, "sink": sink, "work_dir": str(context.work_dir)}, use, context.work_dir),
        sink,
        context,
    )
    if refusal is not None:
        raise Invalid(refusal)
    if not finished.is_file():
        raise TrainingFailed(
            f"training of {context.name} ended without a result: see the workers' logs in Ray"
        )
    return read_finished(finished)


class Run(threading.Thread):
    """One `TorchTrainer.fit`, beside the thread that reports. A daemon: a cancelled job does not wait for it."""

    def __init__(
        self, worker: Callable[[JsonObject], None], settings: JsonObject, use: ClusterUse, work_dir: Path
    ) -> None:
        super().__init__(daemon=True, name="train-fit")
        self._worker = worker
        self._settings = settings
        self._use = use
        self._work_dir = work_dir
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            trainer(self._worker, self._settings, self._use, self._work_dir).fit()
        except BaseException as error:  # noqa: BLE001 - every error belongs to the thread that waits
            self.error = error


def watch(run: Run, sink: Any, context: JobContext) -> str | None:
    """Pass events on until the run ends; why the workers refused, if they did.

    Raises:
        TrainingFailed: the run ended with an error.
    """
    run.start()
    running = True
    refusal: str | None = None
    while running:
        run.join(timeout=POLL_S)
        running = run.is_alive()
        context.check()
        events, refusal = ray.get(sink.drain.remote())
        for kind, data in events:
            context.event(kind, **data)
    if refusal is None and run.error is not None:
        raise_failure(run.error, context.name)
    return refusal


def raise_failure(error: BaseException, name: str) -> NoReturn:
    """What Ray Train tells in pages, in one line; any other error as it is."""
    from ray.train import TrainingFailedError

    if not isinstance(error, TrainingFailedError | ray.exceptions.RayError):
        raise error
    reason = next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), "no reason")
    raise TrainingFailed(f"training of {name} failed: {reason}") from error


def trainer(
    worker: Callable[[JsonObject], None], settings: JsonObject, use: ClusterUse, work_dir: Path
) -> Any:
    """The TorchTrainer; the same name and folder as an earlier attempt, so it finds that one's checkpoints."""
    # Ray reads these when the controller starts. The default of 60 s is short for workers that import
    # torch on a busy machine; 2 s between two looks at the workers is long for a run of a minute.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "600")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    if len(ray.nodes()) == 1:
        # It waits for the cloud to take machines away; one process less to start on a machine of our own.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    gpu = wants_gpu(use)
    enough_cpus(use.workers)
    return TorchTrainer(
        worker,
        train_loop_config=settings,
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=use.workers,
            use_gpu=gpu,
            # What Ray schedules by; a worker computes on its share of the machine (`worker.set_threads`). Asking
            # for that share here would wait for ever beside a served model, which holds a CPU too.
            resources_per_worker={"CPU": 1, **({"GPU": 1} if gpu else {})},
        ),
        run_config=RunConfig(
            name="ray",
            storage_path=str(work_dir),
            failure_config=FailureConfig(max_failures=use.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            worker_runtime_env={"env_vars": WORKER_ENVIRONMENT},
        ),
    )


def wants_gpu(use: ClusterUse) -> bool:
    """Whether workers get a GPU each.

    Raises:
        Unavailable: the recipe asks for GPUs that the cluster lacks.
    """
    there = int(ray.cluster_resources().get("GPU", 0))
    if use.use_gpu and there < use.workers:
        raise Unavailable(
            f"workers is {use.workers} with a GPU each, the cluster has {there}: lower workers or leave use_gpu out"
        )
    return there >= use.workers if use.use_gpu is None else use.use_gpu


def enough_cpus(workers: int) -> None:
    """Raises Unavailable: there are more workers than the whole cluster has CPUs for, so they would never start."""
    total = int(ray.cluster_resources().get("CPU", 0))
    if total < workers:
        raise Unavailable(
            f"workers is {workers}, the cluster has {total} CPUs: lower workers or add a machine"
        )


def read_finished(path: Path) -> JsonObject:
    found: JsonObject = json.loads(path.read_text(encoding="utf-8"))
    return found
