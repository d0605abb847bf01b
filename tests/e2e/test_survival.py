"""`kill -9` in the middle of a run, of one part after another: it still ends right, and once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import psutil
import pytest
from tests.conftest import RunningService
from tests.e2e.conftest import MakeRecipe, states

from raymill.client.recipe import load_recipe
from raymill.client.sdk import Raymill
from raymill.cluster.settings import Settings

pytestmark = [pytest.mark.usefixtures("service"), pytest.mark.timeout(600)]

STEPS = 72
"""Long enough that there is a middle: 96 rows, 6 epochs, batches of 8."""


def kill_the_engine() -> None:
    engines = [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if "raymill.cluster.engine" in (process.info["cmdline"] or [])
        and process.environ().get("RAYMILL_HOME") == str(Settings().home)
    ]
    assert len(engines) == 1
    os.kill(engines[0], signal.SIGKILL)


def kill_postgres() -> None:
    server = Settings().embedded_postgres
    pid = server.pid() if server else None
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def test_a_run_survives_kill_9_of_engine_worker_and_postgres(
    client: Raymill, service: RunningService, make_recipe: MakeRecipe
) -> None:
    workers: dict[int, int] = {}  # rank -> process, as the run tells it; anew after each start

    def kill_a_worker() -> None:
        os.kill(workers[1], signal.SIGKILL)

    # Each at least a checkpoint after the one before.
    kills: list[tuple[int, Callable[[], None]]] = [
        (12, kill_the_engine),
        (32, kill_a_worker),
        (52, kill_postgres),
    ]
    train: dict[str, Any] = {
        "workers": 2,
        "zero": 2,
        "epochs": 6,
        "checkpoint_every": 10,
        "micro_tokens": 1024,
    }
    recipe = load_recipe(make_recipe("survivor", train=train))
    pipeline = client.pipelines.create(recipe.resolved())
    train_job = next(job.id for job in pipeline.jobs if job.step == "train")
    for event in client.pipelines.events(pipeline.id):
        if event.kind == "worker":
            workers[event.data["rank"]] = event.data["pid"]
        if event.kind == "step" and event.job_id == train_job and kills and event.data["step"] >= kills[0][0]:
            kills.pop(0)[1]()
    assert not kills, "the run ended before everything was killed"

    ended = client.pipelines.wait(pipeline.id, timeout_s=60)
    assert ended.state == "succeeded", ended.error
    for step, seen in states(client, pipeline.id).items():
        assert seen.count("succeeded") == 1, f"{step}: {seen}"
    versions = list(client.llms.versions("survivor"))
    assert [version.number for version in versions] == [1]
    result = next(job.result for job in ended.jobs if job.step == "train")
    assert result is not None
    assert result["steps"] == STEPS
    assert (service.home / "artifacts" / result["artifact"] / "model.safetensors").is_file()
    assert client.audit.verify().ok
