"""Arithmetic of `make bench-train`: rates without warm-up, phases of a start, FLOPs and MFU. Pure.

Units: seconds, tokens without padding, FLOP.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from benchmarks.goals import Goal

PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}
"""Dense bf16 FLOP/s by a part of the device's name."""

FORMULA = (
    "MFU = tokens/s x FLOPs a token / dense bf16 peak; FLOPs a token = 6 N + 12 L H Q T, with adapters "
    "4 N + 6 A + 12 L H Q T; N parameters that multiply a token, A of adapters, L layers, H heads, Q a head's width, "
    "T tokens of an example"
)
"""Of `mfu` and `flops_per_token`, in words."""

GOALS = (
    Goal("ratios.vs_bare_trl", ">=", 0.97),
    Goal("ratios.packing_vs_padding", ">=", 2.0),
    Goal("warm_first_step_s", "<=", 20.0),
    Goal("asha_steps_share", "<=", 0.40),
    Goal("asha_excess", "<=", 0.02),
    Goal("gpu.full_1b.mfu", ">=", 0.45),
    Goal("gpu.lora_8b.tokens_per_s", ">=", 12_500.0),
)

PHASES = ("claimed", "process", "imports", "tokenized", "workers", "engine", "first_step")
"""Of a start, in their order. What each is the time of: until a slot of the engine was free; until the job's
process ran; until it had imported what its work needs; until the rows were ids; until the first worker ran; until
the model was built and its optimiser stood; the first step."""


class Step(NamedTuple):
    """One optimiser update, as its side measured it."""

    tokens: int
    seconds: float


class Mark(NamedTuple):
    """Something a job said, and when: seconds since 1970."""

    kind: str
    data: Mapping[str, Any]
    at_s: float


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the FLOPs of a Llama follow from."""

    parameters: int
    """Those that multiply each token: all but the input embeddings where those are a table of their own."""

    layers: int
    heads: int
    head_dim: int
    example_tokens: int
    """Tokens that attend to one another; of packed rows those of an example, not of the row."""

    adapters: int = 0
    """Parameters of adapters, when they alone are trained."""


def steady_rate(steps: Sequence[Step], warmup: int) -> float:
    """Tokens a second after the first `warmup` steps.

    Raises:
        ValueError: no step is left.
    """
    steady = steps[warmup:]
    if not steady:
        raise ValueError(f"{len(steps)} steps and {warmup} of them warm-up: nothing is left to measure")
    return sum(step.tokens for step in steady) / sum(step.seconds for step in steady)


def phases(marks: Sequence[Mark], submitted_at_s: float) -> dict[str, float]:
    """Seconds of each phase from the submission to the end of the first step; their sum is `total`.

    Raises:
        ValueError: a job that took no step, or does not say how it got there.
    """
    ends: dict[str, float] = {}
    for mark in marks:
        name = _phase_that_ends(mark)
        if name is not None:
            ends.setdefault(name, mark.at_s)
    missing = [name for name in PHASES if name not in ends]
    if missing:
        raise ValueError(f"the job says nothing of {', '.join(missing)}")
    found: dict[str, float] = {}
    before = submitted_at_s
    for name in PHASES:
        found[name] = round(ends[name] - before, 3)
        before = ends[name]
    return found | {"total": round(before - submitted_at_s, 3)}


def _phase_that_ends(mark: Mark) -> str | None:
    by_phase = {"tokenize": "imports", "start workers": "tokenized", "train": "engine"}
    match mark.kind:
        case "state" if mark.data.get("state") == "running":
            return "claimed"
        case "process":
            return "process"
        case "phase":
            return by_phase.get(str(mark.data.get("name")))
        case "worker" if mark.data.get("rank") == 0:
            return "workers"
        case "step":
            return "first_step"
        case _:
            return None


def medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of each number that all rounds have."""
    if not rounds:
        return {}
    names = [name for name in rounds[0] if all(name in each for each in rounds)]
    return {name: round(statistics.median(each[name] for each in rounds), 3) for name in names}


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """Median over median; None when one side was not measured."""
    if not ours or not theirs:
        return None
    return round(statistics.median(ours) / statistics.median(theirs), 3)


def flops_per_token(shape: Shape) -> float:
    """Of forward and backward pass together, as PaLM's appendix B counts: 6 N + 12 L H Q T.

    2 N of the forward pass, 2 N for the gradients of activations and 2 N for those of weights; attention's scores
    and sums are 12 L H Q T, not halved for the causal mask. With adapters alone trained the base has no gradients of
    weights: 4 N + 6 A + 12 L H Q T. What gradient checkpointing computes again is not counted.
    """
    weights = 6 * shape.parameters
    if shape.adapters:
        weights = 4 * shape.parameters + 6 * shape.adapters
    return weights + 12 * shape.layers * shape.heads * shape.head_dim * shape.example_tokens


def mfu(tokens_per_s: float, shape: Shape, device: str) -> float | None:
    """Share of the device's dense bf16 peak; None for a device whose peak is not listed."""
    peak = next((flops for name, flops in PEAK_FLOPS.items() if name in device), None)
    return None if peak is None else round(tokens_per_s * flops_per_token(shape) / peak, 4)
