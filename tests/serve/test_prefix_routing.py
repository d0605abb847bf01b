"""Which replica a request goes to. Ray's own router, with replicas that only tell how much they have to do."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from pydantic import ValidationError
from ray.serve._private import build_app
from ray.serve._private.common import (
    DeploymentHandleSource,
    DeploymentID,
    ReplicaID,
    RequestMetadata,
)
from ray.serve._private.request_router.common import PendingRequest
from ray.serve._private.request_router.replica_wrapper import RunningReplica
from sqlalchemy import select
from tests.registry.making import World
from tests.serve.conftest import unloaded_spec

from raymill.cluster.settings import Settings
from raymill.registry import deployments
from raymill.registry.tables import DeploymentState, LlmVersion
from raymill.serve.llm import prefix_memory
from raymill.serve.llm.build import build_engine
from raymill.serve.llm.config import ServeConfig
from raymill.serve.llm.prefix_memory import MOST_AHEAD, PrefixMemory, best, prompt_of
from raymill.serve.llm.prefix_router import PrefixRouter
from raymill.serve.registry_source import RegistrySource

ENGINE = DeploymentID(name="engine", app_name="llm-triage-1")
SYSTEM = "You answer customers of a parcel service. " * 60  # 10 blocks


class Standing(RunningReplica):  # type: ignore[misc]
    """A replica that has so many requests of others, and takes `room` at once."""

    def __init__(self, name: str, load: int = 0, room: int = 100) -> None:
        self._id = ReplicaID(unique_id=name, deployment_id=ENGINE)
        self.load, self.room = load, room

    replica_id = property(lambda self: self._id)
    max_ongoing_requests = property(lambda self: self.room)
    node_id = availability_zone = property(lambda _: None)
    multiplexed_model_ids = property(lambda _: set())

    async def get_queue_len(self, *, deadline_s: float) -> int:  # noqa: ARG002
        return self.load


class Routing:
    """A router, and what Serve does with the replica that it gives."""

    def __init__(self, *replicas: Standing) -> None:
        self.router = PrefixRouter(
            deployment_id=ENGINE,
            handle_source=DeploymentHandleSource.REPLICA,
            use_replica_queue_len_cache=True,
        )
        self.router.initialize_state()
        self.replicas = {each.replica_id: each for each in replicas}
        self.router.update_replicas(list(replicas))
        self._count = 0

    async def route(self, body: Any, *, routing: str = "prefix", ends: bool = True) -> str:
        """The replica that answers; at once, unless it goes on with it."""
        self._count += 1
        metadata = RequestMetadata(
            request_id=str(self._count), internal_request_id=str(self._count), session_id=routing
        )
        request = PendingRequest(args=[body] if body is not None else [], kwargs={}, metadata=metadata)
        async with asyncio.timeout(5):
            taken: ReplicaID = (await self.router._choose_replica_for_request(request)).replica_id
        replica = self.replicas[taken]
        assert replica.load < replica.room
        self.router.on_send_request(taken)
        replica.load += 1
        self.router.on_new_queue_len_info(taken, replica.load)
        self.router.on_request_routed(request, taken, None)
        if ends:
            replica.load -= 1
            self.router.decrement_queue_len_cache(taken)
        return str(taken.unique_id)


def routed(*replicas: Standing, steps: Callable[[Routing], Awaitable[None]]) -> None:
    async def run() -> None:
        await steps(Routing(*replicas))

    asyncio.run(run())


def chat(*messages: str, model: str = "triage@1", system: str = SYSTEM) -> dict[str, Any]:
    said = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(messages)]
    return {"model": model, "messages": [{"role": "system", "content": system}, *said]}


def test_a_turn_begins_as_the_one_before_and_another_model_shares_nothing() -> None:
    first, second = prompt_of(chat("a" * 900)), prompt_of(chat("a" * 900, "b" * 900, "c"))
    assert first.chain == second.chain[: len(first.chain)]
    assert len(second.chain) > len(first.chain) > 10
    assert first.opening == second.opening
    other = prompt_of(chat("a" * 900, model="triage@2"))
    assert not set(first.chain) & set(other.chain)
    assert other.opening != first.opening
    with_tools = prompt_of(chat("a" * 900) | {"tools": [{"type": "function"}]})
    assert not set(first.chain) & set(with_tools.chain)
    text = prompt_of({"model": "triage@1", "prompt": "a" * 1000})
    assert text.chain == prompt_of({"model": "triage@1", "prompt": "a" * 1000 + "b" * 1000}).chain[:3]


def test_a_prompt_is_looked_at_up_to_a_bound() -> None:
    assert len(prompt_of(chat("a" * 2_000_000)).chain) == prefix_memory.MOST_BLOCKS
    assert len(prompt_of(chat(*["a" * 1000] * 2000)).chain) == prefix_memory.MOST_BLOCKS


def test_what_is_remembered_is_bounded_in_number_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_memory, "MOST_REMEMBERED", 6)
    memory = PrefixMemory()
    memory.add([1, 2, 3, 4], 0.0)
    memory.add([1, 2, 9, 10], 10.0)
    assert (memory.known([1, 2, 3, 4], 10.0), memory.known([1, 2, 9, 10, 11], 10.0)) == (4, 4)
    memory.add([7], 20.0)
    assert len(memory) == 6
    assert memory.known([1, 2, 3, 4], 20.0) == 3  # a beginning outlives its end
    assert memory.known([1, 2, 9, 10], 10.0 + prefix_memory.FORGOTTEN_AFTER_S) == 4
    assert memory.known([1, 2, 9, 10], 11.0 + prefix_memory.FORGOTTEN_AFTER_S) == 0
    assert len(memory) == 1


def test_no_choice_is_far_ahead_of_the_least_busy_and_none_is_worse_than_both_ways() -> None:
    draw = random.Random(1)
    for _ in range(2000):
        loads = {name: draw.randrange(20) for name in "abcd"}
        known = {name: draw.choice([0, 0, 3, 10, 100]) for name in "abcd"}
        chosen, least = best(loads, known, b"x"), min(loads.values())
        assert loads[chosen] <= MOST_AHEAD + 1.5 * least
        assert not any(loads[each] < loads[chosen] and known[each] >= known[chosen] for each in loads)
        assert best(loads, dict.fromkeys(loads, 50), b"x") in {each for each in loads if loads[each] == least}
    assert best({"a": 2, "b": 0}, {"a": 12, "b": 0}, b"x") == "a"
    assert best({"a": 3, "b": 0}, {"a": 99, "b": 0}, b"x") == "b"
    # What all have read of a long system prompt makes no difference, but what one has read beyond it does.
    assert best({"a": 8, "b": 4, "c": 4}, {"a": 140, "b": 120, "c": 0}, b"x") == "a"
    assert best({"a": 9, "b": 4, "c": 4}, {"a": 140, "b": 120, "c": 0}, b"x") == "b"


def test_turns_of_a_conversation_stay_with_their_replica_and_conversations_spread() -> None:
    async def steps(routing: Routing) -> None:
        homes = []
        for number in range(24):
            said = [f"{number} " + "a" * 900]
            home = await routing.route(chat(*said, system=f"system {number}"))
            for turn in range(4):
                said += ["b" * 300, f"{turn}"]
                assert await routing.route(chat(*said, system=f"system {number}")) == home
            homes.append(home)
        assert set(homes) == {"a", "b", "c"}

    routed(Standing("a"), Standing("b"), Standing("c"), steps=steps)


def test_gateways_that_know_nothing_of_each_other_agree_on_a_conversation() -> None:
    async def steps(routing: Routing) -> None:
        homes = set()
        for number in range(12):
            one, other = (Routing(*routing.replicas.values()) for _ in range(2))
            said = [f"{number} " + "a" * 900]
            home = await one.route(chat(*said))
            assert await other.route(chat(*said, "b" * 300, "and then?")) == home
            homes.add(home)
        assert homes == {"a", "b"}

    routed(Standing("a"), Standing("b"), steps=steps)


def test_a_busy_or_full_replica_loses_its_conversations() -> None:
    async def steps(routing: Routing) -> None:
        body = chat("a" * 900)
        home = await routing.route(body)
        (mine,) = (each for each in routing.replicas.values() if each.replica_id.unique_id == home)
        mine.load = MOST_AHEAD
        routing.router.on_new_queue_len_info(mine.replica_id, mine.load)
        assert await routing.route(body) == home
        mine.load = mine.room = 1
        routing.router.on_new_queue_len_info(mine.replica_id, 1)
        assert await routing.route(body) != home
        mine.load, mine.room = MOST_AHEAD + 1, 100
        routing.router.on_new_queue_len_info(mine.replica_id, mine.load)
        assert await routing.route(chat("a" * 900, "b")) != home

    routed(Standing("a"), Standing("b"), steps=steps)


def test_requests_of_one_prefix_that_come_at_once_spread_over_all_replicas() -> None:
    async def steps(routing: Routing) -> None:
        await routing.route(chat("a" * 900))  # one replica has read it
        answered = await asyncio.gather(*(routing.route(chat("a" * 900), ends=False) for _ in range(90)))
        shares = Counter(answered)
        assert len(shares) == 3
        assert max(shares.values()) <= MOST_AHEAD + 1 + 1.5 * min(shares.values())

    routed(Standing("a"), Standing("b"), Standing("c"), steps=steps)


def test_balanced_requests_and_those_without_a_prompt_are_routed_as_serve_does() -> None:
    async def steps(routing: Routing) -> None:
        for body, how in [
            (chat("a" * 900), "balanced"),
            (None, "prefix"),
            ("text", "prefix"),
            ({"messages": [{"role": "user", "content": "\ud800"}]}, "prefix"),  # no JSON
        ]:
            seen = {await routing.route(body, routing=how) for _ in range(40)}
            assert seen == {"a", "b"}
        assert not routing.router._memories

    routed(Standing("a"), Standing("b"), steps=steps)


def test_replicas_come_and_go_and_take_their_memory_along() -> None:
    async def steps(routing: Routing) -> None:
        body = chat("a" * 900)
        home = await routing.route(body)
        gone = next(each for each in routing.replicas if each.unique_id == home)
        routing.router.on_replica_actor_died(gone)
        assert gone not in routing.router._memories
        other = await routing.route(body)
        assert other != home
        new = Standing("c")
        routing.replicas[new.replica_id] = new
        left = next(each for each in routing.replicas.values() if each.replica_id.unique_id == other)
        routing.router.update_replicas([left, new])
        assert await routing.route(body) == other  # the new one has read nothing
        routing.router.update_replicas([new])
        assert await routing.route(body) == "c"
        assert set(routing.router._memories) == {new.replica_id}
        assert set(routing.router._on_their_way) <= {new.replica_id}

    routed(Standing("a"), Standing("b"), steps=steps)


def test_what_was_given_up_before_it_was_sent_is_not_counted_for_ever() -> None:
    async def steps(routing: Routing) -> None:
        body = chat("a" * 900)
        home = await routing.route(body)
        metadata = RequestMetadata(request_id="x", internal_request_id="x", session_id="prefix")
        for _ in range(10):
            await routing.router._choose_replica_for_request(
                PendingRequest(args=[body], kwargs={}, metadata=metadata)
            )
        routing.router.on_new_queue_len_info(routing.router._replicas_list[0].replica_id, 0)
        routing.router.on_new_queue_len_info(routing.router._replicas_list[1].replica_id, 0)
        assert await routing.route(body) == home

    routed(Standing("a"), Standing("b"), steps=steps)


def test_routing_is_vllms_by_prefix_unless_it_is_said() -> None:
    assert ServeConfig().routed == "prefix"
    assert ServeConfig(routing="balanced").routed == "balanced"
    assert ServeConfig(engine="llama_cpp", quantization="Q8_0").routed == "balanced"
    with pytest.raises(ValidationError, match="leave routing out"):
        ServeConfig(engine="llama_cpp", quantization="Q8_0", routing="prefix")
    with pytest.raises(ValidationError, match="'prefix' or 'balanced'"):
        ServeConfig.model_validate({"routing": "sticky"})


@pytest.mark.parametrize(
    "config", [{}, {"engine": "llama_cpp", "quantization": "Q8_0"}], ids=["vllm", "llama.cpp"]
)
def test_serve_takes_every_engine_also_behind_haproxy(
    config: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_app, "RAY_SERVE_ENABLE_HA_PROXY", True)
    spec = unloaded_spec(ServeConfig.model_validate(config), gguf_file="model.gguf" if config else None)
    (engine,) = build_app.build_app(build_engine(spec), name=spec.application).deployments
    router = engine._deployment_config.request_router_config.request_router_class
    assert router.endswith("PrefixRouter") == (spec.config.engine == "vllm")


def test_the_gateway_reads_how_a_version_is_routed_from_its_deployment(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYMILL_HOME", str(world.home))
    monkeypatch.setenv("RAYMILL_DATABASE_URL", world.database.url.render_as_string(hide_password=False))
    Settings().secret_box.create_if_missing()
    world.make_version()
    world.promote(1)

    async def read() -> str:
        source = RegistrySource()
        try:
            (target,) = (await source.load()).routes["support-triage"].targets
        finally:
            await source.close()
        assert target.served is not None
        return target.served.routing

    for config, routing in [({}, "prefix"), ({"routing": "balanced"}, "balanced")]:
        world.serve(config={"engine": "vllm", **config})
        with world.database.transaction() as session:
            version = session.scalars(select(LlmVersion)).one()
            deployments.report(session, version.llm_id, "production", DeploymentState.READY, version.id, "")
        assert asyncio.run(read()) == routing
