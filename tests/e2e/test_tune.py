"""A recipe with a search, whose driver is killed in the middle: it goes on, and the best trial becomes the version."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import psutil
import pytest
from tests.conftest import RunningService
from tests.e2e.conftest import MakeRecipe, raymill

from raymill.client.sdk import Raymill
from raymill.cluster.settings import Settings

pytestmark = [pytest.mark.usefixtures("service"), pytest.mark.timeout(900), pytest.mark.slow]

NAME = "searched"
TUNE: dict[str, Any] = {
    "over": {
        "train.learning_rate": {"loguniform": [1e-4, 1e-2]},
        "train.lora.r": {"choice": [4, 8]},
    },
    "search": "optuna",
    "trials": 6,
    "grace": 4,
    "concurrent": 2,
}


def driver_of(job_id: str) -> int | None:
    """The process of a heavy job."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "raymill.cluster.driver" in words and job_id in words and "-m" in words:
            return int(process.pid)
    return None


def kill_the_driver(client: Raymill, pipeline_id: str) -> None:
    """Once a trial has ended and another runs."""
    for _ in range(1500):
        found = [each for each in client.searches.list(name=NAME) if str(each.pipeline_id) == pipeline_id]
        trials = client.searches.get(pipeline_id).trials if found else []
        pid = driver_of(str(found[0].id)) if found else None
        if pid and any(t.state != "running" for t in trials) and any(t.state == "running" for t in trials):
            os.kill(pid, signal.SIGKILL)
            return
        time.sleep(0.2)
    raise AssertionError("the search ended before it could be killed")


def test_a_killed_search_ends_in_a_version(
    client: Raymill, service: RunningService, make_recipe: MakeRecipe
) -> None:
    train = {"lora": {"r": 4}, "epochs": 4, "batch": 8, "checkpoint_every": 4, "validation": {"share": 0.2}}
    evaluate = {"tasks": ["heldout_exact_match"], "actors": 1, "max_new_tokens": 8}
    recipe = make_recipe(NAME, train=train, tune=TUNE, evaluate=evaluate)
    started = raymill("tune", str(recipe), "--no-wait")
    assert started.returncode == 0, started.stderr
    pipeline_id = started.stdout.strip()
    kill_the_driver(client, pipeline_id)
    before = {trial.number: trial for trial in client.searches.get(pipeline_id).trials}

    ended = client.pipelines.wait(pipeline_id, timeout_s=600)
    assert ended.state == "succeeded", ended.error
    search = client.searches.get(pipeline_id)
    job = next(each for each in ended.jobs if each.step == "train")
    assert job.epoch > 1
    assert [trial.number for trial in search.trials] == [1, 2, 3, 4, 5, 6]
    for trial in search.trials:
        earlier = before.get(trial.number)
        assert trial.state in {"finished", "stopped"}
        if earlier is not None and earlier.state != "running":
            assert trial.reports[: len(earlier.reports)] == earlier.reports
    assert search.best is not None
    best = next(trial for trial in search.trials if trial.number == search.best["trial"])
    assert best.state == "finished"
    lineage = client.llms.lineage(NAME, 1)
    assert lineage.version.number == search.version == 1
    assert job.result is not None
    assert job.result["train"]["learning_rate"] == search.best["values"]["train.learning_rate"]
    assert "heldout_exact_match" in lineage.version.scores
    assert (service.home / "artifacts" / job.result["artifact"] / "model.safetensors").is_file()
    assert not (Settings().work_dir / str(job.id) / "trials").exists()
    shown = raymill("tune", "show", pipeline_id)
    assert f"best: trial {search.best['trial']}" in shown.stdout
    again = raymill("tune", str(recipe))
    assert "reused" in again.stdout
    assert client.searches.get(next(iter(client.pipelines.list(name=NAME))).id).trials == search.trials
