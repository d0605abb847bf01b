"""Routes and presets: what a name may be, whom it may lead to, and that nothing hangs in the air."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import func, select
from tests.registry.making import ADA

from raymill.cluster.wake import Wake
from raymill.policies.errors import Conflict, Invalid, NotFound
from raymill.registry import gateway_config, providers, routes
from raymill.registry.database import Database
from raymill.registry.tables import AuditEvent, Route


def config(*targets: str) -> dict[str, Any]:
    """`provider/model` for each target."""
    parts = [target.split("/", 1) for target in targets]
    return {"targets": [{"provider": provider, "model": model} for provider, model in parts]}


@pytest.fixture
def registry(database: Database) -> Database:
    """With the providers openai and backup."""
    with database.transaction() as session:
        providers.add(session, "openai", ADA, preset="openai")
        providers.add(session, "backup", ADA, preset="mistral")
    return database


@pytest.fixture
def wake(registry: Database) -> Iterator[Wake]:
    """Rings when gateways are told."""
    made = Wake(registry.url, gateway_config.CONFIG_CHANNEL)
    made.wait(0.1)
    yield made
    made.close()


def actions(database: Database) -> list[str]:
    with database.transaction() as session:
        return list(session.scalars(select(AuditEvent.action).order_by(AuditEvent.seq)))[2:]


def test_a_route_is_made_replaced_switched_and_removed_and_gateways_are_told(
    registry: Database, wake: Wake
) -> None:
    with registry.transaction() as session:
        made = routes.set_route(session, "smart", config("openai/gpt-4o", "raymill/mine@production"), ADA)
    assert wake.wait(5)
    for _ in range(2):  # the second time changes nothing
        with registry.transaction() as session:
            again = routes.set_route(session, "smart", config("backup/large"), ADA)
            routes.enable_route(session, "smart", ADA, enabled=False)
        assert again.id == made.id
    with registry.transaction() as session:
        row = routes.find_route(session, "smart")
        assert (row.config, row.enabled) == (config("backup/large"), False)
        routes.remove_route(session, "smart", ADA)
    with registry.transaction() as session, pytest.raises(NotFound, match="`raymill route list`"):
        routes.find_route(session, "smart")
    assert actions(registry) == ["route.set", "route.set", "route.disable", "route.remove"]


@pytest.mark.parametrize("name", ["a", "gpt-4o", "openai/gpt-4o", "org:model.v1", "A/b-C_d"])
def test_a_name_may_look_like_any_models(registry: Database, name: str) -> None:
    with registry.transaction() as session:
        assert routes.set_route(session, name, config("openai/m"), ADA).name == name


@pytest.mark.parametrize("name", ["", "-a", "a b", "é", "a" * 65, "a\n", "mine@3"])
def test_other_names_are_refused(registry: Database, name: str) -> None:
    with registry.transaction() as session:
        with pytest.raises(Invalid, match="a route cannot be called") as refused:
            routes.set_route(session, name, config("openai/m"), ADA)
        assert refused.value.param == "name"
        with pytest.raises(Invalid, match="a preset cannot be called"):
            routes.set_preset(session, name, ADA, model="m", system="", params={})


def test_a_target_must_be_a_provider_there_is_or_our_own(registry: Database) -> None:
    with registry.transaction() as session, pytest.raises(Invalid, match="no provider 'nobody'") as refused:
        routes.set_route(session, "smart", config("openai/m", "nobody/m"), ADA)
    assert refused.value.param == "targets[1].provider"


def test_a_provider_that_a_route_needs_stays(registry: Database) -> None:
    with registry.transaction() as session:
        routes.set_route(session, "smart", config("openai/m", "backup/m"), ADA)
    with (
        registry.transaction() as session,
        pytest.raises(Conflict, match="backup is a target of smart: change"),
    ):
        providers.remove(session, "backup", ADA)
    with registry.transaction() as session:
        routes.remove_route(session, "smart", ADA)
        providers.remove(session, "backup", ADA)


def test_eight_that_set_one_route_at_once_make_one(registry: Database) -> None:
    def set_it(number: int) -> None:
        with registry.transaction() as session:
            routes.set_route(session, "smart", config(f"openai/m{number}"), ADA)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(set_it, range(8)))
    with registry.transaction() as session:
        assert session.scalar(select(func.count()).select_from(Route)) == 1
    assert actions(registry) == ["route.set"] * 8


# --- presets ----------------------------------------------------------------------------------------------


def test_a_preset_is_made_replaced_and_removed(registry: Database, wake: Wake) -> None:
    for system in ("Be kind.", "Be kind.", "Be short."):
        with registry.transaction() as session:
            row = routes.set_preset(
                session, "tutor", ADA, model="openai/gpt-4o", system=system, params={"temperature": 0.2}
            )
    assert wake.wait(5)
    assert (row.model, row.system, row.params) == ("openai/gpt-4o", "Be short.", {"temperature": 0.2})
    with registry.transaction() as session:
        routes.remove_preset(session, "tutor", ADA)
    with registry.transaction() as session, pytest.raises(NotFound, match="`raymill preset list`"):
        routes.remove_preset(session, "tutor", ADA)
    assert actions(registry) == ["preset.set", "preset.set", "preset.remove"]


@pytest.mark.parametrize("param", ["messages", "model", "stream", "system", "input"])
def test_a_preset_cannot_say_what_only_a_request_can(registry: Database, param: str) -> None:
    with registry.transaction() as session, pytest.raises(Invalid, match=f"params cannot hold {param}"):
        routes.set_preset(session, "tutor", ADA, model="m", system="", params={param: 1, "seed": 1})


def test_a_name_means_one_thing_and_presets_do_not_stand_on_presets(registry: Database) -> None:
    with registry.transaction() as session:
        routes.set_route(session, "smart", config("openai/m"), ADA)
        routes.set_preset(session, "tutor", ADA, model="smart", system="", params={})

        def refused(match: str) -> Any:
            return pytest.raises(Conflict, match=match)

        with refused("a route is called 'smart', which the preset would hide"):
            routes.set_preset(session, "smart", ADA, model="m", system="", params={})
        with refused("a preset is called 'tutor', which would hide the route"):
            routes.set_route(session, "tutor", config("openai/m"), ADA)
        with refused("'tutor' is a preset itself"):
            routes.set_preset(session, "poet", ADA, model="tutor", system="", params={})
        with refused("'poet' is a preset itself"):
            routes.set_preset(session, "poet", ADA, model="poet", system="", params={})
        with refused("smart is the model of tutor: change or remove these presets first"):
            routes.remove_route(session, "smart", ADA)
        routes.set_preset(session, "tutor", ADA, model="bare", system="", params={})
        with refused("'bare' is the model of tutor: a preset cannot stand on another"):
            routes.set_preset(session, "bare", ADA, model="m", system="", params={})
