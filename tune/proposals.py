"""Who says what the next trial tries: a list of draws, or Optuna. Knows no Ray.

Both can be told of trials that an earlier process ran, and then go on as if they had proposed them themselves.
Trials are counted from 1; losses are to be small.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Protocol

from raymill.tune.config import Range, TuneConfig, Values
from raymill.tune.space import draw

if TYPE_CHECKING:
    import optuna


class Proposals(Protocol):
    """Asked for one trial after the other, and told how each goes."""

    def next(self, number: int) -> Values:
        """What trial `number` tries."""
        ...

    def known(self, number: int, values: Values) -> None:
        """Trial `number` was proposed by an earlier process."""
        ...

    def reported(self, number: int, steps: int, loss: float) -> None: ...

    def ended(self, number: int, loss: float | None, *, stopped: bool) -> None:
        """It is over; `loss` is None when it failed, `stopped` when it was not trained to its end."""
        ...


def proposals(config: TuneConfig) -> Proposals:
    return TpeProposals(config) if config.search == "optuna" else Draws(config)


class Draws:
    """Random or grid: no trial depends on another."""

    def __init__(self, config: TuneConfig) -> None:
        self._config = config

    def next(self, number: int) -> Values:
        return draw(self._config, number)

    def known(self, number: int, values: Values) -> None:
        """Nothing follows from it."""

    def reported(self, number: int, steps: int, loss: float) -> None:
        """Nothing follows from it."""

    def ended(self, number: int, loss: float | None, *, stopped: bool) -> None:
        """Nothing follows from it."""


class TpeProposals:
    """Optuna's tree-structured Parzen estimator (Bergstra et al. 2011). A trial that runs counts as a bad one, so that
    those beside it look elsewhere."""

    def __init__(self, config: TuneConfig) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._config = config
        self._spaces = {path: _distribution(values) for path, values in config.over.items()}
        with warnings.catch_warnings():
            # `constant_liar` may change in a release of Optuna's; the release is pinned.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(seed=config.seed, constant_liar=True)
        self._study = optuna.create_study(sampler=sampler, direction="minimize")
        self._running: dict[int, optuna.Trial] = {}

    def next(self, number: int) -> Values:
        trial = self._running[number] = self._study.ask(self._spaces)
        return {path: self._decoded(path, trial.params[path]) for path in self._spaces}

    def known(self, number: int, values: Values) -> None:
        self._study.enqueue_trial({path: self._encoded(path, value) for path, value in values.items()})
        self._running[number] = self._study.ask(self._spaces)

    def reported(self, number: int, steps: int, loss: float) -> None:
        trial = self._running.get(number)
        # A trial that lost its process reports some steps again.
        if trial is not None and steps not in self._study.trials[trial.number].intermediate_values:
            trial.report(loss, steps)

    def ended(self, number: int, loss: float | None, *, stopped: bool) -> None:
        from optuna.trial import TrialState

        trial = self._running.pop(number, None)
        if trial is None:
            return
        if loss is None:
            self._study.tell(trial, state=TrialState.FAIL)
        elif stopped:
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, loss)

    def _encoded(self, path: str, value: Any) -> Any:
        """Choices travel by their place, for Optuna takes no lists or sections."""
        choice = self._config.over[path].choice
        return value if choice is None else list(choice).index(value)

    def _decoded(self, path: str, value: Any) -> Any:
        choice = self._config.over[path].choice
        return value if choice is None else choice[value]


def _distribution(values: Range) -> optuna.distributions.BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if values.choice is not None:
        return CategoricalDistribution(range(len(values.choice)))
    assert values.bounds is not None
    low, high = values.bounds
    if values.is_whole:
        return IntDistribution(int(low), int(high), log=values.is_log)
    return FloatDistribution(low, high, log=values.is_log)
