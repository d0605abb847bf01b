"""A service of two nodes under load: versions and settings are replaced without a failed request, and the head is killed while
training, an evaluation and a served model go on.

The service is one of its own; the second node joins it on this machine's loopback, and only there is room for the replicas.
Prints what it measured (`-s`).
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from tests.conftest import HOME, RunningService, free_port
from tests.e2e.conftest import MakeRecipe, rows
from tests.lines import write_lines
from tests.multinode.load import LONG_S, Load, answers, say
from tests.waiting import eventually

from raymill.client.recipe import load_recipe
from raymill.client.sdk import Raymill
from raymill.client.types import Job, JobEvent, JsonObject, Pipeline
from raymill.cluster import processes
from raymill.cluster.ray_head import free_ports, ray_environment
from raymill.cluster.service import read_service
from raymill.cluster.settings import Settings

pytestmark = [pytest.mark.slow, pytest.mark.multinode, pytest.mark.timeout(1500)]

ROOT = Path(__file__).resolve().parents[2]
NAME = "triage"
HEAD_CPUS = 4
REPLICA_CPUS = 5
PER_S = 20.0
BACK_S = 60.0
EPOCHS = 40
STEPS = 12 * EPOCHS
SECTIONS: dict[str, Any] = {
    "dataset": {"train": "train.jsonl", "test": "many.jsonl"},
    "evaluate": {"tasks": ["heldout_exact_match"], "actors": 1, "limit": 4, "max_new_tokens": 4},
    "quantize": {"types": ["Q8_0"], "parity_prompts": 2, "max_new_tokens": 4},
    "promote": {"to": "production", "require": {"heldout_exact_match": {"at_least": 0.0}}},
    "serve": {"engine": "llama_cpp", "quantization": "Q8_0", "cpu_threads": 1, "cpus": REPLICA_CPUS},
}


class Cluster(NamedTuple):
    service: RunningService
    client: Raymill
    settings: Settings
    node: subprocess.Popen[bytes]

    def replicas(self) -> set[tuple[int, float]]:
        """Process and start time of each replica of a model on the second node."""
        found = set()
        for pid in processes.descendants(self.node.pid):
            process = psutil.Process(pid)
            if "ServeReplica:llm-" in " ".join(process.cmdline()):
                found.add((pid, process.create_time()))
        return found

    def kill_head(self) -> None:
        """All that was started for the head, at once."""
        supervisor = psutil.Process(read_service(self.settings).supervisor_pid)
        (head,) = [each for each in supervisor.children() if "--head" in each.cmdline()]
        processes.kill_all([*head.children(recursive=True), head])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A service whose head has room for two heavy jobs, and a second node with room for two replicas."""
    folder = tmp_path_factory.mktemp("head")
    settings = {
        "RAYMILL_HOME": str(HOME / "two-nodes"),
        "RAYMILL_PORT": str(free_port() + 1000),
        "RAYMILL_RAY_CPUS": str(HEAD_CPUS),
        "RAYMILL_HEAVY_SLOTS": "2",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_AUTH_TOKEN_PATH")
        for name, value in settings.items():
            patch.setenv(name, value)
        yield from running(Settings(), folder)


def running(settings: Settings, folder: Path) -> Iterator[Cluster]:
    done = subprocess.run(
        [sys.executable, "-m", "raymill.cluster.up"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    url, key = f"http://127.0.0.1:{settings.port}", (settings.keys_dir / "admin.key").read_text().strip()
    node = join(settings, folder)
    try:
        with Raymill(url, key) as client:
            yield Cluster(RunningService(url, key, settings.home), client, settings, node)
    finally:
        processes.end_tree(node.pid)
        subprocess.run([sys.executable, "-m", "raymill.cluster.down"], check=True, capture_output=True)


def join(settings: Settings, folder: Path) -> subprocess.Popen[bytes]:
    agent, agent_grpc, runtime_env, metrics = free_ports(4)
    command = [
        sys.executable, "-m", "tests.multinode.join", "start", f"--address={read_service(settings).ray_address}",
        "--block", "--disable-usage-stats", "--node-ip-address=127.0.0.1", f"--num-cpus={2 * REPLICA_CPUS}",
        f"--temp-dir={folder / 'r'}",
        f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={agent_grpc}",
        f"--runtime-env-agent-port={runtime_env}", f"--metrics-export-port={metrics}",
        "--min-worker-port=0", "--max-worker-port=0", f"--object-store-memory={100 << 20}",
    ]  # fmt: skip
    with (folder / "node.log").open("wb") as log:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=ray_environment(settings),
            start_new_session=True,
        )


Run = Callable[..., Pipeline]


@pytest.fixture(scope="module")
def run(cluster: Cluster, make_recipe: MakeRecipe, data: Path) -> Run:
    """Submit a recipe of the model, and wait until it has ended well."""
    heldout = rows(data / "heldout.jsonl")
    write_lines(data / "many.jsonl", heldout * 80)

    def run(learning_rate: float, **serve: Any) -> Pipeline:
        sections = {**SECTIONS, "serve": {**SECTIONS["serve"], **serve}}
        recipe = load_recipe(make_recipe(NAME, train={"learning_rate": learning_rate}, **sections))
        ended = cluster.client.pipelines.wait(
            cluster.client.pipelines.create(recipe.resolved()).id, timeout_s=600
        )
        assert ended.state == "succeeded", ended.error
        return ended

    return run


@pytest.fixture(scope="module")
def versions(run: Run) -> None:
    """Two, the second one in production."""
    run(0.001)
    run(0.002)


@pytest.fixture
def messages(data: Path) -> Any:
    return rows(data / "heldout.jsonl")[0]["messages"][:-1]


@pytest.mark.usefixtures("versions")
def test_a_rolling_update_fails_no_request(cluster: Cluster, run: Run, messages: Any) -> None:
    with Load(cluster.service, NAME, messages, PER_S) as load:
        started = time.monotonic()
        time.sleep(5)
        run(0.001)  # the alias moves to version 1
        run(0.001, max_model_len=128)  # its replicas are replaced
        run(0.002, max_model_len=128)
        time.sleep(8)  # old ones drain
        took_s = time.monotonic() - started
    targets = Counter(target for _, target in load.answered)
    say(f"{len(load.answered)} answered in {took_s:.0f} s ({dict(targets)}), {len(load.failed)} failed")
    assert load.failed == []
    assert {target.rpartition("@")[2] for target in targets} == {"1", "2"}
    assert len(load.answered) >= 0.9 * PER_S * took_s


@pytest.mark.usefixtures("versions")
def test_all_returns_after_the_head_was_killed(
    cluster: Cluster,
    make_recipe: MakeRecipe,
    messages: Any,
) -> None:
    client = cluster.client
    train = {"learning_rate": 0.003, "epochs": EPOCHS, "checkpoint_every": 10}
    recipe = load_recipe(make_recipe(NAME, train=train, dataset=SECTIONS["dataset"]))
    trains = Watch(cluster, client.pipelines.create(recipe.resolved()))
    eventually(lambda: bool(trains.told("train", "step")), LONG_S, every_s=0.2)
    before = cluster.replicas()
    assert len(before) == 1
    with Load(cluster.service, NAME, messages, 5) as load:
        evaluates = Watch(cluster, client.evaluations.run(f"{NAME}@1", max_new_tokens=64))
        eventually(lambda: bool(evaluates.told("evaluate", "progress")), LONG_S, every_s=0.1)
        killed_at = time.monotonic()  # at once: on a fast machine it is over in seconds
        cluster.kill_head()
        eventually(lambda: any(at > killed_at + 1 for at, _ in load.answered), LONG_S, every_s=0.2)
        back_s = next(at for at, _ in load.answered if at > killed_at + 1) - killed_at
        eventually(lambda: answers(client), LONG_S, every_s=0.2)
        api_s = time.monotonic() - killed_at
        trained, evaluated = (watch.ended() for watch in (trains, evaluates))
        ended_s = time.monotonic() - killed_at
    say(
        f"answers again after {back_s:.1f} s, the API after {api_s:.1f} s; both jobs ended after {ended_s:.0f} s; "
        f"{len(load.failed)} of {len(load.failed) + len(load.answered)} requests at 5/s failed"
    )
    assert cluster.replicas() == before
    assert (trained.attempt, evaluated.attempt) == (2, 2)  # both were running
    assert (trained.result or {})["steps"] == STEPS
    assert (evaluated.result or {})["samples"] == {"heldout_exact_match": 640}
    assert any("going on from the checkpoint" in data["text"] for data in trains.told("train", "log"))
    for watch in (trains, evaluates):
        assert all(count == 1 for (_, state), count in watch.states().items() if state == "succeeded")
    assert [version.number for version in client.llms.versions(NAME)] == [3, 2, 1]
    assert client.audit.verify().ok
    assert back_s < BACK_S


class Watch:
    """What a pipeline tells, from a thread: the stream goes on when the service is back."""

    def __init__(self, cluster: Cluster, pipeline: Pipeline) -> None:
        self._cluster, self._pipeline = cluster, pipeline
        self.events: list[JobEvent] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with Raymill(self._cluster.service.url, self._cluster.service.api_key) as client:
            for event in client.pipelines.events(self._pipeline.id):
                self.events.append(event)

    def told(self, step: str, kind: str) -> list[JsonObject]:
        """What a step has told of that kind."""
        of = {job.id for job in self._pipeline.jobs if job.step == step}
        return [event.data for event in self.events if event.kind == kind and event.job_id in of]

    def states(self) -> Counter[tuple[str, str]]:
        """How often each step came to each state."""
        return Counter(
            (event.data["step"], event.data["state"]) for event in self.events if event.kind == "state"
        )

    def ended(self) -> Job:
        """Its last step, once it has ended well."""
        ended = self._cluster.client.pipelines.wait(self._pipeline.id, timeout_s=600)
        assert ended.state == "succeeded", ended.error
        return ended.jobs[-1]
