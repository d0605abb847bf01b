"""The kinds of job there are: where each runs, what does the work, and what rows its result becomes.

The work is named by text, not imported: rooms above this one do it, and imports point one way.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from raymill.cluster.context import JobContext, Outcome
from raymill.cluster.governance import register_promotion
from raymill.policies.errors import NotFound
from raymill.registry import catalog
from raymill.registry.jobs import Effects

Queue = Literal["heavy", "short"]


@dataclass(frozen=True, kw_only=True)
class Kind:
    queue: Queue
    """heavy: a Ray job of its own, seconds to start. short: a warm pool worker, milliseconds."""

    work: str
    """`module:function`, a `JobContext -> Outcome`."""

    effects: Effects | None = None
    """Turns the result into registry rows, in the transaction that ends the job."""

    reusable: bool = True
    """A finished job with the same address stands for this one."""

    def load(self) -> Callable[[JobContext], Outcome]:
        module, _, function = self.work.partition(":")
        loaded: Callable[[JobContext], Outcome] = getattr(importlib.import_module(module), function)
        return loaded


KINDS: dict[str, Kind] = {
    "dataset": Kind(queue="short", work="raymill.train.jobs:run_dataset", effects=catalog.register_dataset),
    "import_base": Kind(queue="short", work="raymill.train.jobs:run_import_base"),
    "pretrain": Kind(queue="heavy", work="raymill.train.jobs:run_pretrain", effects=catalog.register_run),
    "train": Kind(queue="heavy", work="raymill.train.jobs:run_train", effects=catalog.register_version),
    "evaluate": Kind(
        queue="heavy", work="raymill.evaluate.jobs:run_evaluate", effects=catalog.register_scores
    ),
    "quantize": Kind(
        queue="heavy", work="raymill.evaluate.jobs:run_quantize", effects=catalog.register_quantizations
    ),
    "promote": Kind(
        queue="short",
        work="raymill.cluster.governance:run_promote",
        effects=register_promotion,
        reusable=False,
    ),
    "deploy": Kind(
        queue="short",
        work="raymill.cluster.governance:run_deploy",
        reusable=False,
    ),
}


def kind_of(name: str) -> Kind:
    """Raises NotFound, naming the kinds there are."""
    if name not in KINDS:
        raise NotFound(f"no job kind {name!r}: there are {', '.join(sorted(KINDS))}")
    return KINDS[name]
