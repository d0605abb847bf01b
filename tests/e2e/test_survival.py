"""`kill -9` in the middle of a run: it still ends right, and once."""

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
from raymill.client.types import JobEvent
from raymill.cluster.settings import Settings

pytestmark = [pytest.mark.usefixtures("service"), pytest.mark.timeout(600)]

STEPS = 72
"""Long enough that there is a middle: 96 rows, 6 epochs, batches of 8."""


def kill_the_engine(_: JobEvent) -> None:
    engines = [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if "raymill.cluster.engine" in (process.info["cmdline"] or [])
        and process.environ().get("RAYMILL_HOME") == str(Settings().home)
    ]
    assert len(engines) == 1
    os.kill(engines[0], signal.SIGKILL)


def kill_postgres(_: JobEvent) -> None:
    server = Settings().embedded_postgres
    pid = server.pid() if server else None
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


class KillAWorker:
    """Needs to have heard where the workers live."""

    def __init__(self) -> None:
        self.pids: dict[int, int] = {}

    def hear(self, event: JobEvent) -> None:
        if event.kind == "worker":
            self.pids[event.data["rank"]] = event.data["pid"]

    def __call__(self, _: JobEvent) -> None:
        os.kill(self.pids[1], signal.SIGKILL)


@pytest.mark.parametrize("victim", ["engine", "worker", "postgres"])
def test_a_run_survives_kill_9_of(
    victim: str, client: Raymill, service: RunningService, make_recipe: MakeRecipe
) -> None:
    worker = KillAWorker()
    kill: dict[str, Callable[[JobEvent], None]] = {
        "engine": kill_the_engine,
        "worker": worker,
        "postgres": kill_postgres,
    }
    # A name of its own for each, so that versions can be counted; the base is the first one's.
    train: dict[str, Any] = {
        "workers": 2,
        "zero": 2,
        "epochs": 6,
        "checkpoint_every": 10,
        "micro_tokens": 1024,
    }
    recipe = load_recipe(make_recipe(f"survivor-{victim}", train=train))
    pipeline = client.pipelines.create(recipe.resolved())
    train_job = next(job.id for job in pipeline.jobs if job.step == "train")
    killed = False
    for event in client.pipelines.events(pipeline.id):
        worker.hear(event)
        if event.kind == "step" and event.job_id == train_job and event.data["step"] >= 12 and not killed:
            kill[victim](event)
            killed = True
    assert killed, "the run ended before anything was killed"

    ended = client.pipelines.wait(pipeline.id, timeout_s=60)
    assert ended.state == "succeeded", ended.error
    for step, seen in states(client, pipeline.id).items():
        assert seen.count("succeeded") == 1, f"{step}: {seen}"
    versions = list(client.llms.versions(f"survivor-{victim}"))
    assert [version.number for version in versions] == [1]
    result = next(job.result for job in ended.jobs if job.step == "train")
    assert result is not None
    assert result["steps"] == STEPS
    assert (service.home / "artifacts" / result["artifact"] / "model.safetensors").is_file()
    assert client.audit.verify().ok
