"""From a recipe to the steps of its pipeline: a graph of jobs, each with its resolved configuration.

What a step's result depends on stands in its configuration or comes from its parents, for that is what
its address is made of: files by their sha256, a base directory by names, sizes and times of its files.

      dataset ─┬──────────────> train ──┬─> evaluate ───────────┐
      base ────┴─> evaluate-base        ├─> quantize ─> evaluate-quantized ─> promote ─> serve
                                        └─> compress ───────────────────────┘

A search stands where training would: its step is called `train` too, and what follows goes on from its best trial.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

from sqlalchemy.orm import Session

from raymill.client.recipe import Recipe
from raymill.cluster.kinds import kind_of
from raymill.evaluate.benchmark_config import BenchmarkTask
from raymill.evaluate.compress_config import CompressConfig
from raymill.evaluate.config import EvaluateConfig, LmEvalTask, Task, file_of, runs_on_files
from raymill.evaluate.quantize_config import QuantizeConfig
from raymill.registry import accelerators
from raymill.registry.artifacts import canonical_json, sha256_known
from raymill.registry.jobs import Needs, StepSpec
from raymill.registry.jobs.model import NOTHING
from raymill.registry.placement_config import Resources
from raymill.registry.tables import JsonObject
from raymill.serve.api.dataset_planning import recipe_dataset
from raymill.train.config import ClusterUse
from raymill.tune.config import measured


def plan(recipe: Recipe, opened: Session) -> list[StepSpec]:
    """The steps of a recipe, parents before children.

    Raises:
        NotFound, Invalid: the registered data set that it names is not there, or cannot be used so.
    """
    there = accelerators.known(opened)
    steps = [recipe_dataset(opened, recipe), _base(recipe, there)]
    if recipe.evaluate is not None:
        steps.append(evaluate_step("evaluate-base", recipe.evaluate, "base", ("dataset", "base")))
    steps.append(_train(recipe, there))
    if recipe.evaluate is not None:
        steps.append(evaluate_step("evaluate", recipe.evaluate, "train", ("dataset", "train")))
    if recipe.quantize is not None:
        exact = _with_text_digests(recipe.quantize).model_dump(mode="json")
        needs = _needs(recipe.quantize.resources)
        steps.append(_step("quantize", "quantize", exact, ("dataset", "train"), needs))
        tasks = tuple(filter(runs_on_files, recipe.evaluate.tasks)) if recipe.evaluate is not None else ()
        if recipe.evaluate is not None and tasks:
            of_files = recipe.evaluate.model_copy(update={"tasks": tasks})
            steps.append(
                evaluate_step("evaluate-quantized", of_files, "quantize", ("dataset", "train", "quantize"))
            )
    if recipe.compress is not None:
        exact = _with_text_digests(recipe.compress).model_dump(mode="json")
        needs = Needs(gpus=recipe.compress.gpus)
        steps.append(_step("compress", "compress", exact, ("dataset", "train"), needs))
    if recipe.promote is not None:
        config = recipe.promote.model_dump(mode="json", exclude_defaults=True) | {"to": recipe.promote.to}
        config.setdefault("require", {})
        before = tuple(step.step for step in steps if step.step not in {"dataset", "base"})
        steps.append(_step("promote", "promote", config, before))
        if recipe.serve is not None:
            config = {"alias": recipe.promote.to, **recipe.serve.model_dump(mode="json")}
            steps.append(_step("serve", "deploy", config, ("promote",)))
    return steps


def _base(recipe: Recipe, there: int) -> StepSpec:
    pretrain, imported = recipe.base.pretrain, recipe.base.imported
    if pretrain is not None:
        config = _with_digests(pretrain.model_dump(mode="json"), ("text",))
        return _step("base", "pretrain", config, (), training_needs(pretrain, there))
    assert imported is not None
    config = imported.model_dump(mode="json", exclude_none=True)
    if imported.path is not None:
        config["path_sha256"] = _fingerprint(Path(imported.path))
    return _step("base", "import_base", config, ())


def _train(recipe: Recipe, there: int) -> StepSpec:
    config = recipe.train.model_dump(mode="json")
    if recipe.tune is None:
        return _step("train", "train", config, ("dataset", "base"), training_needs(recipe.train, there))
    config = measured(recipe.train, recipe.tune).model_dump(mode="json")
    search = {"train": config, "tune": recipe.tune.model_dump(mode="json")}
    at_once = recipe.tune.concurrent or recipe.tune.size
    needs = Needs(gpus=at_once * (training_needs(recipe.train, there).gpus > 0), cpus=at_once)
    return _step("train", "tune", search, ("dataset", "base"), needs)


def evaluate_step(step: str, config: EvaluateConfig, of: str, depends_on: tuple[str, ...]) -> StepSpec:
    """A step that measures. What its result depends on besides its parents is the files of its tasks, by their sha256.

    Raises:
        OSError: such a file cannot be read.
    """
    exact = config.model_copy(update={"tasks": tuple(map(with_digest, config.tasks))})
    needs = _needs(
        config.resources,
        gpus=math.ceil(config.actors * config.gpus_per_actor),
        cpus=math.ceil(config.actors * config.cpus_per_actor),
    )
    return _step(step, "evaluate", {**exact.model_dump(mode="json"), "of": of}, depends_on, needs)


def with_digest(task: Task) -> Task:
    """With the sha256 of its files. Raises OSError: one cannot be read."""
    if isinstance(task, BenchmarkTask):
        files = {"sha256": task.file, "fewshot_sha256": task.fewshot_file}
        missing = {
            key: path for key, path in files.items() if path is not None and getattr(task, key) is None
        }
        return task.model_copy(update={key: sha256_known(Path(path)) for key, path in missing.items()})
    named = file_of(task)
    if named is None or isinstance(task, str | LmEvalTask) or task.sha256 is not None:
        return task
    return task.model_copy(update={"sha256": sha256_known(Path(named[1]))})


def _with_text_digests(config: QuantizeConfig | CompressConfig) -> QuantizeConfig | CompressConfig:
    """With the sha256 of the files that texts come from. Raises OSError: such a file cannot be read."""
    return config.model_copy(
        update={
            key: section.model_copy(update={"sha256": sha256_known(Path(section.file))})
            for key in ("importance", "calibration", "verify")
            if (section := getattr(config, key, None)) is not None and section.file and section.sha256 is None
        }
    )


def training_needs(use: ClusterUse, there: int) -> Needs:
    """What a run holds of a cluster with `there` GPUs. One that leaves `use_gpu` open takes them when there are enough."""
    gpu = there >= use.least_workers if use.use_gpu is None else use.use_gpu
    return _needs(use.resources, gpus=use.workers if gpu else 0, cpus=use.workers)


def _needs(resources: Resources | None, *, gpus: int = 0, cpus: int = 1) -> Needs:
    if resources is None:
        return Needs(gpus=gpus, cpus=cpus)
    return Needs(gpus=resources.gpus, cpus=cpus, accelerator=resources.accelerator)


def _step(
    step: str, kind: str, config: JsonObject, depends_on: tuple[str, ...], needs: Needs = NOTHING
) -> StepSpec:
    return StepSpec(
        step=step, kind=kind, queue=kind_of(kind).queue, config=config, depends_on=depends_on, needs=needs
    )


def _with_digests(config: JsonObject, keys: tuple[str, ...]) -> JsonObject:
    return config | {f"{key}_sha256": sha256_known(Path(config[key])) for key in keys}


def _fingerprint(directory: Path) -> str:
    """Of names, sizes and times: changes when a file does. The import step digests the bytes themselves."""
    files = [
        [path.relative_to(directory).as_posix(), path.stat().st_size, path.stat().st_mtime_ns]
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    ]
    return hashlib.sha256(canonical_json(files)).hexdigest()
