"""ray-cluster.yaml's own commands on machines that share nothing but a folder and a database: each has a network, processes
and memory of its own. Work is spread over them; a cable is pulled, power is cut, the head's machine is replaced.

Prints what it measured (`-s`).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import selectors
import shlex
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from tests.conftest import RunningService
from tests.e2e.conftest import MakeRecipe, rows
from tests.multinode.load import LONG_S, Load, answers, say
from tests.multinode.machines import OUTSIDE, SCRATCH, SHARED, Machine, Site, why_not
from tests.waiting import eventually

from raymill.client.recipe import load_recipe
from raymill.client.sdk import Raymill
from raymill.client.types import Pipeline
from raymill.policies.errors import RaymillError
from raymill.registry.postgres import EmbeddedPostgres

pytestmark = [pytest.mark.slow, pytest.mark.multinode, pytest.mark.timeout(1800)]

ROOT = Path(__file__).resolve().parents[2]
PORT = 8000
NAME = "triage"
REPLICA_CPUS = 3
PER_S = 5.0
WARNED_S = 5.0
"""So long after a machine fell silent a request may still be given to a replica there."""


class Cluster:
    """Machines that `ray up` would have set up from ray-cluster.yaml, and a service on their head."""

    def __init__(self, site: Site, folder: Path, database_url: str) -> None:
        self._site, self._folder = site, folder
        self._yaml: dict[str, Any] = yaml.safe_load((ROOT / "ray-cluster.yaml").read_text())
        self._token = secrets.token_hex(32)
        self._database_url = database_url
        self.head = site.add()
        self.workers: list[Machine] = []

    @property
    def service(self) -> RunningService:
        home = self._site.shared
        return RunningService(
            f"http://{self.head.address}:{PORT}", (home / "keys" / "admin.key").read_text().strip(), home
        )

    def start_head(self) -> None:
        """As the launcher does, and `raymill up` as the first lines of the file say."""
        self._ray(self.head, "head", {"CPU": 0})
        text = (ROOT / "ray-cluster.yaml").read_text()
        (up,) = re.findall(r"ray exec ray-cluster\.yaml '(.*raymill up)'", text)
        self._run(self.head, f"cd; {up}", {})

    def add_worker(self, cpus: int) -> Machine:
        machine = self._site.add()
        self._ray(machine, "worker", {"CPU": cpus})
        self.workers.append(machine)
        return machine

    def replace_head(self) -> None:
        """Another machine at the address of the one that is gone."""
        self.head.cut_power()
        self.head = self._site.replace(self.head)

    def restart_worker(self, machine: Machine, cpus: int) -> None:
        """As the launcher does on machines that are still there."""
        self._ray(machine, "worker", {"CPU": cpus})

    def _ray(self, machine: Machine, kind: str, resources: dict[str, int]) -> None:
        # `ray stop` ends what this machine has of Ray, which sees no other's processes. The autoscaler asks AWS.
        for line in self._yaml[f"{kind}_start_ray_commands"]:
            command = line.replace("--autoscaling-config=~/ray_bootstrap_config.yaml", "")
            self._run(machine, command, {"RAY_OVERRIDE_RESOURCES": json.dumps(resources)})

    def _run(self, machine: Machine, command: str, environment: dict[str, str]) -> None:
        log = self._folder / f"{machine.name}.log"
        given = {
            "HOME": str(self._home(machine)),
            "PATH": os.environ["PATH"],
            "TMPDIR": SCRATCH,
            "RAY_TMPDIR": SCRATCH,
            "RAY_HEAD_IP": self.head.address,
            "HF_HUB_OFFLINE": "1",
            **({"PYTHONPATH": path} if (path := os.environ.get("PYTHONPATH")) else {}),
        }
        status = machine.run(command, {**given, **environment}, log)
        assert status == 0, f"{command}\n{log.read_text()[-5000:]}"

    def _home(self, machine: Machine) -> Path:
        """With what the launcher copies there."""
        home = self._folder / machine.name
        if not home.exists():
            (home / "raymill").mkdir(parents=True)
            (home / "raymill" / ".venv").symlink_to(sys.prefix)
            (home / "raymill" / "cluster").symlink_to(ROOT / "cluster")
            (home / ".ray").mkdir()
            (home / ".ray" / "auth_token").write_text(self._token)
            settings = {"DATABASE_URL": self._database_url, "RAYMILL_HOME": SHARED}
            lines = [f"{name}={shlex.quote(value)}\n" for name, value in settings.items()]
            (home / "raymill.env").write_text("".join(lines))
        return home


@pytest.fixture(scope="module")
def cluster(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A head, and two machines with room for a training worker each."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("site")
    (folder / "shared").mkdir()
    host, port = re.findall(r"@([\d.]+):(\d+)/", postgres.url())[0]
    with ExitStack() as stack:
        site = stack.enter_context(Site(folder / "shared"))
        through = stack.enter_context(forwarded((host, int(port))))
        cluster = Cluster(site, folder, postgres.url().replace(f"{host}:{port}", f"{OUTSIDE}:{through}"))
        cluster.start_head()
        cluster.add_worker(1)
        cluster.add_worker(1)
        yield cluster


@pytest.fixture(scope="module")
def client(cluster: Cluster) -> Iterator[Raymill]:
    with Raymill(cluster.service.url, cluster.service.api_key) as client:
        yield client


class Forward(socketserver.BaseRequestHandler):
    """Passes a connection on to a server of this machine's loopback, whose port the subclass names."""

    there: ClassVar[tuple[str, int]]

    def handle(self) -> None:
        near: socket.socket = self.request
        with socket.create_connection(self.there) as far, selectors.DefaultSelector() as selector:
            for source, sink in ((near, far), (far, near)):
                selector.register(source, selectors.EVENT_READ, sink)
            with contextlib.suppress(ConnectionError):
                while True:
                    for key, _ in selector.select():
                        data = key.fileobj.recv(1 << 16)  # type: ignore[union-attr]
                        if not data:
                            return
                        key.data.sendall(data)


@contextlib.contextmanager
def forwarded(there: tuple[str, int]) -> Iterator[int]:
    """The port at `OUTSIDE` of a server of this machine's loopback."""
    handler = type("To", (Forward,), {"there": there})
    with socketserver.ThreadingTCPServer((OUTSIDE, 0), handler) as server:
        server.daemon_threads, server.block_on_close = True, False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield int(server.server_address[1])
        server.shutdown()


Submit = Callable[..., Pipeline]


@pytest.fixture
def submit(client: Raymill, make_recipe: MakeRecipe) -> Submit:
    def submit(learning_rate: float, *, replicas: int = 1, **train: Any) -> Pipeline:
        sections: dict[str, Any] = {
            "evaluate": {"tasks": ["heldout_exact_match"], "actors": 2, "limit": 4, "max_new_tokens": 4},
            "quantize": {"types": ["Q8_0"], "parity_prompts": 2, "max_new_tokens": 4},
            "promote": {"to": "production", "require": {"heldout_exact_match": {"at_least": 0.0}}},
            "serve": {
                "engine": "llama_cpp",
                "quantization": "Q8_0",
                "cpu_threads": 1,
                "cpus": REPLICA_CPUS,
                "replicas": replicas,
            },
        }
        train = {"learning_rate": learning_rate, "workers": 2, "zero": 2, **train}
        recipe = load_recipe(make_recipe(NAME, train=train, **(sections if replicas else {})))
        return client.pipelines.create(recipe.resolved())

    return submit


def ended_well(client: Raymill, pipeline: Pipeline) -> Pipeline:
    ended = client.pipelines.wait(pipeline.id, timeout_s=900)
    assert ended.state == "succeeded", ended.error
    return ended


def hosts(client: Raymill, pipeline: Pipeline) -> list[str]:
    """Where each training worker of a pipeline was."""
    steps = {job.id: job.step for job in pipeline.jobs}
    return [
        str(event.data["host"])
        for event in client.pipelines.events(pipeline.id)
        if event.kind == "worker" and steps.get(event.job_id) == "train"
    ]


def wait_for_event(client: Raymill, pipeline: Pipeline, step: str, kind: str) -> None:
    (job,) = [job.id for job in pipeline.jobs if job.step == step]
    for event in client.pipelines.events(pipeline.id):
        if event.kind == kind and event.job_id == job:
            return
    raise AssertionError(f"{step} told no {kind}")


def test_a_model_is_trained_over_two_machines_and_served_on_a_third_that_comes_later(
    cluster: Cluster, client: Raymill, submit: Submit, data: Path
) -> None:
    pipeline = submit(0.001)
    wait_for_event(client, pipeline, "train", "step")
    third = cluster.add_worker(REPLICA_CPUS)
    ended_well(client, pipeline)
    trained_on = hosts(client, pipeline)
    assert sorted(trained_on) == sorted(machine.name for machine in cluster.workers[:2])
    messages = rows(data / "heldout.jsonl")[0]["messages"][:-1]
    assert list(client.chat.stream(NAME, messages, max_tokens=2))
    say(f"trained on {', '.join(trained_on)}, served on {third.name}")


def test_nothing_is_lost_with_a_machine_that_trains(
    cluster: Cluster, client: Raymill, submit: Submit
) -> None:
    pipeline = submit(0.002, replicas=0, epochs=10, checkpoint_every=5)
    wait_for_event(client, pipeline, "train", "checkpoint")
    gone = cluster.workers.pop(0)
    gone.cut_power()
    cut_at = time.monotonic()
    new = cluster.add_worker(1)
    ended = ended_well(client, pipeline)
    say(f"power cut at {gone.name}: trained to its end after {time.monotonic() - cut_at:.0f} s")
    (train,) = [job for job in ended.jobs if job.step == "train"]
    assert train.attempt == 1
    assert (train.result or {})["steps"] == 12 * 10
    assert new.name in hosts(client, ended)


def test_replicas_of_other_machines_go_on_when_a_cable_is_pulled(
    cluster: Cluster, client: Raymill, submit: Submit, data: Path
) -> None:
    serving = next(machine for machine in cluster.workers if machine.name == "machine-4")
    cluster.add_worker(REPLICA_CPUS)
    ended_well(client, submit(0.001, replicas=2))
    messages = rows(data / "heldout.jsonl")[0]["messages"][:-1]
    with Load(cluster.service, NAME, messages, PER_S) as load:
        eventually(lambda: len(load.answered) > 10 * PER_S, LONG_S, every_s=0.2)
        pulled_at = time.monotonic()
        serving.pull_cable()
        time.sleep(90)  # Ray gives a machine that is not heard from about 65 s
    late = [sent_at - pulled_at for sent_at, _ in load.failed]
    say(
        f"{len(load.answered)} answered, {len(late)} failed, of which the last was sent {max(late, default=0):.1f} s after the "
        f"cable was pulled; {load.answered_between(pulled_at, pulled_at + 5)} answered in the 5 s after it"
    )
    serving.plug_cable()
    assert answers(client)
    assert all(sent_s < WARNED_S for sent_s in late)
    assert len(late) < 0.02 * len(load.answered)


def test_a_new_machine_takes_the_place_of_the_head(cluster: Cluster, client: Raymill, submit: Submit) -> None:
    pipeline = submit(0.003, replicas=0, epochs=10, checkpoint_every=5)
    wait_for_event(client, pipeline, "train", "checkpoint")
    cut_at = time.monotonic()
    cluster.replace_head()
    cluster.start_head()
    up_s = time.monotonic() - cut_at
    for machine in cluster.workers:
        cluster.restart_worker(machine, REPLICA_CPUS)
    ended = ended_well(client, pipeline)
    (train,) = [job for job in ended.jobs if job.step == "train"]
    assert train.attempt == 2
    assert (train.result or {})["steps"] == 12 * 10
    eventually(lambda: chats(client), LONG_S, every_s=0.2)
    say(
        f"another head's service is up after {up_s:.0f} s, and all is back after {time.monotonic() - cut_at:.0f} s"
    )
    assert client.audit.verify().ok


def chats(client: Raymill) -> bool:
    try:
        list(client.chat.stream(NAME, [{"role": "user", "content": "it is broken"}], max_tokens=2))
    except RaymillError:
        return False
    return True
