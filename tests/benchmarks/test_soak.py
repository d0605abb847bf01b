"""Slopes of memory over time, and what counts as growth."""

from __future__ import annotations

import os
import random

import psutil
import pytest
from benchmarks.soak_samples import MEMORY_PER_H, Sample, Samples, Total, judge, name_of, slope


def series(grow_per_h: float, *, jump: float = 0.0, noise: float = 1.0, seconds: int = 1200) -> list[Sample]:
    chance = random.Random(7)
    return [
        Sample(
            float(at),
            200 + grow_per_h * at / 3600 + chance.uniform(-noise, noise) + (jump if at > 1080 else 0),
            40,
        )
        for at in range(0, seconds, 5)
    ]


def judged(*taken: list[Sample], come: int = 0) -> dict[str, bool]:
    """`come`: processes beside 20 that come half way."""
    samples = Samples()
    for pid, each in enumerate(taken):
        samples.of[pid], samples.names[pid] = each, f"p{pid}"
    half = taken[0][-1].at_s / 2
    samples.all = [Total(*each, processes=20 + come * (each.at_s > half)) for each in taken[0]]
    found = judge(samples, warm_up_s=300)
    return {name: each["flat"] for name, each in found["processes"].items()} | {"flat": found["flat"]}


def test_steady_growth_is_found_and_noise_or_a_late_jump_is_none() -> None:
    flat, growing, jumped = series(0), series(60), series(0, jump=20)
    found = judged(flat, growing, jumped, series(0, seconds=600))
    assert found == {
        "p0": True,
        "p1": False,
        "p2": True,
        "flat": False,
    }  # the last one did not live to the end
    steep = slope([(each.at_s, each.memory) for each in growing])
    assert steep.low < 60 < steep.high
    assert steep.per_hour == pytest.approx(60, abs=3)
    assert steep.low > MEMORY_PER_H


def test_more_processes_are_growth_though_each_is_flat() -> None:
    assert judged(series(0), come=2)["flat"]
    assert judged(series(0), come=3) == {"p0": True, "flat": False}


def test_this_process_is_read_and_named_without_a_path() -> None:
    samples = Samples()
    process = psutil.Process(os.getpid())
    samples.take(0.0, [process])
    assert samples.names == {os.getpid(): name_of(process)}
    assert "/" not in samples.names[os.getpid()]
    (taken,) = samples.of[os.getpid()]
    assert taken.memory > 1
    assert taken.descriptors > 2
