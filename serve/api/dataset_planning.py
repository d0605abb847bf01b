"""From what is asked of a data set to the step that makes it.

The step's configuration holds what its result depends on: files by their digest, and the evaluation sets that the
rows are held against, so that a new one of these makes the comparison anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from sqlalchemy.orm import Session

from raymill.client.recipe import Recipe
from raymill.cluster.kinds import kind_of
from raymill.policies.errors import Invalid
from raymill.registry import datasets
from raymill.registry.artifacts import sha256_known
from raymill.registry.jobs import StepSpec
from raymill.registry.tables import JsonObject
from raymill.train.dataset_config import DatasetSource, files_of

STEP = "dataset"


def recipe_dataset(opened: Session, recipe: Recipe) -> StepSpec:
    """The data set step of a recipe: one that makes it, or one that stands for a registered set.

    Raises:
        NotFound: no such set is registered.
        Invalid: nothing can be trained on it, or it has no held-out rows and the recipe needs some.
    """
    asked = recipe.dataset
    if asked.name is None:
        config = asked.model_dump(mode="json", include=set(DatasetSource.model_fields))
        return plan_dataset(opened, recipe.model, config)
    row = datasets.find(opened, asked.name, asked.version)
    if row.purpose != "training":
        raise Invalid(
            f"data set {row.name} is there to be measured with: name one that was added for training",
            param="dataset.name",
        )
    if not row.test_rows and (recipe.evaluate or recipe.quantize or recipe.compress):
        raise Invalid(
            f"data set {row.name} version {row.number} holds no rows out: add it with --test or --split, or leave "
            "evaluate, quantize and compress out",
            param="dataset.name",
        )
    return _step({"registered": datasets.result_of(row)})


def plan_dataset(
    opened: Session, name: str, asked: JsonObject, digests: Mapping[str, str] | None = None
) -> StepSpec:
    """A step that makes a data set of files.

    Args:
        asked: `DatasetSource` as JSON, and `purpose`.
        digests: path -> sha256 of files whose content is known already.
    """
    return _step(job_config(opened, name, asked, digests or {}))


def plan_traffic(opened: Session, name: str, asked: JsonObject) -> list[StepSpec]:
    """The steps that make a set of kept requests: read them, then what any data set goes through."""
    source = {key: asked[key] for key in ("split", "duplicates", "contamination")}
    form = "preference" if asked["rows_as"] == "preferences" else "messages"
    dataset = _step(job_config(opened, name, {**source, "format": form}, {}))
    traffic = StepSpec(
        step="traffic", kind="traffic", queue=kind_of("traffic").queue, config={"traffic": asked}
    )
    return [traffic, replace(dataset, depends_on=("traffic",))]


def job_config(opened: Session, name: str, asked: JsonObject, digests: Mapping[str, str]) -> JsonObject:
    """The configuration of the job: files with their digests, what was asked for, and what to keep away from."""
    usual = {"purpose": "training", "duplicates": "keep", "allow_bad_rows": False}
    config = {key: value for key, value in asked.items() if value is not None and usual.get(key) != value}

    def digest(path: str) -> str:
        return digests.get(path) or sha256_known(Path(path))

    train = files_of(asked.get("train"))
    if train:
        known = [digest(path) for path in train]
        config["train_sha256"] = known[0] if isinstance(asked["train"], str) else known
    if asked.get("test") is not None:
        config["test_sha256"] = digest(asked["test"])
    if asked.get("purpose") != "evaluation":
        config["against"] = datasets.evaluation_sets(opened, but=name)
    return config


def _step(config: JsonObject) -> StepSpec:
    return StepSpec(step=STEP, kind="dataset", queue=kind_of("dataset").queue, config=config)
