"""Wire types of what is measured: `/api/v1/evaluations`. A target is written `support@3`, `support@3:Q8_0`, `gateway:MODEL`
or `https://HOST/v1#MODEL`."""

from __future__ import annotations

import datetime as dt
from typing import Literal

from raymill.client.types import Wire

Verdict = Literal["better", "worse", "no evidence"]
Side = Literal["a", "b", "either", "neither"]
"""Who did better on an example: one of the two, either of them, or neither, and yet their answers differ."""


class TaskComparison(Wire):
    """A against B on the examples of one task that both were asked."""

    task: str
    verdict: Verdict
    """On A. better and worse: p_value is below `alpha`."""
    mean_a: float
    mean_b: float
    difference: float
    """mean_a - mean_b."""
    standard_error: float | None
    """Of the difference; null for one example."""
    low: float
    """Lower end of the interval of the difference, at level 1 - alpha."""
    high: float
    p_value: float
    """Two-sided."""
    test: Literal["mcnemar", "paired bootstrap"]
    """mcnemar: every score is 0 or 1."""
    examples: int
    """That both were asked."""
    wins: int
    """Examples on which A does better."""
    losses: int
    only_a: int
    """Examples that only A was asked: they count for nothing here."""
    only_b: int
    asked_differently: int
    """Examples that the two were asked in different words, as their templates have it."""


class VersionComparison(Wire):
    a: str
    b: str
    alpha: float
    tasks: list[TaskComparison]


class SampleAnswer(Wire):
    """What one of the two made of an example."""

    score: float
    answer: str | None
    """Null where the task keeps none (perplexity). Of lm-eval's tasks a JSON list, as its filter left it."""
    answers: int
    """That were scored; `answer` is the first of them."""
    reason: str | None
    """Why it scored so, where the task tells."""


class ChangedSample(Wire):
    """An example of a task that A and B did not answer alike."""

    place: int
    """In A's samples, from 0."""
    index: int | None
    """In the data of the task; null in samples that do not tell."""
    better: Literal["a", "b", "neither"]
    prompt: str
    """As A was asked."""
    prompt_b: str | None
    """As B was asked, where that was in different words."""
    reference: str
    """What should be answered."""
    a: SampleAnswer
    b: SampleAnswer


class Standing(Wire):
    """The newest score of a version, of a quantized file of it, or of a remote target, on a task."""

    task: str
    version: str
    """Or the remote target, as it was measured."""
    aliases: list[str]
    score: float
    standard_error: float | None
    low: float | None
    """Lower end of the 95 % interval of the score."""
    high: float | None
    note: str | None
    """Why there is no interval."""
    samples: int
    dataset: str | None
    """Whose held-out rows; scores on different ones are not of the same examples."""
    evaluated_at: dt.datetime
    backend: str | None = None
    """What the target was asked for, generation or log-likelihood; null in a recipe."""
    prompt_tokens: int | None = None
    """Of a remote target, as it told them; null otherwise. Tasks that judge the same answers have the same."""
    completion_tokens: int | None = None
    cost_micro_usd: int | None = None
    """Of these answers; null where nobody tells it."""


class Leaderboard(Wire):
    standings: list[Standing]
    """By task, the best first."""
