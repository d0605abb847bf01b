"""Ray Tune's view of a search: which trial is next. A `SearchAlgorithm` of our own, for Tune's wrapping of searchers
gives trials random ids and refuses population based training.

A trial keeps its id from process to process, so what schedulers know of it stays true.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.search import SearchAlgorithm

from raymill.cluster.context import JsonObject
from raymill.registry.tables import TrialState
from raymill.registry.trials import TrialRecord
from raymill.tune.config import TuneConfig
from raymill.tune.proposals import Proposals
from raymill.tune.recorder import Recorder, trial_id
from raymill.tune.trial import STEPS


class TrialSource(SearchAlgorithm):  # type: ignore[misc]
    """Trials that an earlier process left running come first, then new ones up to the size of the search."""

    def __init__(
        self, config: TuneConfig, recorder: Recorder, proposals: Proposals, root: Path, concurrent: int
    ) -> None:
        self._config = config
        self._recorder = recorder
        self._proposals = proposals
        self._root = root
        self._concurrent = concurrent
        self._metric = config.metric
        self._left = [r.number for r in recorder.records.values() if not r.state.over]
        self._left += range(len(recorder.records) + 1, config.size + 1)
        self._live: set[str] = set()
        self._make: Callable[..., Trial] | None = None
        for record in recorder.records.values():
            tell_known(proposals, record, config.metric)

    @property
    def total_samples(self) -> int:
        return len(self._left)

    def add_configurations(self, experiments: Any) -> None:
        (experiment,) = experiments
        spec = experiment.spec

        def make(**arguments: Any) -> Trial:
            return Trial(
                spec["run"],
                storage=spec["storage"],
                stopping_criterion=spec.get("stop"),
                checkpoint_config=spec["checkpoint_config"],
                max_failures=spec.get("max_failures", 0),
                placement_group_factory=spec["resources_per_trial"],
                trial_dirname_creator=lambda trial: f"trial-{trial.trial_id}",
                **arguments,
            )

        self._make = make

    def next_trial(self) -> Trial | None:
        if not self._left or len(self._live) >= self._concurrent:
            return None
        number = self._left.pop(0)
        record = self._recorder.records.get(number)
        if record is None:
            config = self._proposals.next(number)
            self._recorder.add(number, config)
        else:
            config = record.config
        self._live.add(trial_id(number))
        assert self._make is not None
        return self._make(
            config=dict(config),
            trial_id=trial_id(number),
            evaluated_params=dict(config),
            experiment_tag=str(number),
            restore_path=self._checkpoint(record),
        )

    def _checkpoint(self, record: TrialRecord | None) -> str | None:
        path = self._root / record.checkpoint if record is not None and record.checkpoint else None
        return str(path) if path is not None and path.is_dir() else None

    def on_trial_result(self, trial_id: str, result: JsonObject) -> None:
        self._proposals.reported(int(trial_id), result[STEPS], result[self._metric])

    def on_trial_complete(self, trial_id: str, result: JsonObject | None = None, error: bool = False) -> None:
        self._live.discard(trial_id)
        if error or not result or "refusal" in result:
            self._proposals.ended(int(trial_id), None, stopped=False)
            return
        steps, loss = result[STEPS], result[self._metric]
        self._proposals.reported(int(trial_id), steps, loss)
        self._proposals.ended(int(trial_id), loss, stopped=steps < result["total_steps"])

    def is_finished(self) -> bool:
        return self._finished or not self._left


def tell_known(proposals: Proposals, record: TrialRecord, metric: str) -> None:
    """What an earlier process proposed, and what came of it."""
    proposals.known(record.number, record.config)
    for report in record.reports:
        proposals.reported(record.number, report[STEPS], report[metric])
    if record.state.over:
        stopped = record.state is TrialState.STOPPED
        loss = None if record.state is TrialState.FAILED else record.metric
        proposals.ended(record.number, loss, stopped=stopped)
