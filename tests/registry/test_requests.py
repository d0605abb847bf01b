"""Promotions that wait for approvals: who may, how many must, what is executed, and what holds an alias still."""

from __future__ import annotations

import datetime as dt
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import select, text, update
from tests.registry.making import ADA, HELDOUT, World

from raymill.policies.errors import Conflict, Denied, Invalid, NotFound
from raymill.registry import aliases, archive, audit, environments, promotion, requests
from raymill.registry.artifacts import Tampered
from raymill.registry.audit import Actor
from raymill.registry.tables import AliasMove, AuditEvent, Deployment, Llm, LlmVersion, Promotion, Role

GRACE, LINUS = Actor(name="grace"), Actor(name="linus")
LLM = "support-triage"


def ask_for(world: World, approvals: int, **more: Any) -> None:
    """Make production ask for approvals."""
    given = {"roles": ["approver"], "after": None, "expires_after_s": 3600, **more}
    with world.database.transaction() as session:
        environments.set_environment(session, "production", ADA, approvals=approvals, **given)


def approve(world: World, row: Promotion, actor: Actor, role: Role = Role.APPROVER) -> Promotion:
    with world.database.transaction() as session:
        return requests.approve(session, row.id, role, actor)


def execute(world: World, row: Promotion, actor: Actor = ADA) -> Promotion:
    return requests.execute(world.database, world.store, world.keys_dir, promotion_id=row.id, actor=actor)


def roll_back(world: World, alias: str = "production") -> Promotion:
    return promotion.roll_back(
        world.database,
        world.store,
        world.keys_dir,
        llm=LLM,
        alias=alias,
        actor=ADA,
        note="it answers nonsense",
    )


def state(world: World, row: Promotion) -> requests.State:
    with world.database.transaction() as session:
        return requests.state_of(requests.find(session, row.id), dt.datetime.now(dt.UTC))


def at(world: World, alias: str = "production") -> int | None:
    with world.database.transaction() as session:
        return aliases.aliases_at(session, session.scalars(select(Llm)).one().id).get(alias)


def history(world: World) -> list[tuple[int | None, int]]:
    """(from, to), oldest first."""
    with world.database.transaction() as session:
        numbers = {row.id: row.number for row in session.scalars(select(LlmVersion))}
        rows = session.scalars(select(AliasMove).order_by(AliasMove.moved_at))
        return [
            (numbers[row.previous_version_id] if row.previous_version_id else None, numbers[row.version_id])
            for row in rows
        ]


def test_a_request_moves_the_alias_once_enough_others_have_approved(world: World) -> None:
    ask_for(world, 2)
    asked = world.promote(world.make_version())
    assert (asked.allowed, state(world, asked), at(world)) == (True, "pending", None)
    with pytest.raises(Denied, match="ada's own: somebody else must approve"):
        approve(world, asked, ADA)
    with pytest.raises(Denied, match="linus is operator, production takes the approval of approver"):
        approve(world, asked, LINUS, Role.OPERATOR)
    for _ in range(2):
        approve(world, asked, GRACE)  # twice counts once
    with pytest.raises(Conflict, match="pending: 1 of 2 approvals are there"):
        execute(world, asked)
    approve(world, asked, LINUS)
    assert state(world, asked) == "approved"
    done = execute(world, asked)
    assert execute(world, asked).closed_at == done.closed_at  # again is the same
    assert (state(world, done), done.closed_by, at(world)) == ("executed", "ada", 1)
    assert history(world) == [(None, 1)]
    with world.database.transaction() as session:
        actions = session.scalars(select(AuditEvent.action).order_by(AuditEvent.seq)).all()
        audit.verify(session)
    assert actions[-5:] == [
        "promotion.request",
        "promotion.approve",
        "promotion.approve",
        "promotion.allow",
        "alias.move",
    ]
    with pytest.raises(Conflict, match="is executed: only one that waits"):
        approve(world, done, Actor(name="barbara"))


def test_what_is_rejected_or_too_old_never_moves_the_alias(world: World) -> None:
    ask_for(world, 1)
    number = world.make_version()
    rejected, expired, withdrawn = (world.promote(number) for _ in range(3))
    with world.database.transaction() as session:
        with pytest.raises(Denied, match="takes the approval of approver"):
            requests.reject(session, rejected.id, Role.OPERATOR, LINUS)
        requests.reject(session, rejected.id, Role.APPROVER, GRACE, "not on a Friday")
        requests.reject(session, withdrawn.id, Role.VIEWER, ADA)
        requests.approve(session, expired.id, Role.APPROVER, GRACE)
        past = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=1)
        session.execute(update(Promotion).where(Promotion.id == expired.id).values(expires_at=past))
    for row, said in ((rejected, "rejected"), (withdrawn, "rejected"), (expired, "expired")):
        assert state(world, row) == said
        with pytest.raises(Conflict, match=f"is {said}"):
            approve(world, row, LINUS)
        with pytest.raises(Conflict, match=f"is {said}"):
            execute(world, row)
    assert (at(world), history(world)) == (None, [])
    with world.database.transaction() as session, pytest.raises(NotFound, match="no promotion"):
        requests.approve(session, uuid.uuid4(), Role.ADMIN, ADA)


def test_what_is_executed_is_what_was_approved_byte_for_byte(world: World) -> None:
    ask_for(world, 1)
    asked = world.promote(world.make_version())
    approve(world, asked, GRACE)
    file = next(world.store.root.glob("model/*/*/model.safetensors"))
    content = file.read_bytes()
    file.write_bytes(b"X" + content[1:])
    with pytest.raises(Tampered):
        execute(world, asked)
    assert state(world, asked) == "approved"
    file.write_bytes(content)
    done = execute(world, asked)
    assert (done.input, done.input_digest) == (asked.input, asked.input_digest)


def test_a_comparison_holds_only_while_the_alias_is_where_it_was(world: World) -> None:
    world.promote(world.make_version(right=[True] * 20))
    second, third = (world.make_version(right=[True] * 20) for _ in range(2))
    ask_for(world, 1)
    require = {HELDOUT: {"not_significantly_worse_than": "production"}}
    asked, other = (world.promote(number, require=require) for number in (second, third))
    for row in (asked, other):
        approve(world, row, GRACE)
    execute(world, asked)
    with pytest.raises(Conflict, match="compared with version 1, production is at version 2 now"):
        execute(world, other)


def test_a_version_passes_through_the_environments_in_order(world: World) -> None:
    ask_for(world, 0, after="governed")
    number = world.make_version()
    with pytest.raises(Conflict, match="was never governed, which comes before production"):
        world.promote(number)
    world.promote(number, to="governed")
    assert world.promote(number).allowed
    with world.database.transaction() as session:
        names = [each.name for each in environments.environments(session)]
        assert names == ["sandbox", "governed", "production"]
        with pytest.raises(Invalid, match="governed after production after governed is a circle"):
            environments.set_environment(
                session, "governed", ADA, approvals=0, roles=["admin"], after="production", expires_after_s=60
            )


def test_a_frozen_alias_stays_where_it_is(world: World) -> None:
    first, second = (world.make_version() for _ in range(2))
    for number in (first, second):
        world.promote(number)
    ask_for(world, 1)
    asked = world.promote(first)
    approve(world, asked, GRACE)
    with world.database.transaction() as session:
        aliases.freeze(session, LLM, "production", GRACE, "an incident")
    said = r"was frozen by grace \(an incident\): `raymill alias unfreeze"
    with pytest.raises(Conflict, match=said):
        world.promote(first)
    with pytest.raises(Conflict, match=said):
        roll_back(world)
    with pytest.raises(Conflict, match=said):
        execute(world, asked)
    assert (at(world), state(world, asked)) == (second, "approved")
    with world.database.transaction() as session:
        aliases.unfreeze(session, LLM, "production", GRACE)
    execute(world, asked)
    assert at(world) == first


def test_a_roll_back_takes_one_command_and_no_approval(world: World) -> None:
    numbers = [world.make_version() for _ in range(3)]
    moments = []
    for number in numbers:
        world.promote(number)
        with world.database.transaction() as session:
            moments.append(session.execute(text("SELECT clock_timestamp()")).scalar_one())
    ask_for(world, 2)
    back = roll_back(world)
    assert (back.rollback, back.allowed, back.note, at(world)) == (True, True, "it answers nonsense", 2)
    roll_back(world)
    with pytest.raises(Conflict, match="was never at a version before 1"):
        roll_back(world)
    assert history(world) == [(None, 1), (1, 2), (2, 3), (3, 2), (2, 1)]
    with world.database.transaction() as session:
        llm_id = session.scalars(select(Llm)).one().id
        told = [aliases.aliases_at(session, llm_id, moment) for moment in moments]
        assert aliases.aliases_at(session, llm_id, moments[0] - dt.timedelta(days=1)) == {}
    assert told == [{"production": 1}, {"production": 2}, {"production": 3}]


def test_an_archived_version_is_neither_promoted_nor_gone_back_to(world: World) -> None:
    numbers = [world.make_version() for _ in range(3)]
    for number in numbers:
        world.promote(number)
    with world.database.transaction() as session:
        with pytest.raises(Conflict, match="version 3 is production: move the alias first"):
            archive.archive(session, LLM, 3, GRACE)
        archive.archive(session, LLM, 2, GRACE, "its data were withdrawn")
    with pytest.raises(Conflict, match=r"version 2 was archived by grace \(its data were withdrawn\)"):
        world.promote(2, to="sandbox")
    roll_back(world)
    assert at(world) == 1
    with world.database.transaction() as session:
        archive.restore(session, LLM, 2, GRACE)
    assert world.promote(2).allowed


def test_serving_asked_for_while_it_waits_follows_the_execution(world: World) -> None:
    ask_for(world, 1)
    asked = world.promote(world.make_version())
    with world.database.transaction() as session:
        assert requests.serve_when_executed(session, asked.id, {"engine": "vllm"}) == "pending"
        assert session.scalars(select(Deployment)).all() == []
    approve(world, asked, GRACE)
    execute(world, asked)
    with world.database.transaction() as session:
        assert session.scalars(select(Deployment)).one().config == {"engine": "vllm"}
        assert requests.serve_when_executed(session, asked.id, {"engine": "other"}) == "executed"


def test_fifty_approvals_promotions_and_roll_backs_at_once_leave_one_history(world: World) -> None:
    numbers = [world.make_version() for _ in range(3)]
    for number in numbers:
        world.promote(number)
    ask_for(world, 3)
    asked = [world.promote(number, actor=LINUS) for number in numbers[:2]]

    def one(each: int) -> str:
        kind, actor = each % 5, Actor(name=f"user{each // 2}")
        try:
            if kind < 2:
                approve(world, asked[kind], actor)
            elif kind == 2:
                roll_back(world)
            elif kind == 3:
                execute(world, asked[each // 5 % 2], actor)
            else:
                world.promote(numbers[each % 3], to="sandbox", actor=actor)
        except (Conflict, Denied) as error:
            return type(error).__name__
        return "done"

    with ThreadPoolExecutor(10) as threads:
        outcomes = list(threads.map(one, range(50)))
    assert "done" in outcomes
    for row in asked:
        execute(world, row)
    with world.database.transaction() as session:
        for alias in ("production", "sandbox"):
            moves = session.scalars(
                select(AliasMove).where(AliasMove.alias == alias).order_by(AliasMove.moved_at)
            ).all()
            assert moves[0].previous_version_id is None
            assert [row.previous_version_id for row in moves[1:]] == [row.version_id for row in moves[:-1]]
            assert aliases.find_alias(session, LLM, alias).version_id == moves[-1].version_id
        for row in session.scalars(select(Promotion)):
            made = [move for move in session.scalars(select(AliasMove)) if move.promotion_id == row.id]
            assert len(made) == 1  # each that was executed moved it once, the others not
            assert len({each.account for each in row.approvals}) == len(row.approvals) >= row.approvals_needed
        audit.verify(session)
