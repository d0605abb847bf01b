"""Ray's own processes from the warm process: a head of this test's own, with actors of one job."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from raymill.cluster import processes
from raymill.cluster.ray_head import (
    RayHead,
    plan_head,
    ray_environment,
    ray_temp_dir,
    start_head,
    warm_socket,
)
from raymill.cluster.settings import Settings
from raymill.cluster.supervisor import node_is_alive
from raymill.cluster.warm.setup_worker import SOCKET

pytestmark = pytest.mark.slow  # it starts a Ray head of its own: half a minute

SERVER = """
import sys
import types
fake = types.ModuleType("preloaded"); fake.refresh = lambda: None
sys.modules["preloaded"] = fake
from raymill.cluster.warm import server
server.PRELOAD = "preloaded"
server.main()
"""

DRIVER = """
import json, os, sys
import ray

ray.init(address=os.environ["RAY_ADDRESS"], runtime_env={"env_vars": json.loads(sys.argv[1])}, log_to_driver=False)

@ray.remote(num_cpus=0, runtime_env={"env_vars": {"MORE": "ours"}})
class Actor:
    def told(self):
        job = ray.get_runtime_context().get_job_id()
        return os.getpid(), "preloaded" in sys.modules, os.environ["WORD"], os.environ["MORE"], job

actor = Actor.remote()
*found, job = ray.get(actor.told.remote())
print(json.dumps([*found, job == ray.get_runtime_context().get_job_id()]), flush=True)
sys.stdin.read()
"""

PATIENCE_S = 300.0


class Head(NamedTuple):
    settings: Settings
    process: subprocess.Popen[bytes]
    environment: dict[str, str]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    settings = Settings(home=tmp_path_factory.mktemp("warm-ray") / "home", warm_start=True)
    planned = plan_head(settings)
    environment = {**ray_environment(settings), "RAY_ADDRESS": planned.address}
    try:
        yield Head(settings, started(planned, settings), environment)
    finally:
        processes.end_all(processes.belonging_to("RAYMILL_HOME", str(settings.home), ray_temp_dir(settings)))


def started(planned: RayHead, settings: Settings) -> subprocess.Popen[bytes]:
    """Once its node is up. On a busy machine Ray gives up on its own processes; then another one."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        process = start_head(planned, settings)
        while process.poll() is None and time.monotonic() < deadline:
            if node_is_alive(planned.dashboard_url, settings):
                return process
            time.sleep(0.2)
        processes.end_tree(process.pid)
    raise AssertionError((settings.logs_dir / "ray.log").read_text()[-2000:])


@pytest.fixture
def server(head: Head) -> Iterator[subprocess.Popen[bytes]]:
    """A warm process that has one small module of its own instead of torch."""
    path = warm_socket(head.settings)
    assert path is not None
    with subprocess.Popen([sys.executable, "-c", SERVER, str(path)], env=head.environment) as process:
        deadline = time.monotonic() + PATIENCE_S
        while not path.is_socket():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield process
        process.kill()


def drive(head: Head) -> tuple[subprocess.Popen[str], list[object]]:
    """A job with one actor, and what that tells: pid, whether it is a copy, two variables, whether it knows its job."""
    variables = json.dumps({SOCKET: str(warm_socket(head.settings)), "WORD": "mine"})
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, variables],
        env=head.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert driver.stdout is not None
    return driver, json.loads(driver.stdout.readline())


def end(driver: subprocess.Popen[str]) -> None:
    driver.communicate(timeout=PATIENCE_S)


def test_a_jobs_actors_are_copies_and_without_a_warm_process_they_start_all_the_same(
    head: Head, server: subprocess.Popen[bytes]
) -> None:
    for warm in (True, False):
        driver, [pid, *told] = drive(head)
        assert told == [warm, "mine", "ours", True]
        assert isinstance(pid, int)
        actor = psutil.Process(pid)
        assert (actor.ppid() == server.pid) is warm
        end(driver)
        actor.wait(timeout=PATIENCE_S)  # with its job, by Ray
        server.kill()
        server.wait()


def test_a_copy_ends_with_its_raylet_which_is_the_last_that_this_head_does(
    head: Head, server: subprocess.Popen[bytes]
) -> None:
    driver, [pid, *_] = drive(head)
    assert isinstance(pid, int)
    assert psutil.Process(pid).ppid() == server.pid
    family = psutil.Process(head.process.pid).children(recursive=True)
    [raylet] = [each for each in family if Path(each.exe()).name == "raylet"]
    os.kill(raylet.pid, signal.SIGKILL)
    psutil.Process(pid).wait(timeout=PATIENCE_S)
    driver.kill()
    end(driver)
