"""A run rests and goes on, in this process and without Ray: one worker, plain torch, a tiny Llama."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from raymill.train.batches import WindowShares
from raymill.train.checkpoints import Checkpoints, StorageFull
from raymill.train.config import PretrainConfig
from raymill.train.loop import measure
from raymill.train.metrics import METRICS, read_points
from raymill.train.sink import GO_ON, REST_NOW, Sink
from raymill.train.told import BROKEN, END, REST, Told, take_up
from raymill.train.validation import Snapshots, verdict_of
from raymill.train.worker import (
    EndedEarly,
    Progress,
    Stopped,
    Task,
    make_engine,
    measuring_engine,
    train_on,
)

STEPS = 12
CPU = torch.device("cpu")


def build() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
        )
    )


def shares(steps: int, seed: int) -> WindowShares:
    stream = np.random.default_rng(seed).integers(0, 8, 400).astype(np.int32)
    return WindowShares(stream, end_id=0, batch=4, steps=steps, seed=0, window=16)


TASK = Task(
    build=build,
    shares=shares(STEPS, 1),
    export=lambda _: None,
    use=PretrainConfig(text="-", checkpoint_every=5, precision="fp32"),
    learning_rate=0.01,
    warmup_share=0.1,
    weight_decay=0.0,
    max_grad_norm=1.0,
    seed=0,
)


class Scripted(Told):
    """Wants what the test says at the steps that it names; remembers what it was told."""

    def __init__(self, wishes: dict[int, float]) -> None:
        super().__init__(None, rank=0)
        self._wishes = wishes
        self.heard: list[tuple[str, dict[str, Any]]] = []
        self.rested_at: int | None = None

    def tell(self, kind: str, **data: Any) -> None:
        self.heard.append((kind, data))

    def step(self, metrics: Any) -> None:
        assert self._file is not None
        self._file.add({"step": metrics.step, "loss": metrics.loss})

    def wish(self, step: int) -> float:
        return self._wishes.get(step, 0.0)

    def rested(self, step: int) -> None:
        self.rested_at = step


def run(work_dir: Path, task: Task = TASK, **wishes: float) -> Scripted:
    """One attempt, from the newest checkpoint on."""
    told = Scripted({int(step.removeprefix("at_")): wish for step, wish in wishes.items()})
    engine = make_engine(task, 1, CPU)
    checkpoints = Checkpoints(work_dir / "checkpoints", rank=0, workers=1, told=told.checkpoint)
    step = take_up(engine, checkpoints, lambda text: told.tell("log", text=text))
    progress = Progress(**checkpoints.progress(step)) if step else Progress()
    told.begin(work_dir / METRICS, progress.step, task.shares.steps)
    snapshots = Snapshots(work_dir / "validation")
    try:
        train_on(engine, task, progress, checkpoints, snapshots, told)
    finally:
        told.flush()
        snapshots.wait()
    checkpoints.wait()
    return told


def losses(work_dir: Path) -> list[tuple[int, float]]:
    return [(point["step"], point["loss"]) for point in read_points(work_dir / METRICS)]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads that wait for each other on a busy machine take longer than such a model."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, float]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    run(folder)
    found = losses(folder)
    assert [step for step, _ in found] == list(range(1, STEPS + 1))
    return found


def test_a_run_that_rested_goes_on_at_exactly_that_step_with_the_same_losses(
    tmp_path: Path, undisturbed: list[tuple[int, float]]
) -> None:
    with pytest.raises(Stopped):
        run(tmp_path, at_7=REST)
    assert losses(tmp_path) == undisturbed[:7]
    told = run(tmp_path)
    assert ("log", {"text": "going on from the checkpoint of step 7"}) in told.heard
    assert losses(tmp_path) == undisturbed


def test_a_damaged_checkpoint_is_told_and_costs_steps_but_changes_no_loss(
    tmp_path: Path, undisturbed: list[tuple[int, float]]
) -> None:
    with pytest.raises(Stopped):
        run(tmp_path, at_7=REST)
    state = tmp_path / "checkpoints" / "step-00000007" / "state.pt"
    state.write_bytes(state.read_bytes()[:-1])
    told = run(tmp_path)
    texts = [data["text"] for kind, data in told.heard if kind == "log"]
    assert "step 7 cannot be used (state.pt has" in texts[0]
    assert texts[1] == "going on from the checkpoint of step 5"
    assert losses(tmp_path) == undisturbed


def test_a_full_disk_ends_the_run_with_the_reason_and_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import raymill.train.checkpoints as module

    real = module.copy

    def full(source: Path, target: Path) -> dict[str, Any]:
        if "step-00000010" in str(target):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(source, target)

    monkeypatch.setattr(module, "copy", full)
    with pytest.raises(StorageFull, match=r"step 10 does not fit .* the checkpoint of step 5 stays"):
        run(tmp_path, at_12=BROKEN)
    assert Checkpoints(tmp_path / "checkpoints", rank=0, workers=1).problem(5) is None


def test_held_out_rows_are_measured_beside_and_may_end_the_run(tmp_path: Path) -> None:
    task = replace(TASK, validation=shares(2, 2), validate_every=3)
    with pytest.raises(EndedEarly):
        run(tmp_path, task, at_10=END)
    snapshots = Snapshots(tmp_path / "validation")
    assert snapshots.steps() == [3, 6, 9]
    from safetensors.torch import load_file

    engine = measuring_engine(task, CPU)
    assert task.validation is not None
    before, _ = measure(engine, task.validation)
    found = {}
    for step in snapshots.steps():
        engine.put(load_file(snapshots.path(step)))
        found[step], _ = measure(engine, task.validation)
    assert all(loss < before for loss in found.values())
    assert verdict_of(found, None) is not None


def test_the_driver_answers_each_step_with_what_it_wants() -> None:
    sink = Sink()
    assert sink.step({"step": 1}) == GO_ON
    sink.measured(20, verdict_of({10: 1.0, 20: 2.0}, None))
    assert sink.step(None) == GO_ON
    sink.tell("snapshot", {"step": 30})
    assert sink.verdict()[0] is False
    from raymill.train.run_config import EarlyStop

    sink.measured(30, verdict_of({10: 1.0, 20: 2.0, 30: 3.0}, EarlyStop(patience=2)))
    assert sink.verdict()[0] is True
    assert sink.step(None) == 30
    sink.rest()
    assert sink.step(None) == REST_NOW
    assert [kind for kind, _ in sink.drain().events] == ["step", "snapshot"]
