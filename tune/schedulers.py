"""Who goes on and who is stopped: Ray Tune's schedulers, told of what happened before this process.

A scheduler that begins anew in the middle of a search would let weak trials through the rungs that it has forgotten.
"""

from __future__ import annotations

import warnings
from typing import Any, assert_never

from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)

from raymill.registry.tables import TrialState
from raymill.registry.trials import TrialRecord
from raymill.tune.config import TuneConfig
from raymill.tune.recorder import trial_id
from raymill.tune.space import explore, rng_of
from raymill.tune.trial import STEPS

QUANTILE = 0.25
"""pbt: the share that takes over from others, and the share that it takes over from."""


def scheduler_of(config: TuneConfig, *, most_steps: int, grace: int) -> TrialScheduler:
    """
    Args:
        most_steps: of the longest trial.
        grace: steps before the first decision.
    """
    told = {"time_attr": STEPS, "metric": config.metric, "mode": "min"}
    grace = min(grace, most_steps)
    match config.scheduler:
        case "none":
            return FIFOScheduler()
        case "asha":
            return AsyncHyperBandScheduler(
                **told, max_t=most_steps, grace_period=grace, reduction_factor=config.reduction
            )
        case "median":
            return MedianStoppingRule(**told, grace_period=grace)
        case "pbt":
            rng = rng_of(config.seed, 0)
            return PopulationBasedTraining(
                **told,
                perturbation_interval=grace,
                quantile_fraction=QUANTILE,
                custom_explore_fn=lambda values: explore(config, values, rng),
                log_config=False,
            )
    assert_never(config.scheduler)


class Past:
    """A trial that an earlier process ran, as schedulers look at one."""

    def __init__(self, number: int) -> None:
        self.trial_id = trial_id(number)


class Nobody:
    """A controller without trials."""

    def get_live_trials(self) -> list[Any]:
        return []


def remind(scheduler: TrialScheduler, records: list[TrialRecord], metric: str) -> None:
    """Let a fresh scheduler see what trials have reported; what it decides now was decided then."""
    if isinstance(scheduler, PopulationBasedTraining):
        return  # it goes by how its members do now
    for record in records:
        if record.state is TrialState.FAILED or not record.reports:
            continue
        if not record.state.over and not isinstance(scheduler, AsyncHyperBandScheduler):
            continue  # only asha knows by its id the trial that goes on; another would count it twice
        past = Past(record.number)
        scheduler.on_trial_add(Nobody(), past)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for report in record.reports:
                seen = {STEPS: report[STEPS], metric: report[metric]}
                scheduler.on_trial_result(Nobody(), past, seen)
