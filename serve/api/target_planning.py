"""From what is asked of a target to the step that measures it.

What has no digest (an endpoint, a route) may answer otherwise tomorrow, so each step is one of its own: none stands for
another.
"""

from __future__ import annotations

import re
import uuid
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from raymill.client.recipe import check_task_files
from raymill.cluster.kinds import kind_of
from raymill.evaluate.compress_config import COMPRESSED_TYPES
from raymill.evaluate.config import EvaluateConfig, is_heldout, label_of, runs_on_files
from raymill.evaluate.target_config import TargetEvaluation, remote_of
from raymill.policies.errors import Invalid
from raymill.registry import datasets
from raymill.registry.catalog import BASE, find_version
from raymill.registry.comparison import find_version_target
from raymill.registry.jobs import StepSpec
from raymill.registry.provider_settings import checked_base_url
from raymill.registry.tables import Dataset, JsonObject, LlmVersion, Quantization
from raymill.serve.api.planning import with_digest

STEP = "evaluate"


class Plan(NamedTuple):
    """A pipeline of one step."""

    name: str
    step: StepSpec


def plan_target(opened: Session, asked: TargetEvaluation) -> Plan:
    """
    Raises:
        Invalid: a file is not there, held-out rows are asked for and no data set is named, or a GGUF file cannot do a task.
        NotFound: no such version, file or data set.
    """
    check_task_files(asked.tasks)
    version, name, target = _version(opened, asked)
    rows = _rows(opened, asked, version)
    exact = asked.model_copy(update={"tasks": tuple(map(with_digest, asked.tasks))})
    config: JsonObject = {
        "target": target,
        "version": version,
        "dataset": datasets.result_of(rows) if rows is not None else None,
        "evaluate": exact.model_dump(mode="json", include=set(EvaluateConfig.model_fields)),
        "ask": asked.ask.model_dump(mode="json"),
        "key_env": asked.key_env,
        "run": uuid.uuid4().hex,
    }
    kind = "evaluate_target"
    return Plan(name, StepSpec(step=STEP, kind=kind, queue=kind_of(kind).queue, config=config))


def name_of(model: str) -> str:
    """A model's name where the names of ours stand: in lists, and as a folder."""
    return re.sub(r"[^a-z0-9._-]+", "-", model.lower()).strip("-._")[:64] or "target"


def _version(opened: Session, asked: TargetEvaluation) -> tuple[JsonObject | None, str, str]:
    """What the step must know of a version, None for a remote target; the pipeline's name; the target as it is kept."""
    remote = remote_of(asked.target)
    if remote is not None:
        url = None if remote.url is None else checked_base_url(remote.url)
        return None, name_of(remote.model), asked.target if url is None else f"{url}#{remote.model}"
    target = find_version_target(opened, asked.target)
    row = find_version(opened, target.llm, target.number)
    file = ""
    if target.variant not in {"", BASE, *COMPRESSED_TYPES}:
        file = _file(opened, row, target.variant)
        for task in asked.tasks:
            if not runs_on_files(task):
                raise Invalid(
                    f"{label_of(task)} is not run on GGUF files: measure it on {target.llm}@{target.number}, or by "
                    "gateway: on the served file",
                    param="tasks",
                )
    version: JsonObject = {
        "llm": target.llm,
        "number": target.number,
        "artifact": target.artifact_name,
        "variant": target.variant,
        "file": file,
        "tokenizer": row.artifact_name,
        "dataset": [row.dataset.name, row.dataset.number],
    }
    return version, target.llm, str(target)


def _file(opened: Session, version: LlmVersion, kind: str) -> str:
    rows = select(Quantization.file).where(Quantization.version_id == version.id, Quantization.type == kind)
    return opened.scalars(rows.order_by(Quantization.id.desc()).limit(1)).one()


def _rows(opened: Session, asked: TargetEvaluation, version: JsonObject | None) -> Dataset | None:
    """Whose held-out rows are asked; None where no task judges any."""
    if not any(map(is_heldout, asked.tasks)):
        return None
    if asked.dataset is not None:
        name, _, number = asked.dataset.partition("@")
        row = datasets.find(opened, name, int(number) if number else None)
    elif version is not None:
        row = datasets.find(opened, *version["dataset"])
    else:
        task = next(label_of(task) for task in asked.tasks if is_heldout(task))
        raise Invalid(
            f"{task} judges answers to held-out rows, and {asked.target} has none of its own: name a data set",
            param="dataset",
        )
    if not row.test_rows:
        raise Invalid(
            f"data set {row.name}@{row.number} holds no rows out: name one that does", param="dataset"
        )
    return row
