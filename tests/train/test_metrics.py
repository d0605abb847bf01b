"""Curves of a run: each step once whatever crashed, thinned, and told of at a bounded rate."""

import json
from pathlib import Path

from raymill.train.card import Facts, card
from raymill.train.metrics import MetricsFile, Pace, read_points, repeatable, summary, thinned


def points(count: int) -> list[dict[str, float]]:
    return [{"step": step, "loss": 1 / step, "tokens_per_s": 9.0} for step in range(1, count + 1)]


def test_a_run_that_goes_on_has_each_step_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = MetricsFile(path, after=0)
    for point in points(7):
        first.add(point)
    first.flush()
    path.write_text(path.read_text() + '{"step": 8, "lo')  # a crash in the middle of a line
    second = MetricsFile(path, after=5)
    for point in points(9)[5:]:
        second.add(point)
    second.flush()
    assert [point["step"] for point in read_points(path)] == list(range(1, 10))


def test_what_is_no_number_is_left_out(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl", after=0)
    file.add({"step": 1, "loss": 1 / 3, "grad_norm": float("inf")})
    file.flush()
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "loss": 0.33333333}


def test_long_curves_are_thinned_to_their_ends_and_what_lies_between() -> None:
    kept = thinned([*points(5000), {"step": 5000, "validation_loss": 0.5}], 100)
    assert (len(kept), kept[0]["step"], kept[-2]["step"]) == (101, 1, 5000)
    assert thinned(points(5), 100) == points(5)


def test_the_summary_names_the_lowest_point() -> None:
    found = summary([*points(4), {"step": 3, "validation_loss": 0.7}, {"step": 4, "validation_loss": 0.9}])
    assert found["first_loss"] == 1.0
    assert (found["lowest_loss"], found["lowest_loss_step"]) == (0.25, 4)
    assert (found["best_validation_loss"], found["best_step"], found["validation_loss"]) == (0.7, 3, 0.9)
    assert summary([]) == {}


def test_a_short_run_tells_every_step_and_a_long_one_a_bounded_number() -> None:
    assert all(Pace(80).due(step, now=0.0) for step in range(1, 81))
    long = Pace(1_000_000)
    assert sum(long.due(step, now=0.0) for step in range(1, 1_000_001)) == 2001
    slow = Pace(1_000_000)
    assert sum(slow.due(step, now=float(step)) for step in range(1, 101)) == 20


def test_a_card_has_nothing_in_it_that_changes_from_run_to_run() -> None:
    series = repeatable(points(30))
    assert "tokens_per_s" not in series[0]
    facts = Facts(
        name="tiny",
        method="sft",
        config={"lora": {"r": 4, "targets": ["q_proj", "v_proj"]}, "seed": 0, "use_gpu": None},
        base={"artifact": "base/tiny/0a", "digest": "b" * 64},
        data={"artifact": "dataset/tiny/0b", "digest": "d" * 64},
        result={"steps": 30, "tokens_per_s": 9.0, "final_loss": 0.0333},
        points=series,
    )
    text = card(facts)
    assert text == card(facts)
    for wanted in (
        "base_model: base/tiny/0a",
        "license:",
        "| lora.targets | q_proj, v_proj |",
        "b" * 64,
        "d" * 64,
    ):
        assert wanted in text
    assert "tokens_per_s" not in text
    assert "use_gpu" not in text
