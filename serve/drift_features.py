"""What is looked at of a kept request, and how two samples of such differ. Pure.

Lengths are characters of what people wrote and were answered, and tokens as the usage record counts them. The reason for
an answer's end is kept of whole answers, not of streams; it is in the words of the wire it came by.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from raymill.policies.drift import Levels, Shift, shift_of_categories, shift_of_numbers
from raymill.registry.drift_config import Traffic
from raymill.registry.traffic import Kept
from raymill.serve.traffic_rows import exchange
from raymill.train.languages import language_of

NUMBERS = ("prompt_characters", "prompt_tokens", "answer_characters", "answer_tokens")
CATEGORIES = ("finish_reason", "language")
LEAST_CATEGORIES = 30
"""Values that a category needs in each window: a stream has no reason for its end."""


class Sample(NamedTuple):
    """One request."""

    prompt_characters: int
    prompt_tokens: int
    answer_characters: int
    answer_tokens: int
    finish_reason: str | None
    language: str
    """Of the newest question; ISO 639-1, or `other`."""


def sample_of(kept: Kept) -> Sample:
    """
    Raises:
        LeftOut: it was too long to be kept, or is no conversation.
    """
    found = exchange(kept)
    asked = [str(turn["content"]) for turn in found.messages if turn["role"] == "user"]
    return Sample(
        prompt_characters=sum(len(str(turn["content"])) for turn in found.messages),
        prompt_tokens=kept.prompt_tokens,
        answer_characters=len(str(found.answer.get("content") or "")),
        answer_tokens=kept.completion_tokens,
        finish_reason=_reason(kept.operation, kept.answer),
        language=language_of(asked[-1]),
    )


def shifts_of(reference: Sequence[Sample], recent: Sequence[Sample], traffic: Traffic) -> list[Shift]:
    """Each feature's, the largest PSI first. Both have some requests."""
    levels = Levels(
        minor=traffic.minor,
        major=traffic.major,
        alpha=traffic.alpha / (len(NUMBERS) + len(CATEGORIES)),
    )
    found = [
        shift_of_numbers(
            name,
            *(np.array([getattr(one, name) for one in of], dtype=np.float64) for of in (reference, recent)),
            levels=levels,
        )
        for name in NUMBERS
    ]
    for name in CATEGORIES:
        values = [
            [value for one in of if (value := getattr(one, name)) is not None] for of in (reference, recent)
        ]
        if min(map(len, values)) >= LEAST_CATEGORIES:
            found.append(shift_of_categories(name, *values, levels=levels))
    return sorted(found, key=lambda shift: -shift.psi)


def tell(shift: Shift) -> str:
    """A shift in a few words."""
    name = shift.feature.replace("_", " ")
    if shift.reference_shares is None or shift.recent_shares is None:
        return (
            f"{name}: PSI {shift.psi:.2f}, mean {shift.reference_mean:.4g} to {shift.recent_mean:.4g} "
            f"(KS {shift.ks:.2f}, p {shift.p_value:.2g})"
        )
    before, now = shift.reference_shares, shift.recent_shares
    most = max(now, key=lambda kind: abs(now[kind] - before[kind]))
    return f"{name}: PSI {shift.psi:.2f}, {most} {before[most]:.0%} to {now[most]:.0%}"


def _reason(operation: str, answer: dict[str, Any]) -> str | None:
    body = answer.get("body")
    if not isinstance(body, dict):
        return None
    match operation:
        case "messages":
            reason = body.get("stop_reason")
        case "responses":
            reason = body.get("status")
        case _:
            reason = body["choices"][0].get("finish_reason")
    return str(reason) if reason else None
