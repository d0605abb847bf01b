"""Routing by prefix over real replicas, by the gateway's way to them; the engine itself only tells its process.

What real prefix caches make of it, `benchmarks/prefixes.py` measures.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray import serve
from ray.serve import RunTarget
from tests.serve.conftest import unloaded_spec

from raymill.policies.errors import Unavailable
from raymill.serve.gateway.catalog import Served
from raymill.serve.gateway.upstream import ServeEngines
from raymill.serve.llm.answer import Failure
from raymill.serve.llm.config import Routing, ServeConfig
from raymill.serve.llm.prefix_router import by_prefix
from raymill.serve.llm.rollout import application_of
from raymill.serve.llm.spec import DeploySpec

pytestmark = [
    pytest.mark.slow,  # a Ray of its own: half a minute
    pytest.mark.timeout(600),
]

SPEC = unloaded_spec(ServeConfig(cpus=0.1, replicas=2))
CONVERSATIONS, TURNS = 12, 6


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


class Engine:
    def __init__(self, spec: DeploySpec) -> None:
        pass

    async def chat(self, body: dict[str, Any]) -> bytes:
        await asyncio.sleep(0.05)
        return json.dumps({"process": os.getpid(), "said": len(body["messages"])}).encode()


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(
        address="local", num_cpus=4, log_to_driver=False, include_dashboard=False, logging_level="WARNING"
    )
    serve.start(proxy_location="Disabled", logging_config={"log_level": "ERROR"})
    application = application_of(Engine, SPEC, request_router_config=by_prefix())
    serve.run_many([RunTarget(target=application, name=SPEC.application, route_prefix=None)])
    yield
    serve.shutdown()
    ray.shutdown()


async def ask(engines: ServeEngines, messages: list[dict[str, str]], routing: Routing = "prefix") -> int:
    """The process that answers."""
    served = Served(name="triage", version=1, application=SPEC.application, routing=routing)
    reply = await engines.whole(served, "chat", {"model": "triage@1", "messages": messages})
    assert not isinstance(reply, Failure)
    answer = json.loads(reply)
    assert answer["said"] == len(messages)
    process: int = answer["process"]
    return process


async def talk(engines: ServeEngines, name: str, routing: Routing = "prefix") -> list[int]:
    """The processes that answer the turns of a conversation."""
    messages = [{"role": "system", "content": "You answer customers of a parcel service. " * 50}]
    answered = []
    for turn in range(TURNS):
        messages.append({"role": "user", "content": f"{name}, {turn}: where is my parcel? " * 40})
        answered.append(await ask(engines, messages, routing))
        await asyncio.sleep(0.1)
        messages.append({"role": "assistant", "content": "It is late. " * 20})
    return answered


def moves(conversations: list[list[int]]) -> int:
    return sum(a != b for turns in conversations for a, b in itertools.pairwise(turns))


def test_conversations_stay_where_they_are_until_the_gateway_is_told_otherwise() -> None:
    async def steps() -> None:
        engines = ServeEngines()
        moved: dict[str, int] = {}
        for routing in ("prefix", "balanced", "prefix"):
            names = [f"{routing} {len(moved)} {number}" for number in range(CONVERSATIONS)]
            answered = await asyncio.gather(*(talk(engines, name, routing) for name in names))
            shares = Counter(process for turns in answered for process in turns)
            assert len(shares) == 2
            moved[routing] = moves(answered)
            say(
                f"{routing}: {moved[routing]} of {CONVERSATIONS * (TURNS - 1)} turns on another replica, {shares}"
            )
        assert moved["prefix"] <= moved["balanced"] / 3

    asyncio.run(steps())


def test_a_prefix_that_all_share_starves_no_replica() -> None:
    async def steps() -> None:
        engines = ServeEngines()
        messages = [{"role": "user", "content": "Where is my parcel? " * 500}]
        answered = Counter(await asyncio.gather(*(ask(engines, messages) for _ in range(100))))
        say(f"100 requests of one prefix: {answered}")
        assert sorted(answered.values())[0] >= 40

    asyncio.run(steps())


def test_a_killed_replica_fails_only_what_it_was_answering() -> None:
    async def steps() -> None:
        engines, failed = ServeEngines(), 0
        homes = [(await talk(engines, f"killed {number}"))[-1] for number in range(4)]
        lost = homes[0]

        async def patient(name: str) -> list[int]:
            nonlocal failed
            messages = [{"role": "user", "content": f"{name}: where is my parcel? " * 100}]
            answered = []
            for _ in range(40):
                try:
                    answered.append(await ask(engines, messages))
                except Unavailable:
                    failed += 1
            return answered

        talks = [asyncio.create_task(patient(f"killed {number}")) for number in range(8)]
        await asyncio.sleep(0.5)
        os.kill(lost, signal.SIGKILL)
        answered = await asyncio.gather(*talks)
        say(f"{failed} of {8 * 40} failed when a replica was killed")
        assert failed <= 8  # what it had begun, which Serve does not repeat
        assert all(turns[-1] != lost for turns in answered)
        assert sum(map(len, answered)) + failed == 8 * 40

    asyncio.run(steps())
