"""Measured versions as the control plane shows them: compared by example, and in the order of their scores."""

from __future__ import annotations

import math

from sqlalchemy.orm import Session

from raymill.client import evaluation_types as types
from raymill.client.types import Page
from raymill.policies.errors import Invalid, RaymillError
from raymill.policies.statistics import ALPHA
from raymill.registry import comparison
from raymill.registry.artifact_access import Artifacts
from raymill.registry.changed_samples import Answer, ChangedSample, Side, changed_page
from raymill.registry.comparison import Spread, Standing
from raymill.registry.samples import Paired


def compare(session: Session, store: Artifacts, a: str, b: str, task: str | None) -> types.VersionComparison:
    """Raises NotFound, Invalid and Tampered, as `registry/comparison.py` does."""
    one, other = comparison.find_target(session, a), comparison.find_target(session, b)
    files = comparison.files_to_compare(session, one, other, task)
    return types.VersionComparison(
        a=str(one),
        b=str(other),
        alpha=ALPHA,
        tasks=[_task(name, comparison.compare(store, both)) for name, both in sorted(files.items())],
    )


def changed(
    session: Session,
    store: Artifacts,
    targets: tuple[str, str],
    task: str | None,
    better: Side,
    limit: int,
    cursor: str | None,
) -> Page[types.ChangedSample]:
    """Raises NotFound, Invalid and Tampered, as `registry/comparison.py` and `registry/changed_samples.py` do."""
    a, b = (comparison.find_target(session, each) for each in targets)
    files = comparison.files_to_compare(session, a, b, task)
    if len(files) > 1:
        raise Invalid(
            f"{a} and {b} were both measured on {', '.join(sorted(files))}: choose one", param="task"
        )
    (both,) = files.values()
    page = changed_page(store, both, better, limit, cursor)
    return Page(data=list(map(_changed_sample, page.data)), next_cursor=page.next_cursor)


def leaderboard(
    session: Session, store: Artifacts, task: str | None, model: str | None, limit: int
) -> types.Leaderboard:
    """Scores whose samples cannot be read stand without an interval, and say why."""
    found = [_standing(store, each) for each in comparison.standings(session, task, model, limit)]
    # Lower is better where the samples say so; a score without samples is taken for one where higher is.
    found.sort(key=lambda pair: (pair[0].task, pair[0].score * (1 if pair[1] else -1), pair[0].version))
    return types.Leaderboard(standings=[standing for standing, _ in found])


def _task(name: str, paired: Paired) -> types.TaskComparison:
    found = paired.statistics
    return types.TaskComparison(
        task=name,
        verdict=found.verdict,
        mean_a=found.mean_a,
        mean_b=found.mean_b,
        difference=found.difference,
        standard_error=_number(found.standard_error),
        low=found.interval.low,
        high=found.interval.high,
        p_value=found.p_value,
        test=found.test,
        examples=found.examples,
        wins=found.wins,
        losses=found.losses,
        only_a=paired.only_a,
        only_b=paired.only_b,
        asked_differently=paired.asked_differently,
    )


def _changed_sample(sample: ChangedSample) -> types.ChangedSample:
    return types.ChangedSample(
        place=sample.place,
        index=sample.index,
        better="a" if sample.gain > 0 else "b" if sample.gain < 0 else "neither",
        prompt=sample.a.prompt,
        prompt_b=sample.b.prompt if sample.b.prompt != sample.a.prompt else None,
        reference=sample.reference,
        a=_answer(sample.a),
        b=_answer(sample.b),
    )


def _answer(answer: Answer) -> types.SampleAnswer:
    return types.SampleAnswer(
        score=answer.score, answer=answer.text, answers=answer.answers, reason=answer.reason
    )


def _standing(store: Artifacts, standing: Standing) -> tuple[types.Standing, bool]:
    """With whether lower is better."""
    spread, note = _spread(store, standing)
    row = standing.evaluation
    shown = types.Standing(
        task=row.task,
        version=str(standing.target),
        aliases=standing.aliases,
        score=row.score,
        standard_error=_number(spread.standard_error) if spread else None,
        low=spread.interval.low if spread else None,
        high=spread.interval.high if spread else None,
        note=note,
        samples=row.samples,
        dataset=standing.dataset,
        evaluated_at=row.created_at,
        backend=row.backend,
        prompt_tokens=row.prompt_tokens,
        completion_tokens=row.completion_tokens,
        cost_micro_usd=row.cost_micro_usd,
    )
    return shown, spread is not None and not spread.higher_is_better


def _spread(store: Artifacts, standing: Standing) -> tuple[Spread | None, str | None]:
    if isinstance(standing.where, str):
        return None, standing.where
    try:
        spread = comparison.spread(store, standing.where)
    except RaymillError as error:
        return None, str(error)
    if not math.isclose(spread.mean, standing.evaluation.score, rel_tol=1e-6, abs_tol=1e-9):
        return None, f"{standing.evaluation.task} is not the mean of its examples' scores"
    return spread, None


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
