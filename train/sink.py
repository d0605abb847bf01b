"""What passes between the driver of a training run and its workers: what they tell, and the wish that they rest.

Metrics go through an actor of our own, for `ray.train.report` tells the driver once in two seconds and only
with a checkpoint. Knows nothing of models or checkpoints.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import ray._private.state

from raymill.cluster.context import JobContext, JsonObject, Paused, Preempted
from raymill.policies.errors import RaymillError
from raymill.train.validation import Verdict

SNAPSHOT = "snapshot"
"""Told when weights lie there to be measured; between the two of them only."""

GO_ON, REST_NOW = 0, -1
DRAINING_POLL_S = 2.0
REST_PATIENCE_S = 600.0
"""How long workers may take from the wish to rest to their checkpoint."""


class News(NamedTuple):
    """What the workers told since the last time."""

    events: list[tuple[str, JsonObject]]
    refusal: RaymillError | None
    """Why a worker gave up; starting again would end the same way."""

    leaving: str | None
    """Whose machine is taken away."""

    training: bool
    """A step was done by the workers of now."""

    rested_at: int | None
    """The step of the checkpoint with which the workers ended as they were asked to."""


class Sink:
    """What the workers tell. Lives as long as the driver, so a worker's death loses nothing it told."""

    def __init__(self) -> None:
        self._events: list[tuple[str, JsonObject]] = []
        self._refusal: RaymillError | None = None
        self._leaving: str | None = None
        self._training = False
        self._rested_at: int | None = None
        self._must_rest = False
        self._unmeasured: set[int] = set()
        self._verdict: Verdict | None = None

    def tell(self, kind: str, data: JsonObject) -> None:
        if kind == SNAPSHOT:
            self._unmeasured.add(data["step"])
        self._training = self._training and kind != "worker"
        self._events.append((kind, data))

    def step(self, metrics: JsonObject | None) -> int:
        """A step was done, which is told of if there are metrics. Answers what the driver wants: `REST_NOW`, or the
        step at which the run ends early, or `GO_ON`."""
        self._training = True
        if metrics is not None:
            self._events.append(("step", metrics))
        if self._must_rest:
            return REST_NOW
        return self._verdict.stop_step if self._verdict is not None and self._verdict.stop else GO_ON

    def measured(self, step: int, verdict: Verdict | None) -> None:
        """The validation of a step is over; None when there is nothing to learn from it."""
        self._unmeasured.discard(step)
        self._verdict = verdict or self._verdict

    def verdict(self) -> tuple[bool, Verdict | None]:
        """Whether every validation is over, and what they say."""
        return not self._unmeasured, self._verdict

    def refuse(self, error: RaymillError) -> None:
        """The input is at fault, or the storage: starting again would end the same way."""
        self._refusal = self._refusal or error

    def leave(self, reason: str) -> None:
        """A worker's machine is taken away; it has told the other workers by itself."""
        self._leaving = self._leaving or reason

    def rest(self) -> None:
        """Workers are to take a checkpoint after the step that they are at, and to end."""
        self._must_rest = True

    def rested(self, step: int) -> None:
        """They have."""
        self._rested_at = step

    def drain(self) -> News:
        events, self._events = self._events, []
        return News(events, self._refusal, self._leaving, self._training, self._rested_at)


class Wish:
    """Whether the run is to rest: because someone paused the job, or a machine of it is taken away."""

    def __init__(self, sink: Any, context: JobContext) -> None:
        self.reason: RaymillError | None = None
        self._sink = sink
        self._context = context
        self._nodes: set[str] = set()
        self._wished_at = 0.0
        self._next_drain_look = 0.0

    def saw(self, kind: str, data: JsonObject) -> None:
        if kind == "worker":
            self._nodes.add(data["node"])

    def look(self) -> None:
        """Raises what else `context.check` raises: Cancelled, LeaseLost."""
        try:
            self._context.check()
        except (Paused, Preempted) as reason:
            self._set(reason)
        if self.reason is None and time.monotonic() >= self._next_drain_look:
            self._next_drain_look = time.monotonic() + DRAINING_POLL_S
            leaving = self._nodes & draining_nodes()
            if leaving:
                self._set(Preempted(f"node {min(leaving)[:12]} is taken away"))

    def _set(self, reason: RaymillError) -> None:
        if self.reason is None:
            self.reason, self._wished_at = reason, time.monotonic()
            self._sink.rest.remote()

    def give_up_if_idle(self, news: News) -> None:
        """Raises the reason at once where no step was done that a checkpoint could keep, or none comes."""
        late = time.monotonic() - self._wished_at > REST_PATIENCE_S
        if self.reason is not None and (late or not news.training):
            raise self.reason


def draining_nodes() -> set[str]:
    """Nodes that Ray was told will go (`ray drain-node`, an autoscaler, a spot machine's notice); ids in hex."""
    # Ray 2.60 has no public name for it but `ray.train.get_preemption_info`, a barrier of all workers.
    return set(ray._private.state.state.get_draining_nodes() or ())
