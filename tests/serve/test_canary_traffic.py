"""A canary at the gateway: who meets it, what the records say, and what the registry makes of them. Engines are scripted."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from sqlalchemy import select
from tests.registry.making import ADA, World
from tests.serve.gateway_tools import ScriptedEngine, local_stores, made
from tests.waiting import eventually

from raymill.cluster.settings import Settings
from raymill.policies.errors import Unavailable
from raymill.registry import canary_looks, deployments, promotion, requests
from raymill.registry.canary_config import CanaryConfig
from raymill.registry.database import dsn_of
from raymill.registry.tables import (
    DeploymentState,
    LlmVersion,
    Promotion,
    PromotionState,
    Role,
    Usage,
)
from raymill.serve.gateway.app import Gateway
from raymill.serve.gateway.catalog import Canary, Route, Served, Target, served_route
from raymill.serve.gateway.ingest import Ingester
from raymill.serve.gateway.split import key_of, split
from raymill.serve.gateway.wire import Operation
from raymill.serve.llm.answer import Body, Reply
from raymill.serve.registry_source import RegistrySource
from raymill.serve.wanted import Wanted, wanted_now

LLM = "support-triage"
PICKS = 10_000


def route_of(share: float, canary_id: int = 1) -> Route:
    tried = Target(model="m@2", served=Served(name="m", version=2, application="m-2"))
    canary = Canary(id=uuid.UUID(int=canary_id), target=tried, share=share)
    served = Served(name="m", version=1, application="m-1", aliases=("production",), canary=canary)
    assert not served_route("m@1", served).has_canary  # who asks for a version gets that
    return served_route("m", served)


def those_at(share: float, canary_id: int = 1) -> set[int]:
    """Numbers of the users that meet the canary first."""
    targets = route_of(share, canary_id).targets
    met = set()
    for number in range(PICKS):
        ordered, side = split(targets, key_of(uuid.UUID(int=7), {"user": f"user-{number}"}))
        assert side is not None
        assert [target.model for target in ordered] == (["m@2", "m@1"] if side.arm == "canary" else ["m@1"])
        if side.arm == "canary":
            met.add(number)
    return met


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_the_share_is_met_and_the_same_users_stay(share: float) -> None:
    met = those_at(share)
    assert abs(len(met) - PICKS * share) < 3 * (PICKS * share * (1 - share)) ** 0.5
    assert met == those_at(share)


def test_a_greater_share_adds_users_and_another_canary_takes_others() -> None:
    few = those_at(0.1)
    assert few < those_at(0.5)
    assert abs(len(few & those_at(0.1, canary_id=2)) - PICKS * 0.01) < 3 * (PICKS * 0.01 * 0.99) ** 0.5


def test_a_conversation_stays_as_it_grows_and_accounts_are_apart() -> None:
    ada, bob = uuid.UUID(int=1), uuid.UUID(int=2)
    opening = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello."}]
    more = [*opening, {"role": "assistant", "content": "Hi!"}, {"role": "user", "content": "Help me."}]
    assert key_of(ada, {"messages": opening}) == key_of(ada, {"messages": more})
    assert key_of(ada, {"messages": opening}) != key_of(bob, {"messages": opening})
    assert key_of(ada, {"user": "u", "messages": opening}) == key_of(ada, {"user": "u", "prompt": "x"})
    assert key_of(ada, {"metadata": {"user_id": "u"}}) == key_of(ada, {"user": "u"})


def test_without_a_canary_nothing_is_split() -> None:
    served = Served(name="m", version=1, application="m-1", aliases=("production",))
    assert not served_route("m", served).has_canary


class Versions(ScriptedEngine):
    """All of them answer, but for the one that is away."""

    def __init__(self) -> None:
        super().__init__()
        self.away: int | None = None
        self.asked: Counter[int] = Counter()

    async def whole(self, served: Served, operation: Operation, body: Body) -> Reply:
        self.asked[served.version] += 1
        if served.version == self.away:
            raise Unavailable(f"{served.exact_name} does not answer right now: try again in a few seconds")
        return await super().whole(served, operation, body)


class House(NamedTuple):
    """Registry, gateway and ingester of one service: version 1 is served, 2 and 3 may try themselves on half of it."""

    world: World
    engine: Versions
    app: Gateway
    client: httpx.Client
    ingester: Ingester

    def begin(self, number: int) -> uuid.UUID:
        world = self.world
        row = promotion.promote(
            world.database,
            world.store,
            world.keys_dir,
            llm=LLM,
            number=number,
            alias="production",
            require={},
            actor=ADA,
            canary=CanaryConfig(share=0.5, for_s=0, min_requests=20),
        )
        (trial,) = [each for each in self.wanted() if each.canary_id == row.id]
        assert (trial.is_new, trial.number, trial.config) == (True, number, {"engine": "vllm"})
        with world.database.transaction() as session:
            canary_looks.report(session, row.id, DeploymentState.STARTING, "")
            canary_looks.report(session, row.id, DeploymentState.READY, "")
        eventually(lambda: self.app.refresher.current.routes[LLM].has_canary)
        return row.id

    def wanted(self) -> list[Wanted]:
        return self.world.database.patiently(wanted_now)

    def ask(self, count: int) -> Counter[str]:
        """As so many users; which version answered."""
        answered: Counter[str] = Counter()
        for number in range(count):
            said = [{"role": "user", "content": "Hello."}]
            body = {"model": LLM, "user": f"user-{number}", "messages": said}
            answer = self.client.post("/v1/chat/completions", json=body).raise_for_status()
            answered[answer.headers["x-raymill-target"].rpartition("@")[2]] += 1
        return answered

    def look(self, promotion_id: uuid.UUID) -> Promotion:
        """What became of it, once the records are in Postgres."""
        self.ingester.step()
        canary_looks.due(self.world.database)
        eventually(lambda: not self.app.refresher.current.routes[LLM].has_canary)
        with self.world.database.transaction() as session:
            return requests.find(session, promotion_id)


@pytest.fixture
def house(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    url = world.database.url
    monkeypatch.setenv("RAYMILL_HOME", str(world.home))
    monkeypatch.setenv("RAYMILL_DATABASE_URL", url.render_as_string(hide_password=False))
    Settings().secret_box.create_if_missing()
    for _ in range(3):
        world.make_version()
    world.promote(1)
    world.serve()
    key = {"Authorization": f"Bearer {world.add_key(Role.OPERATOR)}"}
    with world.database.transaction() as session:
        version = session.scalars(select(LlmVersion).where(LlmVersion.number == 1)).one()
        deployments.report(session, version.llm_id, "production", DeploymentState.READY, version.id, "")
    engine, spool = Versions(), tmp_path / "spool"
    dsn = dsn_of(url)
    ingester = Ingester(spool, lambda: dsn)
    with (
        made(engine, RegistrySource(), stores=local_stores(spool)) as (app, address),
        httpx.Client(base_url=address, headers=key, timeout=60) as client,
    ):
        yield House(world, engine, app, client, ingester)
    ingester.close()


def test_a_canary_takes_its_share_and_then_the_alias_and_one_that_is_away_costs_no_client_its_answer(
    house: House,
) -> None:
    assert house.ask(10) == {"1": 10}  # nothing changes without one
    good = house.begin(2)
    answered = house.ask(60)
    assert 12 < answered["2"] < 48
    assert house.ask(60) == answered
    assert house.look(good).state is PromotionState.DECIDED
    with house.world.database.transaction() as session:
        arms = Counter(session.scalars(select(Usage.arm)))
        assert (arms[None], arms["canary"], arms["current"]) == (10, 2 * answered["2"], 2 * answered["1"])
    assert [(each.number, each.is_new) for each in house.wanted()] == [(2, False)]  # nothing is started again
    assert house.ask(10) == {"2": 10}
    house.engine.away = 3
    bad = house.begin(3)
    assert house.ask(120) == {"2": 120}
    assert house.engine.asked[3] > 0
    ended = house.look(bad)
    assert ended.state is PromotionState.ABORTED
    assert "requests failed, at most 50% may" in (ended.note or "")
    assert [each.number for each in house.wanted()] == [2]
