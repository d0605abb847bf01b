"""What the bound `not_significantly_worse_than: ALIAS` asks of a promotion: a comparison with the version there now.

    asked    which comparisons a promotion's bounds ask for, and where their samples lie
    judged   the comparisons, as the policy is shown them

Decides nothing: `policies/promotion.rego` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from raymill.policies.errors import RaymillError
from raymill.registry.artifact_access import Artifacts
from raymill.registry.artifacts import Tampered
from raymill.registry.comparison import compare, files_to_compare, target_of
from raymill.registry.samples import SampleFile
from raymill.registry.tables import Alias, JsonObject, LlmVersion

BOUND = "not_significantly_worse_than"


@dataclass(frozen=True, kw_only=True)
class Rival:
    """The version that an alias names, with which another is compared on one task."""

    task: str
    alias: str
    version: int | None
    """None: no other version is there, and there is nothing to compare with."""

    files: tuple[SampleFile, SampleFile] | None = None
    """Samples of the version to promote and of the rival."""

    problem: str = ""
    """Why they cannot be compared."""


def asked(session: Session, version: LlmVersion, require: Mapping[str, Any]) -> tuple[Rival, ...]:
    """A rival for each bound that names an alias. What is no alias is left to the policy to refuse."""
    bounds = {task: each.get(BOUND) for task, each in require.items() if isinstance(each, dict)}
    return tuple(
        _rival(session, version, task, alias) for task, alias in bounds.items() if isinstance(alias, str)
    )


def judged(store: Artifacts, rivals: tuple[Rival, ...]) -> JsonObject:
    """Task -> alias, version and verdict; with it the numbers, or the problem.

    Raises:
        Tampered: samples are not what was registered.
    """
    return {rival.task: _judged(store, rival) for rival in rivals}


def _rival(session: Session, version: LlmVersion, task: str, alias: str) -> Rival:
    row = session.scalar(select(Alias).where(Alias.llm_id == version.llm_id, Alias.name == alias))
    if row is None or row.version_id == version.id:
        return Rival(task=task, alias=alias, version=None)
    ours, theirs = target_of(session, version), target_of(session, row.version)
    try:
        files = files_to_compare(session, ours, theirs, task, in_recipes=True)[task]
    except RaymillError as error:
        return Rival(task=task, alias=alias, version=theirs.number, problem=str(error))
    return Rival(task=task, alias=alias, version=theirs.number, files=files)


def _judged(store: Artifacts, rival: Rival) -> JsonObject:
    about = {"alias": rival.alias, "version": rival.version}
    if rival.version is None:
        return {**about, "verdict": "no rival"}
    if rival.files is None:
        return {**about, "verdict": "unknown", "problem": rival.problem}
    try:
        paired = compare(store, rival.files)
    except Tampered:
        raise
    except RaymillError as error:
        return {**about, "verdict": "unknown", "problem": str(error)}
    found = paired.statistics
    numbers = {
        "score": found.mean_a, "rival_score": found.mean_b, "difference": found.difference,
        "low": found.interval.low, "high": found.interval.high, "p_value": found.p_value,
    }  # fmt: skip
    return {
        **about,
        "verdict": found.verdict,
        # Six digits are more than samples tell, and Rego reads no denormal number.
        **{name: round(value, 6) for name, value in numbers.items()},
        "examples": found.examples,
        "only_here": paired.only_a,
        "only_there": paired.only_b,
    }
