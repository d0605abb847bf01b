"""Serving at scale, on the whole service: replaced, scaled and woken under load. Prints what it measured (`-s`)."""

from __future__ import annotations

import asyncio
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psutil
import pytest
from tests.conftest import RunningService
from tests.e2e.conftest import MakeRecipe, raymill

from raymill.client.sdk import Raymill
from raymill.client.types import Deployment
from raymill.cluster.settings import Settings
from raymill.cluster.supervisor import leftovers

pytestmark = [
    pytest.mark.usefixtures("service"),
    pytest.mark.slow,  # several engines are loaded one after another, each for tens of seconds on two cores
    pytest.mark.timeout(1500),
]

NAME = "roller"
PER_S = 20.0
EVALUATE: dict[str, Any] = {"tasks": ["heldout_exact_match"], "actors": 1, "max_new_tokens": 4}
QUANTIZE: dict[str, Any] = {"types": ["Q8_0"], "parity_prompts": 2, "max_new_tokens": 4}
SERVE: dict[str, Any] = {"engine": "llama_cpp", "quantization": "Q8_0", "cpu_threads": 1}
"""Ready in seconds, where vLLM takes half a minute: what is tried here is the same for both."""


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


class Load:
    """Requests at a fixed rate, whatever becomes of those before; every other one is streamed."""

    def __init__(self, service: RunningService, model: str) -> None:
        self._service = service
        self._model = model
        self._stop = threading.Event()
        self.answered: list[tuple[float, float, str]] = []
        """When it was sent, how long it took, both s; which version answered."""

        self.failed: list[str] = []

    def run(self) -> None:
        asyncio.run(self._run())

    def stop(self) -> None:
        self._stop.set()

    async def _run(self) -> None:
        headers = {"Authorization": f"Bearer {self._service.api_key}"}
        limits = httpx.Limits(max_connections=500)
        async with (
            httpx.AsyncClient(
                base_url=self._service.url, headers=headers, timeout=120, limits=limits
            ) as client,
            asyncio.TaskGroup() as tasks,
        ):
            due, number = time.monotonic(), 0
            while not self._stop.is_set():
                tasks.create_task(self._ask(client, number))
                number += 1
                due += 1 / PER_S
                await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _ask(self, client: httpx.AsyncClient, number: int) -> None:
        started = time.monotonic()
        body = {**asking(self._model), "stream": number % 2 == 0}
        try:
            answer = await client.post("/v1/chat/completions", json=body)
        except httpx.HTTPError as error:
            self.failed.append(repr(error))
            return
        whole = "[DONE]" in answer.text if body["stream"] else "choices" in answer.text
        if answer.status_code != 200 or not whole or '"error"' in answer.text:
            self.failed.append(f"{answer.status_code} {answer.text[-300:]}")
            return
        version = answer.headers["x-raymill-target"].rpartition("@")[2]
        self.answered.append((started, time.monotonic() - started, version))


@contextmanager
def loaded(service: RunningService, model: str) -> Iterator[Load]:
    load = Load(service, model)
    thread = threading.Thread(target=load.run)
    thread.start()
    try:
        yield load
    finally:
        load.stop()
        thread.join(timeout=150)


def asking(model: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": "My parcel is late."}]
    return {"model": model, "messages": messages, "max_tokens": 8, "temperature": 0}


def engines(number: int) -> set[int]:
    """Processes of the replicas of a version."""
    title = f"ray::ServeReplica:llm-{NAME}-{number}:engine"
    return {process.pid for process in leftovers(Settings()) if command(process)[:1] == [title]}


def command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def deployed(client: Raymill, alias: str) -> Deployment:
    return next(each for each in client.deployments.list() if (each.llm, each.alias) == (NAME, alias))


def until(what: str, holds: Any, within_s: float = 240) -> float:
    """Seconds until it holds."""
    started = time.monotonic()
    while not holds():
        assert time.monotonic() - started < within_s, f"not in {within_s} s: {what}"
        time.sleep(0.3)
    return time.monotonic() - started


def run(make_recipe: MakeRecipe, alias: str | None = "production", rate: float = 0.001, **serve: Any) -> None:
    """Train what is not trained yet, promote to `alias`, and serve it."""
    sections: dict[str, Any] = {"evaluate": EVALUATE, "quantize": QUANTIZE}
    if alias is not None:
        require = {"heldout_exact_match": {"at_least": 0.0}}
        sections |= {"promote": {"to": alias, "require": require}, "serve": SERVE | serve}
    done = raymill("run", str(make_recipe(NAME, train={"learning_rate": rate}, **sections)), timeout_s=600)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def engine(make_recipe: MakeRecipe) -> int:
    """The process of the one replica of version 1."""
    run(make_recipe)
    (process,) = engines(1)
    return process


def test_a_second_alias_and_other_numbers_of_replicas_leave_the_engine_alone(
    engine: int, client: Raymill, make_recipe: MakeRecipe
) -> None:
    started = time.monotonic()
    run(make_recipe, alias="sandbox")
    say(f"second alias: ready after {time.monotonic() - started:.1f} s, the pipeline included")
    assert deployed(client, "sandbox").state == "ready"
    assert engines(1) == {engine}
    run(make_recipe, replicas=2)
    until("there are two", lambda: len(engines(1)) == 2)
    assert engine in engines(1)


@pytest.mark.usefixtures("engine")
def test_an_idle_version_ends_its_replicas_and_the_first_request_wakes_it(
    service: RunningService, make_recipe: MakeRecipe
) -> None:
    scale = {"min_replicas": 0, "max_replicas": 2, "scale_down_delay_s": 2, "wake_s": 1}
    headers = {"Authorization": f"Bearer {service.api_key}"}
    url = f"{service.url}/v1/chat/completions"
    run(make_recipe, autoscale=scale)
    took_s = until("no replica is left", lambda: not engines(1))
    say(f"scaled to zero after {took_s:.1f} s")
    hasty = httpx.post(url, json=asking(NAME), headers=headers, timeout=60)
    assert hasty.status_code == 503, hasty.text
    assert (hasty.headers["retry-after"], hasty.json()["error"]["code"]) == ("5", "engine_waking")
    until("it was woken nevertheless", lambda: bool(engines(1)))
    until("it sleeps again", lambda: not engines(1))
    run(make_recipe, autoscale={**scale, "wake_s": 120})
    until("it sleeps still", lambda: not engines(1))
    started = time.monotonic()
    woken = httpx.post(url, json=asking(NAME), headers=headers, timeout=150)
    assert woken.status_code == 200, woken.text
    say(f"first request of an idle version: {time.monotonic() - started:.1f} s")
    assert "0-2" in raymill("status").stdout


@pytest.mark.usefixtures("engine")
def test_versions_and_settings_are_replaced_under_load_without_a_failed_request(
    service: RunningService, client: Raymill, make_recipe: MakeRecipe
) -> None:
    run(make_recipe)
    run(make_recipe, alias=None, rate=0.002)

    def is_ready() -> bool:
        row = deployed(client, "production")
        return (row.version, row.state) == (2, "ready")

    with loaded(service, NAME) as load:
        time.sleep(3)
        promoted = raymill("promotion", "create", NAME, "2")
        assert promoted.returncode == 0, promoted.stderr
        say(f"new version: ready after {until('version 2 answers', is_ready):.1f} s")
        until("version 1 has ended", lambda: not engines(1))
        (before,) = engines(2)
        started = time.monotonic()
        run(make_recipe, rate=0.002, max_model_len=128)
        say(f"new settings: ready after {time.monotonic() - started:.1f} s")
        until("the old replica has ended", lambda: before not in engines(2))
        time.sleep(3)
    versions = Counter(version for *_, version in load.answered)
    say(f"{len(load.answered)} answered, {len(load.failed)} failed, {dict(versions)}")
    times = sorted(took for _, took, _ in load.answered)
    say(f"latency: median {times[len(times) // 2] * 1e3:.0f} ms, longest {times[-1] * 1e3:.0f} ms")
    assert load.failed == []
    assert set(versions) == {"1", "2"}


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine may have the GPUs")
def test_more_gpus_than_the_machine_has_are_refused_when_a_recipe_is_submitted(
    make_recipe: MakeRecipe,
) -> None:
    sections = {"promote": {"to": "production"}, "serve": {"gpus": 4, "pipeline_parallel": 2}}
    refused = raymill("run", str(make_recipe("too-great", **sections)))
    assert refused.returncode != 0
    assert "serve.gpus 4: a replica needs so many, and this machine has 0" in refused.stderr
