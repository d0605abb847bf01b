"""Whole searches on Ray Tune: killed in the middle, stopped early, handing weights over; and that they leave nothing."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import ray
from benchmarks.asha import asha_share
from tests.tune.lab import NOTHING, Lab, held, left_since, make_lab

from raymill.registry.tables import TrialState
from raymill.registry.trials import TrialRecord
from raymill.tune.search import TRIALS, Search, best_of, export, run_search, train_to_end
from raymill.tune.store import FileStore
from raymill.tune.trial import STEPS

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.timeout(900)]

ASHA = {"trials": 6, "scheduler": "asha", "grace": 2, "reduction": 2}
ROOT = Path(__file__).resolve().parents[2]

DRIVER = """
import sys, pathlib, ray
from tests.tune.lab import Lab
from tests.tune.test_search import ASHA
from raymill.tune.search import run_search
address, base, rows, work_dir = sys.argv[1:]
lab = Lab(pathlib.Path(base), pathlib.Path(rows))
ray.init(address=address, namespace="raymill", log_to_driver=False, logging_level="ERROR")
run_search(lab.search(pathlib.Path(work_dir), ASHA, checkpoint_every=2))
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return make_lab(tmp_path_factory.mktemp("lab"))


def begin_and_kill(lab: Lab, work_dir: Path) -> dict[int, TrialRecord]:
    """Start a search in a process of its own, kill that, and tell what it had written down."""
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-c", DRIVER, address, str(lab.base), str(lab.rows), str(work_dir)]
    said = work_dir / "driver.txt"
    store = FileStore(work_dir / "records")
    with said.open("w") as output:
        driver = subprocess.Popen(
            command, cwd=ROOT, start_new_session=True, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            for _ in range(30_000):
                records = store.load()
                if 2 <= sum(record.state.over for record in records) < len(records):
                    break
                assert driver.poll() is None, f"the driver ended by itself: {said.read_text()[-3000:]}"
                time.sleep(0.02)
        finally:
            driver.kill()
            driver.wait(30)
    return {record.number: record for record in store.load()}


def test_a_killed_search_goes_on_where_it_was_and_leaves_nothing_behind(lab: Lab, tmp_path: Path) -> None:
    before = held()
    killed = begin_and_kill(lab, tmp_path)
    assert 2 <= sum(record.state.over for record in killed.values()) < 6
    search = lab.search(tmp_path, ASHA, checkpoint_every=2)

    records = run_search(search)
    best = best_of(records)

    assert [record.number for record in records] == [1, 2, 3, 4, 5, 6]
    assert {record.state for record in records} <= {TrialState.FINISHED, TrialState.STOPPED}
    assert (best.state, best.steps) == (TrialState.FINISHED, best.total_steps)
    for record in records:
        steps = [report[STEPS] for report in record.reports]
        assert steps == list(range(2, record.steps + 1, 2))
        if (earlier := killed.get(record.number)) is None:
            continue
        assert record.config == earlier.config
        # What was computed once was not computed again: the times of its reports are the first process's.
        kept = earlier.reports if earlier.state.over else earlier.reports[:-1]
        assert record.reports[: len(kept)] == kept
    assert started_anew(search).isdisjoint(n for n, r in killed.items() if r.state.over)
    assert run_search(search) == records
    check_export(search, best)
    assert left_since(before) == NOTHING


def started_anew(search: Search) -> set[int]:
    """Trials that the second process ran."""
    return {
        int(path.name.removeprefix("trial-"))
        for path in (search.work_dir / TRIALS / "process-2").glob("trial-*")
    }


def check_export(search: Search, best: TrialRecord) -> None:
    """The best trial's weights are the model's."""
    from raymill.train.engines import PlainEngine
    from raymill.train.loop import measure
    from raymill.train.models import load_base
    from raymill.tune.trial import make_engine, task_of_trial

    done = export(search, best)
    assert done["steps"] == best.total_steps
    task = task_of_trial(best.config, search.settings)
    engine = make_engine(task, search.work_dir, "exported")
    assert isinstance(engine, PlainEngine)
    engine.put(load_base(search.work_dir / "export", "auto").state_dict())
    assert task.validation is not None
    assert measure(engine, task.validation)[0] == pytest.approx(best.metric, rel=1e-4)


@pytest.mark.slow
def test_the_best_of_trials_that_were_all_stopped_is_trained_to_its_end(lab: Lab, tmp_path: Path) -> None:
    search = lab.search(tmp_path, {"trials": 2, "scheduler": "none"}, checkpoint_every=2)
    records = run_search(search)
    best = best_of(records)
    for record in records:
        # As if it had been stopped at its last report but one.
        record.state = TrialState.STOPPED
        search.store.save(record)
    assert best_of(records).number == best.number
    ended = train_to_end(search, best.number)
    assert (ended.state, ended.steps, ended.metric) == (TrialState.FINISHED, best.total_steps, best.metric)


@pytest.mark.slow
def test_asha_finds_what_all_trials_find_in_far_fewer_steps(tmp_path: Path) -> None:
    before = held()
    found = asha_share(tmp_path)
    assert found.share <= 0.4
    assert found.excess <= 0.02
    assert left_since(before) == NOTHING


@pytest.mark.slow
def test_a_population_hands_weights_from_the_best_to_the_worst(lab: Lab, tmp_path: Path) -> None:
    before = held()
    over = {
        "train.learning_rate": {"choice": [1e-6, 1e-5, 3e-3, 1e-2]},
        "train.weight_decay": {"uniform": [0, 0.2]},
    }
    tune = {"over": over, "scheduler": "pbt", "trials": 4, "grace": 4, "concurrent": 0, "seed": 3}
    records = run_search(lab.search(tmp_path, tune, checkpoint_every=2))
    copied = [record for record in records if record.copies]
    assert copied
    for record in copied:
        for copy in record.copies:
            assert copy["trial"] in {other.number for other in records} - {record.number}
        # After the hand-over it is near the best, from which it was far before.
        assert record.metric == pytest.approx(best_of(records).metric, rel=0.5)
    assert all(record.state is TrialState.FINISHED for record in records)
    assert left_since(before) == NOTHING


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["none", "median"])
@pytest.mark.parametrize("how", ["random", "optuna", "grid"])
def test_every_search_runs_with_every_scheduler(how: str, scheduler: str, lab: Lab, tmp_path: Path) -> None:
    over: dict[str, Any] = {
        "train.learning_rate": {"choice": [1e-4, 1e-3]},
        "train.batch": {"choice": [16, 32]},
    }
    tune = {"over": over, "search": how, "scheduler": scheduler, "trials": 4}
    records = run_search(lab.search(tmp_path, tune, checkpoint_every=2))
    assert len(records) == 4
    if how == "grid":
        tried = {(r.config["train.learning_rate"], r.config["train.batch"]) for r in records}
        assert tried == set(itertools.product([1e-4, 1e-3], [16, 32]))
    assert all(record.state.over and record.metric is not None for record in records)


@pytest.mark.slow
def test_a_trial_that_cannot_go_on_fails_alone(lab: Lab, tmp_path: Path) -> None:
    over = {"train.lora": {"choice": [{"r": 4, "targets": ["no_proj"]}, {"r": 4}]}}
    tune = {"over": over, "search": "grid", "scheduler": "none", "metric": "final_loss"}
    records = run_search(lab.search(tmp_path, tune, checkpoint_every=5))
    assert [record.state for record in records] == [TrialState.FAILED, TrialState.FINISHED]
    assert "lora.targets names no_proj" in str(records[0].error)
    assert best_of(records).number == 2
