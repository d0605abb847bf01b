"""Fine-tuning with ZeRO-2 on two Ray nodes loses a worker, its driver, a node; and comes to the same losses.

Each run is a driver of its own (training_drill.py) on a cluster of two nodes with one worker on each.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.multinode.nodes import Nodes

ROOT = Path(__file__).resolve().parents[2]
STEPS = 160
CONFIG = {
    "batch": 4, "epochs": 10, "checkpoint_every": 5, "learning_rate": 0.003,
    "lora": {"r": 4}, "workers": 2, "zero": 2, "max_failures": 3,
}  # fmt: skip

pytestmark = [pytest.mark.slow, pytest.mark.multinode, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    found = Nodes(1, 1)
    yield found
    found.shutdown()


class Run:
    """One training run: its folder, its driver, what it said."""

    def __init__(self, folder: Path, address: str, **config: Any) -> None:
        self.folder = folder
        self._command = [
            sys.executable, "-m", "tests.multinode.training_drill", address, str(folder), json.dumps({**CONFIG, **config}),
        ]  # fmt: skip
        self.driver: subprocess.Popen[bytes] | None = None

    def start(self) -> Run:
        with (self.folder / "driver.log").open("ab") as log:
            self.driver = subprocess.Popen(self._command, cwd=ROOT, stdout=log, stderr=log)
        return self

    def finish(self) -> dict[str, Any]:
        """What it ended with."""
        assert self.driver is not None
        self.driver.wait(timeout=600)
        last = self.events("ended")
        assert last, (self.folder / "driver.log").read_text()[-5000:]
        return last[-1]

    def end(self) -> None:
        if self.driver is not None and self.driver.poll() is None:
            self.driver.kill()
            self.driver.wait()

    def events(self, kind: str) -> list[dict[str, Any]]:
        path = self.folder / "events.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [event for event in map(json.loads, lines) if event["kind"] == kind]

    def wait_for_step(self, step: int) -> None:
        deadline = time.monotonic() + 300
        while not any(event["step"] >= step for event in self.events("step")):
            assert self.driver is not None
            assert self.driver.poll() is None, (self.folder / "driver.log").read_text()[-5000:]
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def worker(self, rank: int) -> int:
        """Process id of the newest worker of that rank."""
        return int([event for event in self.events("worker") if event["rank"] == rank][-1]["pid"])

    def losses(self) -> dict[int, set[str]]:
        """Step -> its loss as it is printed, each time that it was computed."""
        found: dict[int, set[str]] = {}
        for event in self.events("step"):
            found.setdefault(event["step"], set()).add(f"{event['loss']:.6g}")
        return found

    def computed(self) -> list[int]:
        return [event["step"] for event in self.events("step")]


MakeRun = Callable[..., Run]


@pytest.fixture(scope="module")
def make_run(nodes: Nodes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeRun]:
    inputs = tmp_path_factory.mktemp("inputs")
    made: list[Run] = []

    def make(name: str, address: str = nodes.address, **config: Any) -> Run:
        folder = tmp_path_factory.mktemp(name)
        if (inputs / "artifacts").is_dir():
            shutil.copytree(inputs, folder, dirs_exist_ok=True)
        # A run of a test that failed would take the workers of the next.
        for run in made:
            run.end()
        made.append(Run(folder, address, **config))
        return made[-1]

    yield make
    for run in made:
        run.end()


@pytest.fixture(scope="module")
def undisturbed(make_run: MakeRun) -> dict[int, set[str]]:
    run = make_run("undisturbed").start()
    assert "result" in run.finish()
    assert len({event["node"] for event in run.events("worker")}) == 2
    losses = run.losses()
    assert sorted(losses) == list(range(1, STEPS + 1))
    assert all(len(values) == 1 for values in losses.values())
    return losses


def test_two_nodes_compute_what_one_does(make_run: MakeRun, undisturbed: dict[int, set[str]]) -> None:
    alone = Nodes(2)
    try:
        run = make_run("alone", address=alone.address).start()
        assert run.finish()["result"]["steps"] == STEPS
    finally:
        alone.shutdown()
    assert len({event["node"] for event in run.events("worker")}) == 1
    assert run.losses() == undisturbed


def test_a_killed_worker_changes_no_loss(make_run: MakeRun, undisturbed: dict[int, set[str]]) -> None:
    run = make_run("worker").start()
    run.wait_for_step(12)
    os.kill(run.worker(1), signal.SIGKILL)
    assert run.finish()["result"]["steps"] == STEPS
    assert run.losses() == undisturbed
    assert len(run.computed()) > STEPS


def test_a_killed_driver_changes_no_loss(make_run: MakeRun, undisturbed: dict[int, set[str]]) -> None:
    run = make_run("driver").start()
    run.wait_for_step(12)
    assert run.driver is not None
    run.driver.kill()
    run.driver.wait()
    assert run.start().finish()["result"]["steps"] == STEPS
    assert run.losses() == undisturbed
    assert any("going on from the checkpoint of step" in event["text"] for event in run.events("log"))


def test_a_lost_node_changes_no_loss(
    make_run: MakeRun, undisturbed: dict[int, set[str]], nodes: Nodes
) -> None:
    run = make_run("node").start()
    run.wait_for_step(12)
    nodes.lose()
    nodes.add()
    assert run.finish()["result"]["steps"] == STEPS
    assert run.losses() == undisturbed
    assert len({event["node"] for event in run.events("worker")}) == 3


def test_an_elastic_run_goes_on_with_the_workers_that_are_left(
    make_run: MakeRun, undisturbed: dict[int, set[str]], nodes: Nodes
) -> None:
    run = make_run("elastic", sharding="fsdp", zero=0, min_workers=1).start()
    run.wait_for_step(12)
    nodes.lose()
    try:
        assert run.finish()["result"]["steps"] == STEPS
    finally:
        nodes.add()
    groups = [event["rank"] for event in run.events("worker")]
    assert groups.count(0) == 2
    assert groups.count(1) == 1
    # The same rows and the same loss, whoever computes them; sums of floats are in another order.
    for step, losses in run.losses().items():
        for loss in losses:
            assert float(loss) == pytest.approx(float(*undisturbed[step]), rel=1e-3), step


def test_a_worker_that_is_asked_to_go_leaves_a_checkpoint_and_no_step_is_done_twice(
    make_run: MakeRun, undisturbed: dict[int, set[str]]
) -> None:
    run = make_run("preempted").start()
    run.wait_for_step(12)
    os.kill(run.worker(1), signal.SIGTERM)
    asked_at = time.monotonic()
    ended = run.finish()
    assert ended["error"] == "Preempted"
    assert "was asked to go" in ended["text"]
    assert time.monotonic() - asked_at < 20
    assert run.start().finish()["result"]["steps"] == STEPS
    assert run.computed() == list(range(1, STEPS + 1))
    assert run.losses() == undisturbed


def test_a_paused_run_goes_on_at_exactly_the_step_where_it_rested(
    make_run: MakeRun, undisturbed: dict[int, set[str]]
) -> None:
    paused = make_run("paused", pause_at=12).start()
    assert paused.finish()["error"] == "Paused"
    run = Run(paused.folder, paused._command[3]).start()
    assert run.finish()["result"]["steps"] == STEPS
    assert run.computed() == list(range(1, STEPS + 1))
    assert run.losses() == undisturbed


def test_a_damaged_checkpoint_is_told_and_the_one_before_is_used(
    make_run: MakeRun, undisturbed: dict[int, set[str]]
) -> None:
    run = make_run("damaged", pause_at=17).start()
    assert run.finish()["error"] == "Paused"
    newest, *_ = sorted((run.folder / "work" / "drill" / "checkpoints").iterdir(), reverse=True)
    victim = max(newest.rglob("*.pt"), key=lambda path: path.stat().st_size)
    damaged = bytearray(victim.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    victim.write_bytes(bytes(damaged))
    run = Run(run.folder, run._command[3]).start()
    assert run.finish()["result"]["steps"] == STEPS
    logs = [event["text"] for event in run.events("log")]
    assert any("cannot be used" in text and "other bytes" in text for text in logs)
    rested, gone_on = (
        int(re.findall(rf"{words} (\d+)", "\n".join(logs))[-1])
        for words in ("resting at step", "going on from the checkpoint of step")
    )
    assert gone_on == (rested - 1) // 5 * 5
    assert run.losses() == undisturbed


def test_held_out_rows_are_measured_beside_the_training_and_end_it(make_run: MakeRun) -> None:
    early = {"patience": 2, "keep": "best"}
    run = make_run(
        "validated", validation={"every": 4, "rows": 8}, early_stop=early, learning_rate=0.03
    ).start()
    done = run.finish()["result"]
    checks = {event["step"]: event["loss"] for event in run.events("validation")}
    assert len(checks) >= 3
    assert done["metrics"]["best_validation_loss"] == pytest.approx(min(checks.values()))
    assert done["kept_step"] == min(checks, key=lambda step: checks[step])
    assert done["steps"] < 140
