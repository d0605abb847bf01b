"""What a run does where the cluster is too small for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray

from raymill.cluster.context import LocalContext
from raymill.policies.errors import Invalid, Unavailable
from raymill.train import launch
from raymill.train.config import ClusterUse


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalContext:
    monkeypatch.delenv("RAYMILL_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0, "accelerator_type:L4": 1.0})
    return LocalContext(tmp_path, job_id="room")


def wait(use: ClusterUse, context: LocalContext) -> None:
    launch.wait_for_machines(use, use.least_workers, context.event, context.check)


def test_a_machine_of_our_own_refuses_at_once(context: LocalContext) -> None:
    wait(ClusterUse(workers=4), context)
    wait(ClusterUse(workers=8, min_workers=4, sharding="fsdp"), context)
    with pytest.raises(Unavailable, match="workers is 5, the cluster has 4 of CPU: lower workers or add"):
        wait(ClusterUse(workers=5), context)
    wait(ClusterUse(workers=1, use_gpu=True), context)  # there `wants_gpu` refuses, with its own cure
    with pytest.raises(
        Unavailable, match=r"workers is 1 with a GPU each, the cluster has 0: .* leave use_gpu"
    ):
        launch.wants_gpu(ClusterUse(workers=1, use_gpu=True))
    with pytest.raises(Invalid, match="offload"):
        launch.wants_gpu(ClusterUse(offload="optimizer"))
    assert context.events == []


def test_a_cluster_that_machines_join_is_asked_for_what_a_run_needs(
    context: LocalContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYMILL_ADDRESS", "10.0.0.7:6379")
    wait(ClusterUse(workers=4), context)
    # It waits before it would be started, also where a setting needs what it does not ask for.
    for use in (ClusterUse(use_gpu=True), ClusterUse(offload="optimizer")):
        assert launch.lacking(launch.bundle_of(use), 1) == "workers is 1, the cluster has 0 of GPU"
    assert launch.bundle_of(ClusterUse(use_gpu=False, offload="optimizer")) == {"CPU": 1.0}


def test_a_run_that_was_on_gpus_goes_on_there(context: LocalContext) -> None:
    context.work_dir.mkdir(parents=True, exist_ok=True)
    assert launch.as_before(ClusterUse(), context.work_dir).use_gpu is None
    (context.work_dir / launch.ON_GPU).touch()
    assert launch.as_before(ClusterUse(), context.work_dir).use_gpu is True
    assert launch.as_before(ClusterUse(use_gpu=False), context.work_dir).use_gpu is False


@pytest.mark.usefixtures("context")
def test_what_a_pin_asks_for_is_looked_at_too() -> None:
    assert launch.lacking({"CPU": 1.0, "accelerator_type:L4": 0.001}, 4) is None
    assert launch.lacking({"CPU": 1.0, "accelerator_type:H100": 0.001}, 1) is not None
