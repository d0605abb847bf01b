"""The Ray edge of training, seen from the driver: start workers, pass on what they tell, wait for the end.

Knows nothing of models.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import ray

from raymill.cluster.context import JobContext, JsonObject, Preempted
from raymill.cluster.plain import last_line
from raymill.cluster.ray_head import on_this_node
from raymill.cluster.settings import Settings
from raymill.policies.errors import Invalid, RaymillError, Unavailable
from raymill.registry.placement_config import pin
from raymill.train.compatibility import Machine, missing_on
from raymill.train.config import ClusterUse
from raymill.train.run_config import EarlyStop
from raymill.train.sink import SNAPSHOT, News, Sink, Wish
from raymill.train.validator import Validations

POLL_S = 0.5
REFUSAL_PATIENCE_S = 10.0
"""How long the other workers may take to end when one has given up; they may wait for it for ever."""

RESIZE_S = 60.0
"""How long an elastic run computes at the least before it starts again with more workers."""

JOIN_S = 900.0
"""How long machines that are to come may take: a cloud's start, a set-up, a head's restart."""

JOIN_POLL_S = 5.0

MOST_CORES = 16
"""Cores for one CPU worker; more rarely help a matrix product of this size."""

FINISHED = "finished.json"
ON_GPU = "on-gpu"
EXPORT = "export"
CHECKPOINTS = "checkpoints"

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


def launch(
    worker: Callable[[JsonObject], None],
    settings: JsonObject,
    use: ClusterUse,
    context: JobContext,
    validation: Validation | None = None,
) -> JsonObject:
    """Run `worker` on `use.workers` Ray Train workers until `finished.json` lies in the work directory.

    A run that finished earlier is not started again. One that was interrupted goes on from its last
    checkpoint, whether a worker died, its machine, or this process. One that is to rest ends with a checkpoint.

    Returns:
        What the first worker wrote to `finished.json`.

    Raises:
        Invalid: the input is at fault; the message says how.
        StorageFull, CheckpointFailed: a checkpoint could not be written.
        Unavailable: the cluster lacks CPUs or GPUs for the workers.
        TrainingFailed: the workers died more than `use.max_failures` times.
        Paused, Preempted: the run rests; another attempt goes on from the very step.
    """
    finished = context.work_dir / FINISHED
    if has_finished(context.work_dir):
        context.event("log", text="training had finished before: its result is used")
        return read_finished(finished)
    if not ray.is_initialized():
        ray.init()
    context.event("phase", name="start workers")
    use = as_before(use, context.work_dir)
    wait_for_machines(use, use.least_workers, context.event, context.check)
    sink = make_sink()
    given = {**settings, "work_dir": str(context.work_dir)}
    run = Run(worker, {**given, "sink": sink}, use, context.work_dir)
    rest = watch(run, sink, context, validation.start(given, use) if validation else None)
    if has_finished(context.work_dir):
        return read_finished(finished)
    if rest is not None:
        raise rest
    raise TrainingFailed(f"training of {context.name} ended without a result: see the workers' logs in Ray")


class Validation(NamedTuple):
    """How a run is validated beside its training."""

    task_of: Callable[[JsonObject], Any]
    early_stop: EarlyStop | None

    def start(self, settings: JsonObject, use: ClusterUse) -> Validations:
        spare = int(ray.cluster_resources().get("GPU", 0)) > use.workers and wants_gpu(use)
        return Validations(self.task_of, settings, self.early_stop, workers=use.workers, gpu=spare)


def make_sink() -> Any:
    """On this node: it must not go with a worker's."""
    return ray.remote(num_cpus=0, scheduling_strategy=on_this_node())(Sink).remote()


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


def watch(
    run: Run, sink: Any, context: JobContext, validations: Validations | None = None
) -> RaymillError | None:
    """Pass events on until the run ends, and the wish to rest to the workers.

    Returns:
        Why the run rests, if it does.

    Raises:
        TrainingFailed: the run ended with an error.
        RaymillError: a worker gave up, for this reason.
    """
    run.start()
    wish = Wish(sink, context)
    running, refused_at = True, None
    while running:
        run.join(timeout=POLL_S)
        running = run.is_alive()
        wish.look()
        news: News = ray.get(sink.drain.remote())
        for kind, data in news.events:
            wish.saw(kind, data)
            if kind != SNAPSHOT:
                context.event(kind, **data)
            elif validations is not None:
                validations.add(data["step"])
        if validations is not None:
            validations.look(sink, context)
        if news.refusal is not None:
            refused_at = refused_at or time.monotonic()
            running = running and time.monotonic() - refused_at < REFUSAL_PATIENCE_S
        elif running:
            wish.give_up_if_idle(news)
    if news.refusal is not None:
        raise news.refusal
    if news.rested_at is not None:
        context.event("log", text=f"resting at step {news.rested_at}: its checkpoint is whole")
        return wish.reason or Preempted(news.leaving or "a machine of the run is taken away")
    if run.error is not None and wish.reason is None:
        raise_failure(run.error, context.name)
    return wish.reason


def raise_failure(error: BaseException, name: str) -> NoReturn:
    """What Ray Train tells in pages, in one line; any other error as it is."""
    from ray.train import TrainingFailedError

    if not isinstance(error, TrainingFailedError | ray.exceptions.RayError):
        raise error
    raise TrainingFailed(f"training of {name} failed: {last_line(error) or 'no reason'}") from error


def trainer(
    worker: Callable[[JsonObject], None], settings: JsonObject, use: ClusterUse, work_dir: Path
) -> Any:
    """The TorchTrainer. It starts workers and starts them again; checkpoints are our own (checkpoints.py)."""
    # Ray reads these when the controller starts. The default of 60 s is short for workers that import
    # torch on a busy machine; 2 s between two looks at the workers is long for a run of a minute, half a second is a
    # tenth of a core.
    # An elastic run counts its machines anew after it: a machine that was just lost may still be counted, and
    # its place would be waited for all that time.
    elastic = use.least_workers < use.workers
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "30" if elastic else "600")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "1")
    # `Wish` looks for machines that are taken away; one process less to start.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from raymill.train.group import WorkerGroup

    gpu = wants_gpu(use)
    if gpu:
        (work_dir / ON_GPU).touch()
    return TorchTrainer(
        worker,
        train_loop_config=settings,
        torch_config=WorkerGroup(backend="nccl" if gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=(use.least_workers, use.workers) if elastic else use.workers,
            elastic_resize_monitor_interval_s=RESIZE_S,
            use_gpu=gpu,
            # What Ray schedules by; a worker computes on its share of the machine (`worker.set_threads`). Asking
            # for that share here would wait for ever beside a served model, which holds a CPU too.
            resources_per_worker={"CPU": 1, **({"GPU": 1} if gpu else {}), **pin(use.resources)},
        ),
        run_config=RunConfig(
            name="ray",
            storage_path=str(work_dir),
            failure_config=FailureConfig(max_failures=use.max_failures),
            worker_runtime_env={"env_vars": WORKER_ENVIRONMENT},
        ),
    )


def wants_gpu(use: ClusterUse) -> bool:
    """Whether workers get a GPU each.

    Raises:
        Unavailable: the recipe asks for GPUs that the cluster lacks.
        Invalid: one of its settings needs a GPU.
    """
    there = int(ray.cluster_resources().get("GPU", 0))
    if use.use_gpu and there < use.least_workers:
        raise Unavailable(
            f"workers is {use.least_workers} with a GPU each, the cluster has {there}: lower workers or leave use_gpu out"
        )
    gpu = there >= use.least_workers if use.use_gpu is None else use.use_gpu
    if (reason := missing_on(Machine(gpus=there if gpu else 0), use.model_dump())) is not None:
        raise Invalid(reason, param="train")
    return gpu


def as_before(use: ClusterUse, work_dir: Path) -> ClusterUse:
    """A run that was on GPUs goes on on GPUs, and is not continued on CPUs because those came first."""
    if use.use_gpu is None and (work_dir / ON_GPU).exists():
        return use.model_copy(update={"use_gpu": True})
    return use


def wait_for_machines(
    use: ClusterUse, workers: int, tell: Callable[..., None], check: Callable[[], None]
) -> None:
    """Return once the cluster has what so many workers ask for. Machines join a cluster of `raymill up --address` by themselves,
    because its autoscaler is asked for them or after its head was replaced: they are waited for.

    Raises:
        Unavailable: there are fewer CPUs or GPUs than workers, and no machine joined in `JOIN_S`.
    """
    joins = Settings().address is not None
    # What one machine alone lacks of GPUs `wants_gpu` says, with its own cure.
    bundle = bundle_of(use) if joins else {"CPU": 1.0}
    if (missing := lacking(bundle, workers)) is None:
        return
    cure = "lower workers or add a machine"
    if not joins:
        raise Unavailable(f"{missing}: {cure}")
    tell("log", text=f"{missing}: waiting for machines to join, {JOIN_S / 60:.0f} minutes at the most")
    deadline = time.monotonic() + JOIN_S
    wanted = ray.util.placement_group([bundle] * workers)  # an autoscaler adds what this asks for
    try:
        while not wanted.wait(timeout_seconds=JOIN_POLL_S):
            check()
            if time.monotonic() > deadline and (missing := lacking(bundle, workers)) is not None:
                raise Unavailable(f"{missing} after {JOIN_S / 60:.0f} minutes: {cure}")
    finally:
        ray.util.remove_placement_group(wanted)


def bundle_of(use: ClusterUse) -> dict[str, float]:
    """What one worker asks of Ray: a GPU where it is told to, or where one of its settings needs one."""
    needs_gpu = use.use_gpu is None and missing_on(Machine(gpus=0), use.model_dump()) is not None
    gpu = {"GPU": 1.0} if use.use_gpu or needs_gpu else {}
    return {"CPU": 1.0, **gpu, **pin(use.resources)}


def lacking(bundle: Mapping[str, float], workers: int) -> str | None:
    """What the whole cluster, busy or not, has too little of for so many workers; None where nothing is."""
    there = ray.cluster_resources()
    for name in bundle:
        if there.get(name, 0.0) < bundle[name] * workers:
            return f"workers is {workers}, the cluster has {there.get(name, 0.0):g} of {name}"
    return None


def has_finished(work_dir: Path) -> bool:
    """By the folder's list: on NFS a file that was asked for before another machine wrote it is missing for a minute."""
    return work_dir.is_dir() and any(each.name == FINISHED for each in work_dir.iterdir())


def read_finished(path: Path) -> JsonObject:
    found: JsonObject = json.loads(path.read_text(encoding="utf-8"))
    return found
