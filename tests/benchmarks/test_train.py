"""Rates, phases and FLOPs of the training benchmark."""

from __future__ import annotations

import pytest
from benchmarks import train_numbers as numbers
from benchmarks.goals import judge
from benchmarks.train_material import generated
from benchmarks.train_numbers import Mark, Shape, Step

LLAMA_1B = Shape(parameters=1_235_814_400, layers=16, heads=32, head_dim=64, example_tokens=2048)


def test_a_rate_is_all_tokens_over_all_seconds_after_the_warm_up() -> None:
    steps = [Step(100, 50.0), Step(100, 1.0), Step(300, 1.0)]
    assert numbers.steady_rate(steps, 1) == 200


def test_a_run_that_is_all_warm_up_has_no_rate() -> None:
    with pytest.raises(ValueError, match="nothing is left"):
        numbers.steady_rate([Step(1, 1.0)], 1)


def marks() -> list[Mark]:
    return [
        Mark("state", {"state": "queued"}, 100.0),
        Mark("state", {"state": "running"}, 101.0),
        Mark("process", {"pid": 1}, 103.0),
        Mark("phase", {"name": "tokenize"}, 106.0),
        Mark("log", {"text": "…"}, 106.5),
        Mark("phase", {"name": "start workers"}, 107.0),
        Mark("worker", {"rank": 1}, 108.0),
        Mark("worker", {"rank": 0}, 109.0),
        Mark("phase", {"name": "train"}, 110.5),
        Mark("step", {"step": 1}, 112.0),
        Mark("step", {"step": 2}, 113.0),
        Mark("phase", {"name": "export"}, 114.0),
    ]


def test_phases_of_a_start_add_up_to_the_first_step() -> None:
    found = numbers.phases(marks(), 100.0)
    assert found == {
        "claimed": 1.0,
        "process": 2.0,
        "imports": 3.0,
        "tokenized": 1.0,
        "workers": 2.0,
        "engine": 1.5,
        "first_step": 1.5,
        "total": 12.0,
    }


def test_a_run_that_was_started_again_is_timed_by_its_first_start() -> None:
    again = [*marks(), Mark("state", {"state": "running"}, 200.0), Mark("step", {"step": 3}, 220.0)]
    assert numbers.phases(again, 100.0)["total"] == 12.0


def test_a_job_without_a_step_has_no_phases() -> None:
    with pytest.raises(ValueError, match="says nothing of engine, first_step"):
        numbers.phases(marks()[:8], 100.0)


def test_full_tuning_costs_six_times_the_parameters_and_attention() -> None:
    attention = 12 * 16 * 32 * 64 * 2048
    assert numbers.flops_per_token(LLAMA_1B) == 6 * 1_235_814_400 + attention


def test_with_adapters_the_base_has_no_gradients_of_weights() -> None:
    shape = Shape(parameters=1000, layers=1, heads=1, head_dim=1, example_tokens=1, adapters=10)
    assert numbers.flops_per_token(shape) == 4 * 1000 + 6 * 10 + 12


def test_mfu_is_a_share_of_the_peak_of_the_device() -> None:
    per_token = numbers.flops_per_token(LLAMA_1B)
    assert numbers.mfu(989e12 / per_token / 2, LLAMA_1B, "NVIDIA H200") == 0.5
    assert numbers.mfu(1000.0, LLAMA_1B, "a card that nobody listed") is None


def test_goals_without_a_value_have_no_verdict() -> None:
    judged = judge({"ratios": {"vs_bare_trl": 0.98}, "gpu": {"skipped": "no CUDA device"}}, numbers.GOALS)
    assert judged["ratios.vs_bare_trl"]["met"] is True
    assert judged["gpu.full_1b.mfu"]["met"] is None


def test_a_ratio_is_one_of_medians_and_none_without_a_peer() -> None:
    assert numbers.ratio([3.0, 1.0, 2.0], [4.0]) == 0.5
    assert numbers.ratio([3.0], []) is None


def test_generated_rows_are_the_same_each_time_and_of_many_lengths() -> None:
    assert generated(7) == generated(7)
    lengths = [len(generated(number)["output"].split()) for number in range(200)]
    assert max(lengths) > 5 * sorted(lengths)[100]
