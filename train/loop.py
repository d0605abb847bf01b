"""The training loop: plain torch, the same for pre-training and tuning, for one worker and many.

Knows nothing of Ray, files or text. The loss of a step is the mean over the tokens that count, over all
workers, whatever their share; so two workers compute what one would. A step's arithmetic depends on
nothing but the weights, the optimiser's state and the step's number: a resumed run repeats the losses.

Units: seconds, tokens; steps are counted from 1 when told to anyone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from raymill.policies.errors import Invalid
from raymill.train.batches import Batch, Share
from raymill.train.objectives import Objective
from raymill.train.summed_loss import Passed


class Diverged(Invalid):
    """The loss is no number any more; the same settings would come to the same end."""

    code = "diverged"


class StepMetrics(NamedTuple):
    """What one step did; the keys of a `step` event."""

    step: int
    total: int
    loss: float
    lr: float
    grad_norm: float
    tokens_per_s: float
    eta_s: float
    tokens: int
    """Of this step, over all workers, without padding."""

    seconds: float
    """Since the step before, or since the loop began."""

    more: Mapping[str, float]
    """What the objective tells beside the loss, such as rewards."""

    def event(self) -> dict[str, float]:
        """Flat, as an event has it."""
        flat = self._asdict()
        return {**flat, **flat.pop("more")}


class Shares(Protocol):
    """The data: which part of a step a worker computes."""

    steps: int

    def share(self, step: int, rank: int, workers: int) -> Share: ...


class Engine(Protocol):
    """Model and optimiser, on one device or sharded over many."""

    rank: int
    workers: int
    device: torch.device

    @property
    def objective(self) -> Objective: ...

    def forward(self, batch: Batch, *, last: bool) -> Passed:
        """The summed loss of `batch`; `last` when no pass of this step follows."""
        ...

    def score(self, batch: Batch) -> Tensor:
        """Log-probability of each example of `batch`, without a gradient and without dropout."""
        ...

    def measure(self, batch: Batch) -> Passed:
        """What `forward` gives, without a gradient and without dropout."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Add to the gradients."""
        ...

    def step(self, lr: float) -> float:
        """Update the weights; the gradient's norm before it was clipped."""
        ...

    def save(self, directory: Path) -> None:
        """Write what a resumed run needs. Every worker must call it; each writes the shards that it holds."""
        ...

    def load(self, directory: Path) -> None:
        """Take up what `save` wrote. Every worker must call it."""
        ...

    def weights(self) -> dict[str, Tensor]:
        """The trained weights, whole and on the CPU, by the model's names. Every worker must call it."""
        ...

    def total(self, values: Tensor) -> Tensor:
        """Sum over all workers, of each number by itself. Every worker must call it."""
        ...


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Learning rate: a straight rise, then half a cosine down to a tenth of the peak."""

    peak: float
    steps: int
    warmup_share: float

    def at(self, step: int) -> float:
        """Learning rate of `step`, counted from 0."""
        warmup = max(1, round(self.steps * self.warmup_share))
        if step < warmup:
            return self.peak * (step + 1) / warmup
        progress = (step - warmup) / max(1, self.steps - warmup)
        return self.peak * (0.1 + 0.45 * (1 + math.cos(math.pi * progress)))


def train(
    engine: Engine,
    shares: Shares,
    schedule: Schedule,
    *,
    seed: int,
    start: int = 0,
    tell: Callable[[StepMetrics], None],
    after: Callable[[int, float, int], None],
) -> None:
    """Run the steps from `start` (0 when nothing was done) to the end; none when all were done.

    Args:
        tell: is called after each step, on every worker.
        after: is called after each step with the steps done, the loss and the tokens of the step.

    Raises:
        Diverged: the loss is no finite number.
    """
    pace = Pace()
    for step in range(start, shares.steps):
        share = shares.share(step, engine.rank, engine.workers)
        # Dropout's randomness follows from the step, so that a resumed run draws the same.
        torch.manual_seed(seed + 1_000_003 * step + engine.rank)
        loss, more = run_step(engine, share)
        lr = schedule.at(step)
        grad_norm = engine.step(lr)
        if not math.isfinite(loss):
            raise Diverged(
                f"the loss is {loss} at step {step + 1}: lower learning_rate (now {schedule.peak})"
            )
        tokens_per_s = pace.passed(share.tokens)
        left = shares.steps - step - 1
        tell(
            StepMetrics(
                step=step + 1,
                total=shares.steps,
                loss=loss,
                lr=lr,
                grad_norm=grad_norm,
                tokens_per_s=tokens_per_s,
                eta_s=left * share.tokens / tokens_per_s,
                tokens=share.tokens,
                seconds=pace.seconds,
                more=more,
            )
        )
        after(step + 1, loss, share.tokens)


def run_step(engine: Engine, share: Share) -> tuple[float, Mapping[str, float]]:
    """Gradients of one step; its loss and what the objective tells, the same on every worker."""
    objective = engine.objective
    share = objective.prepare(engine, share)
    summed = torch.zeros(1 + len(objective.metrics), device=engine.device)
    for number, batch in enumerate(share.passes, start=1):
        passed = engine.forward(batch, last=number == len(share.passes))
        summed += torch.cat([passed.loss.detach().reshape(1), passed.metrics_M])
        # Gradients are averaged over the workers; the factor turns that into a mean over what counts.
        engine.backward(passed.loss * (engine.workers / max(1, share.counted)))
    loss, *sums = engine.total(summed).tolist()
    told = objective.told(dict(zip(objective.metrics, sums, strict=True)), share.counted)
    return loss / max(1, share.counted), told


def measure(engine: Engine, shares: Shares) -> tuple[float, Mapping[str, float]]:
    """The loss of all steps of `shares` together and what the objective tells, without learning from them."""
    objective = engine.objective
    summed = torch.zeros(1 + len(objective.metrics), device=engine.device)
    counted = 0
    for step in range(shares.steps):
        share = objective.prepare(engine, shares.share(step, engine.rank, engine.workers))
        for batch in share.passes:
            passed = engine.measure(batch)
            summed += torch.cat([passed.loss.reshape(1), passed.metrics_M])
        counted += share.counted
    loss, *sums = engine.total(summed).tolist()
    told = objective.told(dict(zip(objective.metrics, sums, strict=True)), counted)
    return loss / max(1, counted), told


class Pace:
    """Tokens in a second, smoothed over about the last 20 steps."""

    def __init__(self) -> None:
        self._at = time.monotonic()
        self._rate: float | None = None
        self.seconds = 0.0
        """Between the last two steps."""

    def passed(self, tokens: int) -> float:
        now = time.monotonic()
        self.seconds = now - self._at
        rate = tokens / max(self.seconds, 1e-9)
        self._at = now
        self._rate = rate if self._rate is None else 0.9 * self._rate + 0.1 * rate
        return self._rate
