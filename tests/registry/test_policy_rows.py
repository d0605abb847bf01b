"""Promotion rules as rows: what decided is kept, and nothing goes back to older rules."""

from __future__ import annotations

import pytest
from sqlalchemy import select, update
from tests.registry.making import ADA, World

from raymill.policies.engine import RULES, read_rules
from raymill.policies.errors import Conflict, Invalid, NotFound
from raymill.registry import environments, policy_rows
from raymill.registry.tables import Alias, Policy, Promotion

OPEN = 'package raymill.promotion\n\ndecision := {"allow": true, "refused": []}\n'


def test_what_decided_is_kept_with_the_decision(world: World) -> None:
    number = world.make_version()
    rows = [world.promote(number) for _ in range(2)]
    with world.database.transaction() as session:
        policy = session.scalars(select(Policy)).one()
        assert (policy.name, policy.number, policy.files) == ("raymill", 1, read_rules(RULES))
        assert {row.policy_id for row in rows} == {policy.id}
        assert policy.bundle_digest == rows[0].bundle_digest


def test_older_rules_than_those_that_decided_last_move_and_serve_nothing(world: World) -> None:
    number = world.make_version()
    world.promote(number)
    with world.database.transaction() as session:  # a newer release has decided here
        newer = Policy(name="raymill", number=2, files={}, bundle_digest="f" * 64, created_by="system")
        session.add(newer)
        session.flush()
        session.execute(update(Promotion).values(policy_id=newer.id))
        llm_id = session.scalars(select(Alias)).one().llm_id
    said = "the rules here are raymill 1, older than raymill 2, which decided about production last"
    with pytest.raises(Conflict, match=said):
        world.promote(number)
    with world.database.transaction() as session, pytest.raises(Conflict, match=said):
        policy_rows.check_in_force(session, llm_id, "production")
    assert world.promote(number, to="sandbox").allowed  # of which the newer ones said nothing


def test_rules_that_allow_everything_or_make_no_sense_are_not_saved(world: World) -> None:
    with pytest.raises(Invalid, match="allow a promotion of which nothing is known"):
        policy_rows.checked({"open.rego": OPEN})
    for files in ({}, {"../x.rego": ""}, {"x.rego": "a\0"}, {"x.rego": "x" * 300_000}):
        with pytest.raises(Invalid):
            policy_rows.checked(files)
    files = read_rules(RULES)
    with world.database.transaction() as session:
        with pytest.raises(Invalid, match="'raymill' is no name for a policy"):
            policy_rows.save(session, "raymill", files, ADA)
        assert [policy_rows.save(session, "house", files, ADA).number for _ in range(2)] == [1, 1]
        assert policy_rows.save(session, "house", {**files, "a.rego": OPEN}, ADA).number == 2
        with pytest.raises(NotFound, match="no policy 'nobodys'"):
            environments.set_environment(
                session,
                "production",
                ADA,
                approvals=0,
                roles=["admin"],
                after=None,
                expires_after_s=60,
                policy="nobodys",
            )
