"""Which versions can be compared, on which tasks, and how versions stand on a task.

A target is written `support@3`, `support@production`, `support@3:Q4_K_M` (a quantized file of it), `support@3:base` (what it
was trained from), or as it was measured: `gateway:MODEL`, `https://HOST/v1#MODEL`. What is asked of the database ends before samples are read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import and_, select, union_all
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.orm import Session, joinedload

from raymill.policies.errors import Invalid, NotFound, RaymillError
from raymill.policies.statistics import Interval, score_interval, standard_error
from raymill.registry import samples
from raymill.registry.artifact_access import Artifacts
from raymill.registry.catalog import BASE, find_version, of_recipes
from raymill.registry.samples import Paired, SampleFile
from raymill.registry.tables import (
    Alias,
    Artifact,
    Dataset,
    Evaluation,
    Job,
    Llm,
    LlmVersion,
    Quantization,
)

TARGET = re.compile(
    r"(?P<llm>[a-z0-9][a-z0-9._-]{0,63})@(?P<version>[a-z0-9][a-z0-9._-]{0,63})(:(?P<variant>\w{1,16}))?"
)
REMOTE = ("gateway:", "http://", "https://")
"""How targets begin that are no artifact of ours."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A version, a quantized file of it, or its base."""

    llm: str
    number: int
    variant: str
    """Empty for the version's own weights, `base`, or a quantization type."""

    artifact_name: str
    """What was measured."""

    def __str__(self) -> str:
        return f"{self.llm}@{self.number}" + (f":{self.variant}" if self.variant else "")


@dataclass(frozen=True, kw_only=True)
class RemoteTarget:
    """What was asked over HTTP, under the name by which it was measured."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One version, or remote target, on one task."""

    target: Target | RemoteTarget
    aliases: list[str]
    evaluation: Evaluation
    dataset: str | None
    """Whose held-out rows: name and number."""

    where: SampleFile | str
    """Its samples, or why there are none."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How sure a score is."""

    mean: float
    """Of the examples' scores; not the score where the metric is no mean (pass@10)."""

    standard_error: float
    interval: Interval
    """Of the mean."""

    higher_is_better: bool


def find_target(session: Session, text: str) -> Target | RemoteTarget:
    """Read a target.

    Raises:
        Invalid: it is not written as one.
        NotFound: there is no such model, version, alias or quantized file; the message names what there is. Or it is
            remote, and nobody has measured it.
    """
    if text.startswith(REMOTE):
        return _measured_remote(session, text)
    return find_version_target(session, text)


def find_version_target(session: Session, text: str) -> Target:
    """Of a version, a quantized file or a base. Raises as `find_target`."""
    match = TARGET.fullmatch(text)
    if match is None:
        raise Invalid(
            f"{text!r} is no version: write it as support@3, support@production or support@3:Q4_K_M"
        )
    llm, which, variant = match["llm"], match["version"], match["variant"] or ""
    numbered = which.isdigit() and len(which) < 10
    version = find_version(session, llm, int(which)) if numbered else _aliased(session, llm, which)
    return target_of(session, version, variant)


def target_of(session: Session, version: LlmVersion, variant: str = "") -> Target:
    """Raises NotFound: the version has no such quantized file."""
    name = version.artifact_name
    if variant == BASE:
        name = version.base_artifact_name
    elif variant:
        rows = select(Quantization).where(Quantization.version_id == version.id).order_by(Quantization.id)
        made = {row.type: row.artifact_name for row in session.scalars(rows)}
        if variant not in made:
            there = f"it has {', '.join(made)}" if made else "nothing of it was quantized"
            raise NotFound(f"{version.llm.name}@{version.number} has no {variant} file: {there}")
        name = made[variant]
    return Target(llm=version.llm.name, number=version.number, variant=variant, artifact_name=name)


def measured(
    session: Session, target: Target | RemoteTarget, *, in_recipes: bool = False
) -> dict[str, Evaluation]:
    """Task -> its newest evaluation; with `in_recipes`, of those that recipes asked for."""
    if isinstance(target, RemoteTarget):
        rows = select(Evaluation).where(Evaluation.target == target.name)
    else:
        variant = "" if target.variant == BASE else target.variant
        rows = select(Evaluation).where(
            Evaluation.artifact_name == target.artifact_name, Evaluation.variant == variant
        )
    if in_recipes:
        rows = rows.where(of_recipes())
    return {row.task: row for row in session.scalars(rows.order_by(Evaluation.id))}


def files_to_compare(
    session: Session,
    a: Target | RemoteTarget,
    b: Target | RemoteTarget,
    task: str | None = None,
    *,
    in_recipes: bool = False,
) -> dict[str, tuple[SampleFile, SampleFile]]:
    """Task -> the samples of both, for `task` or for all tasks that both were measured on.

    Raises:
        NotFound: there is no such task, or no samples were kept.
    """
    of_a, of_b = (measured(session, each, in_recipes=in_recipes) for each in (a, b))
    shared = [name for name in of_a if name in of_b and task in (None, name)]
    if not shared:
        raise NotFound(
            f"{a} was measured on {_listed(of_a)} and {b} on {_listed(of_b)}: evaluate both on {task or 'one task'}"
        )
    return {
        name: (
            samples.file_of(session, of_a[name], str(a)),
            samples.file_of(session, of_b[name], str(b)),
        )
        for name in shared
    }


def compare(store: Artifacts, files: tuple[SampleFile, SampleFile]) -> Paired:
    """Read the samples of both, and pair them. Raises as `samples.read` and `samples.pair`."""
    return samples.pair(*(samples.read(store, file) for file in files))


def standings(session: Session, task: str | None, llm: str | None, limit: int) -> list[Standing]:
    """The newest score of each version, quantized file and remote target on each task; of these the `limit` newest.

    Args:
        llm: only of its versions.
    """
    rows = _newest_scores(session, task, llm, limit)
    if llm is None:
        remote: list[tuple[Evaluation, LlmVersion | None]] = [
            (row, None) for row in _newest_remote_scores(session, task, limit)
        ]
        rows = sorted([*rows, *remote], key=lambda pair: pair[0].id, reverse=True)[:limit]
    versions = {version.id for _, version in rows if version is not None}
    aliases: dict[object, list[str]] = {}
    for alias in session.scalars(select(Alias).where(Alias.version_id.in_(versions)).order_by(Alias.name)):
        aliases.setdefault(alias.version_id, []).append(alias.name)
    held = _looked_up([evaluation for evaluation, _ in rows], session)
    found = [
        _standing(session, evaluation, version, aliases.get(version.id, []) if version else [])
        for evaluation, version in rows
    ]
    held.clear()
    return found


def spread(store: Artifacts, where: SampleFile) -> Spread:
    """Raises as `samples.read`."""
    found = samples.read(store, where)
    return Spread(
        mean=float(found.scores.mean()),
        standard_error=standard_error(found.scores),
        interval=score_interval(found.scores),
        higher_is_better=found.higher_is_better,
    )


def _aliased(session: Session, llm: str, alias: str) -> LlmVersion:
    rows = select(Alias).join(Llm, Llm.id == Alias.llm_id).where(Llm.name == llm).order_by(Alias.name)
    there = {row.name: row.version for row in session.scalars(rows)}
    if alias not in there:
        cure = f"it has {', '.join(there)}" if there else "give a version's number, or promote one first"
        raise NotFound(f"{llm!r} has no alias {alias!r}: {cure}")
    return there[alias]


def _listed(tasks: Mapping[str, object]) -> str:
    return ", ".join(tasks) or "nothing"


def _looked_up(rows: Sequence[Evaluation], session: Session) -> list[object]:
    """What each row is asked for by its key, in one query a table: the session has it as long as the list is held."""
    jobs = session.scalars(select(Job).where(Job.id.in_({row.job_id for row in rows}))).all()
    names = {(job.result or {}).get("artifact", "") for job in jobs}
    artifacts = session.scalars(select(Artifact).where(Artifact.name.in_(names))).all()
    datasets = session.scalars(select(Dataset).where(Dataset.id.in_({row.dataset_id for row in rows}))).all()
    return [*jobs, *artifacts, *datasets]


def _newest_scores(
    session: Session, task: str | None, llm: str | None, limit: int
) -> list[tuple[Evaluation, LlmVersion | None]]:
    weights = select(Evaluation.id.label("score"), LlmVersion.id.label("version")).join(
        LlmVersion, and_(LlmVersion.artifact_name == Evaluation.artifact_name, Evaluation.variant == "")
    )
    quantized = select(Evaluation.id, Quantization.version_id).join(
        Quantization,
        and_(Quantization.artifact_name == Evaluation.artifact_name, Quantization.type == Evaluation.variant),
    )
    of = union_all(weights, quantized).subquery()
    key = (LlmVersion.id, Evaluation.variant, Evaluation.task)
    each = (
        select(Evaluation.id.label("score"), LlmVersion.id.label("version"))
        .join(of, of.c.score == Evaluation.id)
        .join(LlmVersion, LlmVersion.id == of.c.version)
        .ext(distinct_on(*key))
        .order_by(*key, Evaluation.id.desc())
    )
    if task is not None:
        each = each.where(Evaluation.task == task)
    if llm is not None:
        each = each.join(Llm, Llm.id == LlmVersion.llm_id).where(Llm.name == llm)
    newest = each.subquery()
    rows = (
        select(Evaluation, LlmVersion)
        .join(newest, newest.c.score == Evaluation.id)
        .join(LlmVersion, LlmVersion.id == newest.c.version)
        .options(joinedload(LlmVersion.llm))
        .order_by(Evaluation.id.desc(), LlmVersion.id)
        .limit(limit)
    )
    return [(evaluation, version) for evaluation, version in session.execute(rows)]


def _newest_remote_scores(session: Session, task: str | None, limit: int) -> Sequence[Evaluation]:
    key = (Evaluation.target, Evaluation.task)
    each = (
        select(Evaluation.id.label("score"))
        .where(Evaluation.target.is_not(None))
        .ext(distinct_on(*key))
        .order_by(*key, Evaluation.id.desc())
    )
    if task is not None:
        each = each.where(Evaluation.task == task)
    newest = each.subquery()
    rows = select(Evaluation).join(newest, newest.c.score == Evaluation.id)
    return session.scalars(rows.order_by(Evaluation.id.desc()).limit(limit)).all()


def _measured_remote(session: Session, text: str) -> RemoteTarget:
    if session.scalar(select(Evaluation.id).where(Evaluation.target == text).limit(1)) is None:
        known = select(Evaluation.target).where(Evaluation.target.is_not(None)).distinct()
        there = list(session.scalars(known.order_by(Evaluation.target).limit(20)))
        said = f"measured were {', '.join(map(str, there))}" if there else "no remote target was measured yet"
        raise NotFound(f"{text!r} was never measured: {said}; `raymill evaluate run {text}` does it")
    return RemoteTarget(name=text)


def _standing(session: Session, row: Evaluation, version: LlmVersion | None, aliases: list[str]) -> Standing:
    target: Target | RemoteTarget
    if version is None:
        target = RemoteTarget(name=str(row.target))
    else:
        target = Target(
            llm=version.llm.name,
            number=version.number,
            variant=row.variant,
            artifact_name=str(row.artifact_name),
        )
    dataset = session.get(Dataset, row.dataset_id) if row.dataset_id is not None else None
    where: SampleFile | str
    try:
        where = samples.file_of(session, row, str(target))
    except RaymillError as error:
        where = str(error)
    return Standing(
        target=target,
        aliases=aliases,
        evaluation=row,
        dataset=f"{dataset.name}@{dataset.number}" if dataset is not None else None,
        where=where,
    )
