"""The Ray edge of training, seen from a worker: device, resume, checkpoints, and the export at the end.

`run_task` is what both pre-training and tuning do once they have a model and data.
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import Checkpoint
from torch import nn

from raymill.cluster import cpu
from raymill.cluster.context import JsonObject
from raymill.cluster.processes import give_way
from raymill.policies.errors import RaymillError
from raymill.train.config import ClusterUse, Precision
from raymill.train.engines import DeepSpeedEngine, PlainEngine
from raymill.train.launch import FINISHED, MOST_CORES
from raymill.train.loop import Engine, Schedule, Shares, StepMetrics, SummedLoss, train

PROGRESS = "progress.json"


@dataclass(frozen=True, kw_only=True)
class Task:
    """All that a training run is, apart from where it runs."""

    build: Callable[[], nn.Module]
    """The model as it is before the first step; gives the same weights on every call."""

    shares: Shares
    """The data, by steps."""

    export: Callable[[nn.Module], None]
    """Writes the finished model; called on the first worker alone."""

    use: ClusterUse
    learning_rate: float
    warmup_share: float
    weight_decay: float
    max_grad_norm: float
    seed: int


@dataclass
class Progress:
    """How far a run is; lies beside each checkpoint."""

    step: int = 0
    loss: float = 0.0
    tokens: int = 0
    seconds: float = 0.0
    """Spent on steps, over all attempts."""


def run_worker(settings: JsonObject, task_of: Callable[[JsonObject], Task]) -> None:
    """Run a task; an error of the input is told to the driver and not tried again."""
    try:
        run_task(task_of(settings), Path(settings["work_dir"]), settings["sink"])
    except RaymillError as error:
        ray.get(settings["sink"].refuse.remote(str(error)))


def run_task(task: Task, work_dir: Path, sink: Any) -> None:
    """Train from the last checkpoint to the end, then export on the first worker."""
    place = ray.train.get_context()
    first = place.get_world_rank() == 0
    give_way()
    set_threads()
    who = {"rank": place.get_world_rank(), "pid": os.getpid(), "host": socket.gethostname()}
    sink.tell.remote("worker", who)
    engine = make_engine(task, place.get_world_size())
    progress = Progress()
    if (checkpoint := ray.train.get_checkpoint()) is not None:
        progress = resume(engine, checkpoint)
        if first:
            sink.tell.remote("log", {"text": f"going on from the checkpoint of step {progress.step}"})
    if first:
        sink.tell.remote("phase", {"name": "train"})
    started_at = time.monotonic() - progress.seconds

    def tell(metrics: StepMetrics) -> None:
        if first:
            sink.tell.remote("step", metrics._asdict())

    def after(step: int, loss: float, tokens: int) -> None:
        progress.step, progress.loss = step, loss
        progress.tokens += tokens
        progress.seconds = time.monotonic() - started_at
        if step % task.use.checkpoint_every == 0 and step < task.shares.steps:
            save(engine, progress, first)

    schedule = Schedule(peak=task.learning_rate, steps=task.shares.steps, warmup_share=task.warmup_share)
    train(engine, task.shares, schedule, seed=task.seed, start=progress.step, tell=tell, after=after)
    weights = engine.weights()
    if first:
        sink.tell.remote("phase", {"name": "export"})
        model = task.build()
        model.load_state_dict(weights, strict=False)
        task.export(model)
        write_finished(work_dir, progress)


def make_engine(task: Task, workers: int) -> Engine:
    device = ray.train.torch.get_device()
    torch.manual_seed(task.seed)
    model = SummedLoss(task.build(), bf16=computes_bf16(task.use.precision, device))
    limits = {"weight_decay": task.weight_decay, "max_grad_norm": task.max_grad_norm}
    if workers == 1 and task.use.zero == 0:
        return PlainEngine(model, device=device, **limits)
    return DeepSpeedEngine(model, device=device, zero=task.use.zero, **limits)


def set_threads() -> None:
    """An equal share of this machine's cores; torch would take all of them for each worker."""
    mine = len(os.sched_getaffinity(0)) // ray.train.get_context().get_local_world_size()
    torch.set_num_threads(max(1, min(MOST_CORES, mine)))


def computes_bf16(precision: Precision, device: torch.device) -> bool:
    """Whether matrices are multiplied in bf16. `auto`: where the device does so in hardware."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return cpu.computes_bf16()


def save(engine: Engine, progress: Progress, first: bool) -> None:
    """A checkpoint that Ray Train keeps. Every worker calls it; Ray puts their shards into one folder."""
    with tempfile.TemporaryDirectory() as directory:
        engine.save(Path(directory))
        if first:
            (Path(directory) / PROGRESS).write_text(json.dumps(vars(progress)))
        written = any(Path(directory).iterdir())
        ray.train.report(
            {"step": progress.step, "loss": progress.loss},
            checkpoint=Checkpoint.from_directory(directory) if written else None,
        )


def resume(engine: Engine, checkpoint: Checkpoint) -> Progress:
    with checkpoint.as_directory() as directory:
        engine.load(Path(directory))
        return Progress(**json.loads((Path(directory) / PROGRESS).read_text()))


def write_finished(work_dir: Path, progress: Progress) -> None:
    """The mark that the export is whole; written last and in one move."""
    result = {
        "steps": progress.step,
        "final_loss": progress.loss,
        "tokens": progress.tokens,
        "seconds": round(progress.seconds, 3),
        "tokens_per_s": round(progress.tokens / max(progress.seconds, 1e-9), 1),
    }
    partial = work_dir / f"{FINISHED}.partial"
    with partial.open("w", encoding="utf-8") as file:
        json.dump(result, file)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(work_dir / FINISHED)
