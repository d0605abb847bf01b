"""What Serve does with the replicas of a version: replaced under load, left alone, scaled to none and woken.

Real Serve and the gateway's way to an engine; the engine itself only tells its process. Prints what it measured (`-s`).
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import ray
from ray import serve
from ray.serve import RunTarget
from tests.serve.conftest import unloaded_spec

from raymill.serve.gateway.catalog import Served
from raymill.serve.gateway.upstream import ServeEngines, Waking
from raymill.serve.llm.answer import Failure
from raymill.serve.llm.config import AutoscaleConfig, ServeConfig
from raymill.serve.llm.rollout import application_of
from raymill.serve.llm.spec import DeploySpec

pytestmark = [
    pytest.mark.slow,  # a Ray of its own, and replicas that come and go: a minute or two
    pytest.mark.timeout(900),
]

PER_S = 20.0
SPEC = unloaded_spec(ServeConfig(cpus=0.1))
SERVED = Served(name="triage", version=1, application=SPEC.application)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def engine(load_s: float, *, broken: bool = False) -> type:
    """An engine that takes so long to load, and so long as no model would to answer."""

    class Engine:
        def __init__(self, spec: DeploySpec) -> None:
            time.sleep(load_s)
            if broken:
                raise ValueError("model.safetensors was changed: restore it")
            self.length = spec.config.max_model_len

        async def chat(self, body: dict[str, Any]) -> bytes:
            await asyncio.sleep(body.get("takes_s", 0.05))
            return json.dumps({"process": os.getpid(), "length": self.length}).encode()

        async def unfinished(self) -> int:
            return 0

    return Engine


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(
        address="local", num_cpus=4, log_to_driver=False, include_dashboard=False, logging_level="WARNING"
    )
    serve.start(proxy_location="Disabled", logging_config={"log_level": "ERROR"})
    yield
    serve.shutdown()
    ray.shutdown()


def deploy(spec: DeploySpec, made: type) -> None:
    target = RunTarget(target=application_of(made, spec), name=spec.application, route_prefix=None)
    serve.run_many([target], wait_for_applications_running=False)


def status() -> str:
    return str(serve.status().applications[SPEC.application].status.value)


def replicas() -> int:
    states = serve.status().applications[SPEC.application].deployments["engine"].replica_states
    return int(states.get("RUNNING", 0))


async def until(holds: Callable[[], bool], within_s: float = 180) -> float:
    started = time.monotonic()
    while not holds():
        assert time.monotonic() - started < within_s, (status(), replicas())
        await asyncio.sleep(0.1)
    return time.monotonic() - started


async def ask(engines: ServeEngines, **body: Any) -> dict[str, Any]:
    reply = await engines.whole(SERVED, "chat", body)
    assert not isinstance(reply, Failure)
    answer: dict[str, Any] = json.loads(reply)
    return answer


async def asked(engines: ServeEngines, stop: asyncio.Event) -> tuple[list[dict[str, Any]], list[str]]:
    """Answers and failures of requests that come at a fixed rate until `stop`."""
    answers: list[dict[str, Any]] = []
    failures: list[str] = []

    async def one() -> None:
        try:
            answers.append(await ask(engines))
        except Exception as error:
            failures.append(repr(error))
            raise

    tasks = []
    while not stop.is_set():
        tasks.append(asyncio.create_task(one()))
        await asyncio.sleep(1 / PER_S)
    await asyncio.gather(*tasks, return_exceptions=True)
    return answers, failures


def with_(spec: DeploySpec = SPEC, **settings: Any) -> DeploySpec:
    return replace(spec, config=spec.config.model_copy(update=settings))


def test_replicas_are_replaced_only_where_they_must_and_no_request_fails() -> None:
    async def steps() -> None:
        engines, stop = ServeEngines(), asyncio.Event()
        deploy(SPEC, engine(0))
        await until(lambda: status() == "RUNNING")
        first = (await ask(engines))["process"]
        load = asyncio.create_task(asked(engines, stop))
        took_s = []
        deploy(SPEC, engine(0))  # a second alias
        took_s.append(await until(lambda: status() == "RUNNING"))
        assert (await ask(engines))["process"] == first
        deploy(with_(replicas=2), engine(0))
        took_s.append(await until(lambda: replicas() == 2))
        seen = {(await ask(engines))["process"] for _ in range(20)}
        assert first in seen
        deploy(
            with_(replicas=2, max_model_len=64), engine(3)
        )  # the old two answer until the new two are ready
        assert (await ask(engines))["length"] is None
        await asyncio.sleep(0.5)
        took_s.append(await until(lambda: status() == "RUNNING"))
        await asyncio.sleep(3)
        assert (await ask(engines))["length"] == 64
        deploy(with_(replicas=2, max_model_len=32), engine(0, broken=True))
        took_s.append(await until(lambda: status() == "DEPLOY_FAILED"))
        assert (await ask(engines))["length"] == 64  # the old ones stay
        deploy(replace(with_(replicas=2, max_model_len=32), attempt="2"), engine(0))
        await asyncio.sleep(0.5)
        took_s.append(await until(lambda: status() == "RUNNING"))
        await asyncio.sleep(3)
        stop.set()
        answers, failures = await load
        lengths = Counter(str(each["length"]) for each in answers)
        say(f"again, to 2, settings, broken, mended: {[round(each, 1) for each in took_s]} s")
        say(f"{len(answers)} answered ({dict(lengths)}), {len(failures)} failed")
        assert failures == []
        assert set(lengths) == {"None", "64", "32"}

    asyncio.run(steps())


def test_an_idle_version_ends_its_replicas_and_the_next_request_wakes_it() -> None:
    scale = AutoscaleConfig(
        min_replicas=0, max_replicas=3, target_ongoing_requests=2, scale_up_delay_s=1, scale_down_delay_s=2
    )

    async def steps() -> None:
        engines = ServeEngines()
        deploy(with_(autoscale=scale, max_model_len=16), engine(3))
        await asyncio.sleep(0.5)
        await until(lambda: status() == "RUNNING")
        say(f"none after {await until(lambda: replicas() == 0):.1f} s without requests")
        with pytest.raises(
            Waking, match=r"triage@1 was idle and is being started, which takes longer than 0.5 s"
        ):
            await engines.wake(SERVED, 0.5)
        started = time.monotonic()
        await asyncio.gather(*(engines.wake(SERVED, 60) for _ in range(50)))
        assert (await ask(engines))["length"] == 16
        say(f"awake {time.monotonic() - started:.1f} s later, of which it loads 3 s")
        many = asyncio.gather(*(ask(engines, takes_s=60) for _ in range(6)))
        say(f"3 replicas {await until(lambda: replicas() == 3):.1f} s after 6 requests at once")
        await many
        say(f"none again after {await until(lambda: replicas() == 0):.1f} s")

    asyncio.run(steps())
