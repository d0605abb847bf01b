"""An evaluation that loses an actor or its driver publishes each sample once, and what an undisturbed one does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray
from tests.evaluate import drill

from raymill.cluster.context import JsonObject, LocalContext
from raymill.cluster.service import read_service
from raymill.cluster.settings import Settings
from raymill.evaluate import jobs
from raymill.evaluate.actors import ActorPool

ROOT = Path(__file__).resolve().parents[2]
Samples = dict[str, list[JsonObject]]


@pytest.fixture(scope="module")
def store(tiny_model: Path, f16: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("kills")
    drill.make_store(root, tiny_model, f16)
    return root


@pytest.fixture(scope="module")
def undisturbed(store: Path) -> Samples:
    samples = drill.samples_in(drill.run_here(context_in(store, "undisturbed")))
    assert {task: len(lines) for task, lines in samples.items()} == {
        "heldout_exact_match": drill.ROWS,
        "humaneval": drill.PROBLEMS,
    }
    assert 0 < sum(line["score"] for line in samples["heldout_exact_match"]) < drill.ROWS
    return samples


def context_in(store: Path, job: str) -> LocalContext:
    return LocalContext(
        store, job_id=job, name="tiny", address=job[:12], config=drill.settings(store), inputs=drill.inputs()
    )


def killed(store: Path, progress: str, *address: str) -> None:
    """An attempt at the job `local` that dies at that progress."""
    command = [sys.executable, "-m", "tests.evaluate.drill", str(store), progress, *address]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_a_driver_that_is_killed_loses_no_sample_and_counts_none_twice(
    store: Path, undisturbed: Samples
) -> None:
    killed(store, "humaneval-tiny-F16:4")
    last = context_in(store, "local")
    assert drill.samples_in(drill.run_here(last)) == undisturbed
    done = [(data["task"], data["done"]) for kind, data in last.events if kind == "progress"]
    assert done == [("humaneval-tiny-F16", drill.PROBLEMS)]  # all else was there


@pytest.mark.usefixtures("ray_session")
def test_actors_that_are_killed_lose_no_sample_and_count_none_twice(
    store: Path, undisturbed: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools: list[ActorPool] = []

    class Watched(ActorPool):
        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            pools.append(self)

    class Killing(LocalContext):
        """At the first progress of each task, ends the process of the actor that is not through with its share."""

        victims: dict[Any, int]

        def event(self, kind: str, **data: Any) -> None:
            super().event(kind, **data)
            if kind == "phase":
                actors = list(pools[0]._actors)
                pids = ray.get([actor.__ray_call__.remote(lambda _: os.getpid()) for actor in actors])
                self.victims = dict(zip(actors, pids, strict=True))
            elif kind == "progress" and self.victims:
                busy = next(actor for actor in self.victims if actor not in pools[0]._idle)
                os.kill(self.victims[busy], signal.SIGKILL)
                self.victims = {}

    monkeypatch.setattr(jobs, "ActorPool", Watched)
    plain = context_in(store, "actors")
    context = Killing(**{name: value for name, value in vars(plain).items() if name != "events"})
    outcome = jobs.run_evaluate(context)
    assert drill.samples_in(context.path(outcome.result["artifact"])) == undisturbed
    said = [data["text"] for kind, data in context.events if kind == "log"]
    assert said == ["GgufModel was lost; its share is done again"] * 2


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_driver_that_is_killed_on_ray_is_gone_on_with(store: Path, undisturbed: Samples) -> None:
    # Slow: a second driver and its actors are started, only to be killed.
    root = store / "on-ray"
    (root / "artifacts").parent.mkdir()
    (root / "artifacts").symlink_to(store / "artifacts")
    drill.problems_in(root).symlink_to(drill.problems_in(store))
    killed(root, "heldout-tiny-F16:8", read_service(Settings()).ray_address)
    outcome = jobs.run_evaluate(context_in(root, "local"))
    assert drill.samples_in(root / "artifacts" / outcome.result["artifact"]) == undisturbed
