"""Schedulers that are told of an earlier process decide as if they had seen it all."""

from typing import Any

from ray.tune.schedulers import TrialScheduler

from raymill.registry.tables import TrialState
from raymill.registry.trials import TrialRecord
from raymill.tune.config import TuneConfig
from raymill.tune.recorder import trial_id
from raymill.tune.schedulers import Nobody, Past, remind, scheduler_of
from raymill.tune.trial import STEPS

METRIC = "validation_loss"


def config(scheduler: str) -> TuneConfig:
    over = {"train.learning_rate": {"loguniform": [1e-5, 1e-2]}}
    return TuneConfig.model_validate({"over": over, "scheduler": scheduler, "reduction": 2})


def record(number: int, *losses: float, state: TrialState = TrialState.FINISHED) -> TrialRecord:
    reports = [{STEPS: 10 * at, METRIC: loss} for at, loss in enumerate(losses, start=1)]
    return TrialRecord(number=number, config={}, state=state, reports=reports)


def decision(scheduler: TrialScheduler, number: int, steps: int, loss: float) -> Any:
    past = Past(number)
    scheduler.on_trial_add(Nobody(), past)
    return scheduler.on_trial_result(Nobody(), past, {STEPS: steps, METRIC: loss})


def reminded(scheduler: str, records: list[TrialRecord]) -> TrialScheduler:
    made = scheduler_of(config(scheduler), most_steps=80, grace=10)
    remind(made, records, METRIC)
    return made


def test_asha_remembers_its_rungs() -> None:
    before = [record(1, 3.0, 2.0, 1.0), record(2, 2.5, state=TrialState.STOPPED), record(3, 2.9, 1.9)]
    assert decision(reminded("asha", before), 4, 10, 2.95) == TrialScheduler.STOP
    assert decision(reminded("asha", before), 4, 10, 2.4) == TrialScheduler.CONTINUE
    assert decision(reminded("asha", []), 4, 10, 2.95) == TrialScheduler.CONTINUE


def test_asha_does_not_ask_a_trial_again_that_has_passed_a_rung() -> None:
    before = [record(1, 1.0), record(2, 1.1), record(3, 2.0, state=TrialState.RUNNING)]
    made = reminded("asha", before)
    assert trial_id(3) == "00003"
    assert decision(made, 3, 10, 2.0) == TrialScheduler.CONTINUE


def test_the_median_rule_remembers_the_others() -> None:
    before = [record(number, 1.0, 0.9, 0.8) for number in (1, 2, 3)]
    assert decision(reminded("median", before), 4, 20, 2.0) == TrialScheduler.STOP
    assert decision(reminded("median", []), 4, 20, 2.0) == TrialScheduler.CONTINUE


def test_a_trial_that_failed_counts_for_nothing() -> None:
    before = [record(number, 0.1, state=TrialState.FAILED) for number in (1, 2, 3)]
    assert decision(reminded("asha", before), 4, 10, 2.0) == TrialScheduler.CONTINUE
