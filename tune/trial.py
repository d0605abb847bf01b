"""One trial, in its own process: our training loop, a loss on held-out rows at each rung, a small checkpoint there.

Ray Tune calls `run_trial` with the values tried. Everything else (the base, the rows as ids, how often to report) is
the same for all trials and comes with `settings`.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from raymill.cluster.context import JsonObject
from raymill.policies.errors import RaymillError
from raymill.train.config import TrainConfig
from raymill.tune.config import Values, with_values

if TYPE_CHECKING:
    from raymill.train.loop import Engine
    from raymill.train.worker import Task

STEPS = "steps"
PROGRESS = "progress.json"
WORST = 1e30
"""Reported as its loss by a trial that cannot go on, so that the search looks elsewhere."""


@dataclass
class Progress:
    """How far a trial is; lies beside each checkpoint."""

    steps: int = 0
    seconds: float = 0.0
    """Spent on steps and reports, over all processes."""

    tokens: int = 0
    loss: float = 0.0
    """Of the last step."""

    trial: str = ""
    """Whose checkpoint it is."""


def run_trial(values: Values, settings: JsonObject) -> None:
    """Train from the last checkpoint, or another trial's that it was given, to the end."""
    from ray import tune

    from raymill.cluster.processes import give_way
    from raymill.train.launch import WORKER_ENVIRONMENT

    os.environ.update(WORKER_ENVIRONMENT)
    give_way()
    try:
        Trial(values, settings).run()
    except RaymillError as error:  # the same values would come to the same end: not to be tried again
        lost = {"validation_loss": WORST, "final_loss": WORST}
        tune.report({STEPS: 0, "total_steps": 0, "seconds": 0.0, "tokens": 0, "refusal": str(error), **lost})


class Trial:
    """The run of one trial in this process."""

    def __init__(self, values: Values, settings: JsonObject) -> None:
        import torch
        from ray import tune

        torch.set_num_threads(settings["threads"])
        self._every: int = settings["every"]
        self._me: str = tune.get_context().get_trial_id()
        self._task = task_of_trial(values, settings)
        self._engine = make_engine(self._task, Path(settings["work_dir"]), self._me)
        self._progress = Progress()
        self._copied: JsonObject = {}
        if (checkpoint := tune.get_checkpoint()) is not None:
            with checkpoint.as_directory() as directory:
                self._engine.load(Path(directory))
                self._progress = Progress(**json.loads((Path(directory) / PROGRESS).read_text()))
            if self._progress.trial != self._me:
                self._copied = {"copied_from": self._progress.trial, "copied_at": self._progress.steps}
        self._started_at = time.monotonic() - self._progress.seconds
        self._losses: list[float] = []

    def run(self) -> None:
        from raymill.train.loop import Schedule, train

        task = self._task
        if self._progress.steps >= task.shares.steps:
            self._report()
            return
        schedule = Schedule(peak=task.learning_rate, steps=task.shares.steps, warmup_share=task.warmup_share)
        train(
            self._engine,
            task.shares,
            schedule,
            seed=task.seed,
            start=self._progress.steps,
            tell=lambda _: None,
            after=self._after,
        )

    def _after(self, step: int, loss: float, tokens: int) -> None:
        self._progress.steps, self._progress.loss = step, loss
        self._progress.tokens += tokens
        self._losses.append(loss)
        if step % self._every == 0 or step == self._task.shares.steps:
            self._report()

    def _report(self) -> None:
        from ray import tune

        from raymill.train.loop import measure

        progress, losses = self._progress, self._losses or [self._progress.loss]
        metrics: JsonObject = {
            STEPS: progress.steps,
            "total_steps": self._task.shares.steps,
            "final_loss": sum(losses) / len(losses),
            "tokens": progress.tokens,
            **self._copied,
        }
        if self._task.validation is not None:
            metrics["validation_loss"], _ = measure(self._engine, self._task.validation)
        progress.seconds = metrics["seconds"] = time.monotonic() - self._started_at
        progress.trial = self._me
        with tempfile.TemporaryDirectory() as directory:
            self._engine.save(Path(directory))
            (Path(directory) / PROGRESS).write_text(json.dumps(asdict(progress)))
            tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(directory))
        self._losses, self._copied = [], {}


def task_of_trial(values: Values, settings: JsonObject) -> Task:
    """The training run that the values tried make."""
    from raymill.train.tuning import task_of

    config = with_values(TrainConfig.model_validate(settings["train"]), values)
    return task_of(
        {"config": config.model_dump(), "base": settings["base"], "work_dir": settings["work_dir"]}
    )


def make_engine(task: Task, work_dir: Path, name: str) -> Engine:
    """An engine of this process, before the first step.

    Args:
        name: of the trial; what it compares with, if its method compares, is kept under it.
    """
    import torch

    from raymill.train import worker
    from raymill.train.reference import HELD_OUT_REFERENCE, REFERENCE, take_reference

    # Ray shows a trial the GPU that it was given, and no other.
    engine = worker.make_engine(task, 1, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    take_reference(engine, task.shares, work_dir, f"{name}-{REFERENCE}")
    if task.validation is not None:
        take_reference(engine, task.validation, work_dir, f"{name}-{HELD_OUT_REFERENCE}")
    return engine


def export_trial(values: Values, settings: JsonObject, checkpoint: str) -> JsonObject:
    """Write the model of a trial that was trained to its end to the work directory, as training does.

    Returns:
        What its run measured: the keys of a training run.
    """
    import torch

    from raymill.cluster.processes import give_way
    from raymill.train.engines import STATE_FILE
    from raymill.train.launch import WORKER_ENVIRONMENT

    os.environ.update(WORKER_ENVIRONMENT)
    give_way()
    task = task_of_trial(values, settings)
    model = task.build()
    state = torch.load(Path(checkpoint) / STATE_FILE, map_location="cpu", weights_only=True)
    model.load_state_dict(state["weights"], strict=False)
    task.export(model)
    progress = Progress(**json.loads((Path(checkpoint) / PROGRESS).read_text()))
    return {
        "steps": progress.steps,
        "final_loss": progress.loss,
        "tokens": progress.tokens,
        "seconds": round(progress.seconds, 3),
        "tokens_per_s": round(progress.tokens / max(progress.seconds, 1e-9), 1),
    }
