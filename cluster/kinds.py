"""The kinds of job there are: where each runs, what does the work, and what rows its result becomes.

The work is named by text, not imported: rooms above this one do it, and imports point one way.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from raymill.cluster.context import JobContext, Outcome
from raymill.cluster.governance import register_promotion
from raymill.cluster.hooks import register as register_hook
from raymill.policies.errors import Invalid, NotFound
from raymill.registry import catalog, code, drift
from raymill.registry.jobs import Effects

Runner = Literal["heavy", "short"]


@dataclass(frozen=True, kw_only=True)
class Kind:
    queue: str
    """Where its jobs wait unless told otherwise. heavy: a Ray job of its own, seconds to start. short: a warm pool
    worker, milliseconds."""

    work: str
    """`module:function`, a `JobContext -> Outcome`."""

    effects: Effects | None = None
    """Turns the result into registry rows, in the transaction that ends the job."""

    warm: bool = False
    """Starts from the warm process where there is one. For work that imports torch and transformers and says itself how
    many threads compute."""

    in_driver: bool = False
    """The job's own process does the work, so that Ray places it by what the job asks for; else what it starts."""

    reusable: bool = True
    """A finished job with the same address stands for this one."""

    alone: bool = False
    """Anyone who may submit may submit one that belongs to no pipeline. The kinds of pipelines count on inputs and
    addresses, which such a job has not."""

    def load(self) -> Callable[[JobContext], Outcome]:
        module, _, function = self.work.partition(":")
        loaded: Callable[[JobContext], Outcome] = getattr(importlib.import_module(module), function)
        return loaded


KINDS: dict[str, Kind] = {
    "dataset": Kind(
        queue="short", work="raymill.train.dataset_job:run_dataset", effects=catalog.register_dataset
    ),
    "dataset_check": Kind(queue="short", work="raymill.train.dataset_job:run_check", reusable=False),
    "dataset_tokens": Kind(queue="short", work="raymill.train.dataset_tokens:run_tokens", reusable=False),
    "dataset_preview": Kind(queue="short", work="raymill.train.dataset_tokens:run_preview", reusable=False),
    "traffic": Kind(queue="short", work="raymill.serve.traffic:run_traffic", reusable=False),
    "import_base": Kind(queue="short", work="raymill.train.jobs:run_import_base"),
    "pretrain": Kind(
        queue="heavy", work="raymill.train.jobs:run_pretrain", effects=catalog.register_run, warm=True
    ),
    "train": Kind(
        queue="heavy", work="raymill.train.jobs:run_train", effects=catalog.register_version, warm=True
    ),
    "tune": Kind(
        queue="heavy", work="raymill.tune.jobs:run_tune", effects=catalog.register_version, warm=True
    ),
    "evaluate": Kind(
        queue="heavy", work="raymill.evaluate.jobs:run_evaluate", effects=catalog.register_scores
    ),
    "evaluate_target": Kind(
        queue="heavy",
        work="raymill.evaluate.target_job:run_evaluate_target",
        effects=catalog.register_target_scores,
        reusable=False,
    ),
    "judge": Kind(
        queue="heavy",
        work="raymill.evaluate.judge_job:run_judge",
        effects=catalog.register_judgement,
        reusable=False,
    ),
    "quantize": Kind(
        queue="heavy",
        work="raymill.evaluate.quantize_job:run_quantize",
        effects=catalog.register_quantizations,
        in_driver=True,
    ),
    "compress": Kind(
        queue="heavy",
        work="raymill.evaluate.compress_job:run_compress",
        effects=catalog.register_quantizations,
    ),
    "export_gguf": Kind(queue="heavy", work="raymill.evaluate.quantize_job:run_export_gguf", in_driver=True),
    "export_adapter": Kind(
        queue="heavy", work="raymill.evaluate.adapter_gguf:run_export_adapter", in_driver=True
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
    "drift": Kind(
        queue="short", work="raymill.serve.drift:run_drift", effects=drift.register, reusable=False
    ),
    "drift_rollback": Kind(
        queue="hooks",
        work="raymill.cluster.drift_rollback:run_rollback",
        effects=register_hook,
        reusable=False,
    ),
    "code_forensic": Kind(
        queue="short",
        work="raymill.serve.code.steps:run_forensic",
        effects=code.register_forensic,
        reusable=False,
    ),
    "code_rebuild": Kind(
        queue="short",
        work="raymill.serve.code.steps:run_rebuild",
        effects=code.register_rebuild,
        reusable=False,
    ),
    "code_quality": Kind(
        queue="short",
        work="raymill.serve.code.steps:run_quality",
        effects=code.register_quality,
        reusable=False,
    ),
    "hook_webhook": Kind(queue="hooks", work="raymill.cluster.hooks:run_webhook", reusable=False),
    "hook_promote": Kind(
        queue="hooks", work="raymill.cluster.hooks:run_promote", effects=register_hook, reusable=False
    ),
    "hook_rollback": Kind(
        queue="hooks", work="raymill.cluster.hooks:run_rollback", effects=register_hook, reusable=False
    ),
}


def kind_of(name: str) -> Kind:
    """Raises NotFound, naming the kinds there are."""
    kind = KINDS.get(name) or extra_kinds().get(name)
    if kind is None:
        raise NotFound(f"no job kind {name!r}: there are {', '.join(sorted(all_kinds()))}")
    return kind


def all_kinds() -> dict[str, Kind]:
    """Ours, and those of RAYMILL_KINDS."""
    return {**extra_kinds(), **KINDS}


def extra_kinds() -> dict[str, Kind]:
    """Kinds of other people's modules: RAYMILL_KINDS=module[,module], each with a dictionary `KINDS`. They can be
    submitted alone.

    Raises:
        Invalid: a module cannot be imported, has no `KINDS`, or has one that is there already.
    """
    return _load(os.environ.get("RAYMILL_KINDS", ""))


@functools.cache
def _load(names: str) -> dict[str, Kind]:
    found: dict[str, Kind] = {}
    for module in filter(None, (name.strip() for name in names.split(","))):
        try:
            kinds: dict[str, Kind] = importlib.import_module(module).KINDS
        except (ImportError, AttributeError) as error:
            raise Invalid(f"RAYMILL_KINDS names {module!r}, which gives no kinds: {error}") from error
        for name, kind in kinds.items():
            if name in KINDS or name in found:
                raise Invalid(
                    f"RAYMILL_KINDS: {module} has a kind {name!r}, which is there already: rename it"
                )
            found[name] = replace(kind, alone=True)
    return found
