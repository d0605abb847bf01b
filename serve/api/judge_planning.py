"""From what a judge is asked to do to the step that does it: whose samples, of which evaluation."""

from __future__ import annotations

import uuid
from dataclasses import asdict
from pathlib import Path

from sqlalchemy.orm import Session

from raymill.cluster.kinds import kind_of
from raymill.evaluate.judge_config import Judgement, LabelsConfig
from raymill.evaluate.target_config import remote_of
from raymill.policies.errors import Invalid, NotFound
from raymill.registry import comparison, samples
from raymill.registry.artifacts import sha256_file
from raymill.registry.catalog import BASE
from raymill.registry.comparison import RemoteTarget, Target
from raymill.registry.jobs import StepSpec
from raymill.registry.tables import JsonObject
from raymill.serve.api.target_planning import Plan, name_of

STEP = "judge"


def plan_judgement(opened: Session, asked: Judgement) -> Plan:
    """
    Raises:
        NotFound: a target is not there, was not measured on the task, or its samples were not kept.
        Invalid: the file of labels is not there.
    """
    targets = [comparison.find_target(opened, each) for each in (asked.a, asked.b) if each is not None]
    files = [_samples(opened, target, asked.task) for target in targets]
    exact = asked.model_copy(
        update={"a": str(targets[0]), "b": str(targets[1]) if asked.b else None, "labels": _labels(asked)}
    )
    config: JsonObject = {
        "a": asdict(files[0]),
        "b": asdict(files[1]) if asked.b else None,
        "of": _of(targets[0]),
        "judgement": exact.model_dump(mode="json"),
        "ask": asked.ask.model_dump(mode="json"),
        "key_env": asked.key_env,
        "run": uuid.uuid4().hex,
    }
    name = targets[0].llm if isinstance(targets[0], Target) else _remote_name(targets[0])
    return Plan(name, StepSpec(step=STEP, kind="judge", queue=kind_of("judge").queue, config=config))


def _samples(opened: Session, target: Target | RemoteTarget, task: str) -> samples.SampleFile:
    measured = comparison.measured(opened, target)
    if task not in measured:
        there = ", ".join(measured) or "nothing"
        raise NotFound(
            f"{target} was measured on {there}: evaluate it on {task} first, a judge reads what is kept"
        )
    return samples.file_of(opened, measured[task], str(target))


def _labels(asked: Judgement) -> LabelsConfig | None:
    if asked.labels is None:
        return None
    path = Path(asked.labels.file)
    if not path.is_absolute() or not path.is_file():
        raise Invalid(f"labels.file: no such file: {path}: give its absolute path", param="labels.file")
    return asked.labels.model_copy(update={"sha256": asked.labels.sha256 or sha256_file(path)})


def _of(target: Target | RemoteTarget) -> JsonObject:
    """Whose score a rubric's is."""
    if isinstance(target, RemoteTarget):
        return {"artifact": None, "target": target.name, "variant": ""}
    variant = "" if target.variant == BASE else target.variant
    return {"artifact": target.artifact_name, "target": None, "variant": variant}


def _remote_name(target: RemoteTarget) -> str:
    remote = remote_of(target.name)
    return name_of(remote.model if remote is not None else target.name)
