"""Values for trials: drawn at random, from a grid, or moved a little. Pure; knows no Ray and no Optuna.

What trial `number` tries follows from the seed and its number alone, so a search that was interrupted draws the same
again.
"""

from __future__ import annotations

import math
import random
from itertools import islice
from typing import Any

from raymill.tune.config import Range, TuneConfig, Values, grid

STEP_FACTORS = (0.8, 1.25)
"""By one of these a number is moved when a trial takes over another's values."""

RESAMPLE = 0.25
"""How often a value is drawn anew then instead."""


def rng_of(seed: int, number: int) -> random.Random:
    return random.Random(f"{seed}/{number}")


def draw(config: TuneConfig, number: int) -> Values:
    """The values of trial `number`, counted from 1, where they do not depend on other trials."""
    if config.search == "grid":
        return next(islice(grid(config), number - 1, None))
    rng = rng_of(config.seed, number)
    return {path: one(values, rng) for path, values in config.over.items()}


def one(values: Range, rng: random.Random) -> Any:
    if values.choice is not None:
        return rng.choice(values.choice)
    assert values.bounds is not None
    low, high = values.bounds
    if values.is_log:
        # Half a unit more on both sides, so that the ends are as likely as whole numbers between.
        wider = 0.5 if values.is_whole else 0.0
        drawn = math.exp(rng.uniform(math.log(low - wider), math.log(high + wider)))
    elif values.is_whole:
        return rng.randint(int(low), int(high))
    else:
        drawn = rng.uniform(low, high)
    return fit(values, drawn)


def fit(values: Range, value: float) -> float | int:
    """The nearest value that the range has."""
    assert values.bounds is not None
    low, high = values.bounds
    kept = min(max(value, low), high)
    return round(kept) if values.is_whole else kept


def explore(config: TuneConfig, values: Values, rng: random.Random) -> Values:
    """Values near those of a good trial (Jaderberg et al. 2017, "Population Based Training of Neural Networks")."""
    return {path: _near(config.over[path], value, rng) for path, value in values.items()}


def _near(values: Range, value: Any, rng: random.Random) -> Any:
    if rng.random() < RESAMPLE:
        return one(values, rng)
    if values.choice is None:
        return fit(values, value * rng.choice(STEP_FACTORS))
    at = values.choice.index(value) + rng.choice((-1, 1))
    return values.choice[min(max(at, 0), len(values.choice) - 1)]
