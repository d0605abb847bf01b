"""An evaluation whose actors are on three nodes publishes what one process does, also where a node is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from tests.evaluate import drill
from tests.multinode.nodes import Nodes

from raymill.cluster.context import JsonObject, LocalContext
from raymill.evaluate import jobs
from raymill.evaluate.actors import ActorPool

pytestmark = [pytest.mark.slow, pytest.mark.multinode, pytest.mark.timeout(900)]

Samples = dict[str, list[JsonObject]]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """Three, this process a driver at the first."""
    found = Nodes(1, 1, 1)
    ray.init(address=found.address, namespace="raymill", log_to_driver=False, logging_level="WARNING")
    yield found
    ray.shutdown()
    found.shutdown()


@pytest.fixture(scope="module")
def store(tiny_model: Path, f16: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    drill.make_store(root, tiny_model, f16)
    return root


@pytest.fixture(scope="module")
def in_one_process(store: Path) -> Samples:
    samples = drill.samples_in(drill.run_here(watched(store, "alone")))
    assert {task: len(lines) for task, lines in samples.items()} == {
        "heldout_exact_match": drill.ROWS,
        "humaneval": drill.PROBLEMS,
    }
    return samples


class Watched(LocalContext):
    """Keeps on which node each actor is, and has `lose` do its work at the first progress of a task."""

    pools: list[ActorPool]
    nodes: set[str]
    lose: Any = None
    lost = False

    def event(self, kind: str, **data: Any) -> None:
        super().event(kind, **data)
        if kind not in {"phase", "progress"} or not self.pools:
            return
        pool = self.pools[-1]
        if kind == "phase" and not self.lost:  # afterwards one may wait for room that no node has
            self.where = {actor: node_of(actor) for actor in pool._actors}
            self.nodes |= set(self.where.values())
        elif kind == "progress" and self.lose is not None and not self.lost:
            resting = {*pool._idle, *pool._loading.values()}
            nodes = {self.where[actor] for actor in pool._actors if actor not in resting}
            for node in sorted(nodes - {ray.get_runtime_context().get_node_id()})[:1]:
                self.lose(node)
                self.lost = True


def node_of(actor: Any) -> str:
    """Hexadecimal id of the node that an actor runs on."""
    return str(ray.get(actor.__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id())))


def watched(store: Path, job: str) -> Watched:
    config = {**drill.settings(store), "actors": 3, "cpus_per_actor": 1}
    context = Watched(store, job_id=job, name="tiny", address=job[:12], config=config, inputs=drill.inputs())
    context.pools, context.nodes = [], set()
    return context


def evaluate(context: Watched, monkeypatch: pytest.MonkeyPatch) -> Samples:
    class Kept(ActorPool):
        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            context.pools.append(self)

    monkeypatch.setattr(jobs, "ActorPool", Kept)
    return drill.samples_in(context.path(jobs.run_evaluate(context).result["artifact"]))


@pytest.mark.usefixtures("nodes")
def test_three_nodes_publish_what_one_process_does(
    store: Path, in_one_process: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = watched(store, "three")
    assert evaluate(context, monkeypatch) == in_one_process
    assert len(context.nodes) == 3


def test_a_lost_node_loses_no_sample_and_counts_none_twice(
    store: Path, nodes: Nodes, in_one_process: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = watched(store, "lost")
    context.lose = nodes.lose
    assert evaluate(context, monkeypatch) == in_one_process
    assert context.lost
    said = [data["text"] for kind, data in context.events if kind == "log"]
    assert "GgufModel was lost; its share is done again" in said
