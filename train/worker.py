"""The Ray edge of training, seen from a worker: device, resume, checkpoints, and the export at the end.

`run_task` is what both pre-training and tuning do once they have a model and data.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from safetensors.torch import load_file
from torch import nn

from raymill.cluster import cpu
from raymill.cluster.context import JsonObject
from raymill.cluster.processes import give_way
from raymill.policies.errors import RaymillError
from raymill.train.checkpoints import Checkpoints
from raymill.train.config import ClusterUse, Precision
from raymill.train.engines import PlainEngine
from raymill.train.launch import CHECKPOINTS, FINISHED, MOST_CORES
from raymill.train.layouts import lay_out
from raymill.train.loop import Engine, Schedule, Shares, train
from raymill.train.metrics import METRICS, POINTS, Point, read_points, summary, thinned, write_points
from raymill.train.objectives import Objective, TokenLoss
from raymill.train.prewarm import use_extensions
from raymill.train.reference import take_reference
from raymill.train.run_config import EarlyStop
from raymill.train.sink import SNAPSHOT
from raymill.train.summed_loss import SummedLoss
from raymill.train.told import BROKEN, END, Told, agree, take_up
from raymill.train.validation import FOLDER, Snapshots


@dataclass(frozen=True, kw_only=True)
class Task:
    """All that a training run is, apart from where it runs."""

    build: Callable[[], nn.Module]
    """The model as it is before the first step; gives the same weights on every call."""

    shares: Shares
    """The data, by steps."""

    export: Callable[[nn.Module], None]
    """Writes the finished model; called on the first worker alone."""

    objective: Objective = field(default_factory=TokenLoss)
    """What is minimised."""

    validation: Shares | None = None
    """Rows that are held out, to measure the loss on beside the training."""

    validate_every: int = 0
    """Steps between two measurements."""

    early_stop: EarlyStop | None = None

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


class Stopped(Exception):
    """All workers end after this step; nothing is lost."""


class EndedEarly(Exception):
    """The loss on held-out rows has stopped falling."""


def run_worker(settings: JsonObject, task_of: Callable[[JsonObject], Task]) -> None:
    """Run a task; an error of the input is told to the driver and not tried again."""
    try:
        run_task(task_of(settings), Path(settings["work_dir"]), settings["sink"])
    except RaymillError as error:
        ray.get(settings["sink"].refuse.remote(error))


def run_task(task: Task, work_dir: Path, sink: Any) -> None:
    """Train from the last checkpoint to the end, then export on the first worker."""
    place = ray.train.get_context()
    first = place.get_world_rank() == 0
    give_way()
    set_threads()
    use_extensions()
    told = Told(sink, rank=place.get_world_rank())
    told.tell("worker", rank=told.rank, pid=os.getpid(), host=socket.gethostname(), node=node_id())
    engine = make_engine(task, place.get_world_size(), ray.train.torch.get_device())
    if take_reference(engine, task.shares, work_dir) and first:
        told.tell("log", text="took the starting model's log-probabilities")
    checkpoints = Checkpoints(
        work_dir / CHECKPOINTS, rank=engine.rank, workers=engine.workers, told=told.checkpoint
    )
    snapshots = Snapshots(work_dir / FOLDER)
    step = take_up(engine, checkpoints, lambda text: told.tell("log", text=text))
    progress = Progress(**checkpoints.progress(step)) if step else Progress()
    if first:
        told.tell("phase", name="train")
        told.begin(work_dir / METRICS, progress.step, task.shares.steps)
        told.unmeasured(snapshots, progress.step, task.early_stop)
    try:
        train_on(engine, task, progress, checkpoints, snapshots, told)
    except Stopped:
        return
    except EndedEarly:
        if first:
            told.tell("log", text=f"ending at step {progress.step}: the loss on held-out rows falls no more")
    finally:
        told.flush()
    checkpoints.wait()
    weights = engine.weights()
    if first:
        kept = kept_step(task, snapshots, told)
        told.tell("phase", name="export")
        model = task.build()
        model.load_state_dict(load_file(snapshots.path(kept)) if kept else weights, strict=False)
        task.export(model)
        write_finished(work_dir, progress, snapshots.losses(), kept)


def train_on(
    engine: Engine,
    task: Task,
    progress: Progress,
    checkpoints: Checkpoints,
    snapshots: Snapshots,
    told: Told,
) -> None:
    """The steps that are left, with a checkpoint every so often and one where the run is asked to rest.

    Raises:
        Stopped: a checkpoint was taken and the workers shall end.
        EndedEarly: no more steps are worth their time.
        StorageFull, CheckpointFailed: a worker cannot write its part of a checkpoint.
    """
    steps = task.shares.steps
    started_at = time.monotonic() - progress.seconds

    def save() -> None:
        told.flush()
        snapshots.wait()
        checkpoints.save(progress.step, engine.save, dict(vars(progress)))

    def after(step: int, loss: float, tokens: int) -> None:
        progress.step, progress.loss = step, loss
        progress.tokens += tokens
        progress.seconds = time.monotonic() - started_at
        if task.validation is not None and (step % task.validate_every == 0 or step == steps):
            weights = engine.weights()
            if engine.rank == 0:
                snapshots.write(step, weights, lambda: told.tell(SNAPSHOT, step=step))
        wanted = agree(engine, BROKEN if checkpoints.failed else told.wish(step))
        if wanted >= BROKEN:
            checkpoints.give_up()
            checkpoints.wait()  # raises on the worker whose part it was
            raise Stopped
        if step == steps:
            return
        if wanted >= END:
            raise EndedEarly
        if wanted:
            save()
            checkpoints.wait()
            agree(engine, 0.0)  # nobody leaves before the last part is there
            told.rested(step)
            raise Stopped
        if step % task.use.checkpoint_every == 0:
            save()

    schedule = Schedule(peak=task.learning_rate, steps=steps, warmup_share=task.warmup_share)
    train(engine, task.shares, schedule, seed=task.seed, start=progress.step, tell=told.step, after=after)


def kept_step(task: Task, snapshots: Snapshots, told: Told) -> int:
    """The step whose weights become the model, where that are not the last ones: then 0."""
    if task.validation is None:
        return 0
    snapshots.wait()
    verdict = told.verdict()
    if verdict is None or task.early_stop is None:
        return 0
    step = verdict.best_step if task.early_stop.keep == "best" else verdict.stop_step
    return step if step and snapshots.path(step).is_file() else 0


def node_id() -> str:
    """Of the Ray node that this worker is on, hex."""
    found: str = ray.get_runtime_context().get_node_id()
    return found


def make_engine(task: Task, workers: int, device: torch.device) -> Engine:
    torch.manual_seed(task.seed)
    return lay_out(
        task.build(),
        task.use,
        objective=task.objective,
        device=device,
        workers=workers,
        bf16=computes_bf16(task.use.precision, device),
        weight_decay=task.weight_decay,
        max_grad_norm=task.max_grad_norm,
    )


def measuring_engine(task: Task, device: torch.device) -> PlainEngine:
    """One process that only measures, however the training is spread: nothing sharded, nothing compiled."""
    torch.manual_seed(task.seed)
    bf16 = computes_bf16(task.use.precision, device)
    whole = SummedLoss(task.build(), bf16=bf16, objective=task.objective)
    return PlainEngine(whole, device=device, weight_decay=0.0, max_grad_norm=task.max_grad_norm)


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


def write_finished(work_dir: Path, progress: Progress, losses: dict[int, float], kept: int) -> None:
    """The mark that the export is whole; written last and in one move."""
    checked: list[Point] = [{"step": step, "validation_loss": loss} for step, loss in losses.items()]
    points = sorted([*read_points(work_dir / METRICS), *checked], key=lambda point: int(point["step"]))
    write_points(points, work_dir / METRICS)
    result = {
        "metrics": summary(points),
        "series": thinned(points, POINTS),
        "steps": progress.step,
        "kept_step": kept or progress.step,
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
