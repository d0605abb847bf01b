"""The steps `promote` and `serve` of a recipe where the alias takes approvals."""

from __future__ import annotations

import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from tests.registry.making import ADA, World, claim_one, make_pipeline, read_job

from raymill.cluster.attempt import Attempt
from raymill.cluster.settings import Settings
from raymill.registry import canaries, environments, requests
from raymill.registry.audit import Actor
from raymill.registry.canary_config import CanaryConfig
from raymill.registry.database import Database
from raymill.registry.jobs import StepSpec
from raymill.registry.tables import Alias, Deployment, Job, JobState, LlmVersion, Role

STEPS = (
    StepSpec(
        step="promote",
        kind="promote",
        queue="short",
        config={"to": "production", "require": {"heldout_exact_match": {"at_least": 0.9}}},
    ),
    StepSpec(
        step="serve",
        kind="deploy",
        queue="short",
        config={"alias": "production", "engine": "vllm"},
        depends_on=("promote",),
    ),
)


@pytest.fixture
def world(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("RAYMILL_HOME", str(tmp_path))
    return World(database, tmp_path)


def run_step(world: World, **inputs: Any) -> Job:
    job = claim_one(world.database)
    Attempt(world.database, Settings(), job, inputs).run()
    return read_job(world.database, job.id)


def promoted(world: World) -> Job:
    """The step `promote` of a recipe whose version is there, with an environment that takes one approval."""
    with world.database.transaction() as session:
        environments.set_environment(
            session, "production", ADA, approvals=1, roles=["approver"], after=None, expires_after_s=60
        )
        version = session.scalars(select(LlmVersion)).one()
    make_pipeline(world.database, *STEPS, name="support-triage")
    return run_step(world, train={"artifact": version.artifact_name})


def test_a_recipe_ends_with_a_request_and_is_served_once_that_is_executed(world: World) -> None:
    number = world.make_version()
    asked = promoted(world)
    assert (asked.state, asked.error) == (JobState.SUCCEEDED, None)
    assert asked.result is not None
    assert (asked.result["pending"], asked.result["allowed"]) == (True, True)
    served = run_step(world, promote=asked.result)
    assert (served.state, (served.result or {})["pending"]) == (JobState.SUCCEEDED, True)
    promotion_id = uuid.UUID(asked.result["promotion_id"])
    with world.database.transaction() as session:
        assert session.scalars(select(Alias)).all() == []
        requests.approve(session, promotion_id, Role.APPROVER, Actor(name="grace"))
    requests.execute(world.database, world.store, world.keys_dir, promotion_id=promotion_id, actor=ADA)
    with world.database.transaction() as session:
        assert session.scalars(select(Alias)).one().version.number == number
        assert session.scalars(select(Deployment)).one().config == {"engine": "vllm"}


def test_a_recipe_in_an_environment_with_canaries_ends_with_one_that_serves_as_it_says(world: World) -> None:
    world.promote(world.make_version())
    world.serve()
    number = world.make_version()
    with world.database.transaction() as session:
        deployed = session.scalars(select(Deployment)).one()
        deployed.serving_version_id = session.scalars(select(Alias)).one().version_id
        settings: dict[str, Any] = {"roles": ["approver"], "after": None, "expires_after_s": 60}
        environments.set_environment(
            session, "production", ADA, approvals=0, canary=CanaryConfig(share=0.2), **settings
        )
        newest = session.scalars(select(LlmVersion).where(LlmVersion.number == number)).one()
    make_pipeline(world.database, *STEPS, name="support-triage")
    begun = run_step(world, train={"artifact": newest.artifact_name})
    assert begun.result is not None
    assert (begun.result["pending"], begun.result["canary"]) == (True, True)
    served = run_step(world, promote=begun.result)
    assert (served.state, (served.result or {})["pending"]) == (JobState.SUCCEEDED, True)
    with world.database.transaction() as session:
        (row,) = canaries.running(session)
        assert (row.version.number, row.promotion.serving) == (number, {"engine": "vllm"})
        assert session.scalars(select(Alias)).one().version.number == 1


def test_a_recipe_that_asks_for_a_canary_itself_ends_with_one_where_something_answers(world: World) -> None:
    wanted = {"steps": [0.2, 0.5], "min_requests": 20, "limits": {"error_rate": 0.05}}
    promote = replace(STEPS[0], config={**STEPS[0].config, "canary": wanted})

    def run(number: int) -> dict[str, Any]:
        with world.database.transaction() as session:
            version = session.scalars(select(LlmVersion).where(LlmVersion.number == number)).one()
        make_pipeline(world.database, promote, name="support-triage")
        done = run_step(world, train={"artifact": version.artifact_name})
        assert done.result is not None, done.error
        return done.result

    assert (
        run(world.make_version())["pending"] is False
    )  # nothing answers: there is nothing to compare it with
    world.serve()
    with world.database.transaction() as session:
        deployed = session.scalars(select(Deployment)).one()
        deployed.serving_version_id = session.scalars(select(Alias)).one().version_id
        settings: dict[str, Any] = {"roles": ["approver"], "after": None, "expires_after_s": 60}
        environments.set_environment(
            session, "production", ADA, approvals=0, canary=CanaryConfig(share=0.9), **settings
        )
    number = world.make_version()
    begun = run(number)
    assert (begun["pending"], begun["canary"]) == (True, True)
    with world.database.transaction() as session:
        (row,) = canaries.running(session)
        assert (row.version.number, canaries.config_of(row)) == (number, CanaryConfig.model_validate(wanted))


def test_a_request_that_was_rejected_meanwhile_fails_the_step_that_serves(world: World) -> None:
    world.make_version()
    asked = promoted(world)
    assert asked.result is not None
    with world.database.transaction() as session:
        requests.reject(session, uuid.UUID(asked.result["promotion_id"]), Role.APPROVER, Actor(name="grace"))
    served = run_step(world, promote=asked.result)
    assert (served.state, "was rejected: production stays" in (served.error or "")) == (JobState.FAILED, True)
