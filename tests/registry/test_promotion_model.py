"""Promotions of one alias against a plain-Python model of them: any order of what can happen gives the same history."""

from __future__ import annotations

import datetime as dt
import itertools
import uuid
from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select, update
from tests.registry.making import World

from raymill.policies.errors import Conflict, Denied, NotFound
from raymill.registry import aliases, audit, environments, promotion, requests
from raymill.registry.audit import Actor
from raymill.registry.tables import AliasMove, LlmVersion, Promotion, Role

LLM = "support-triage"
WHO = st.sampled_from(["ada", "grace", "linus"])
PICK = st.integers(0, 99)
NUMBER = itertools.count(1)


@dataclass
class Asked:
    """What a request should be."""

    version: int
    by: str
    needed: int
    state: str = "waiting"
    approved: set[str] = field(default_factory=set)

    @property
    def told(self) -> str:
        if self.state != "waiting":
            return self.state
        return "approved" if len(self.approved) >= self.needed else "pending"


class PromotionMachine(RuleBasedStateMachine):
    """Each run has an alias of its own. Every rule does the same to the registry and to the model."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        self.alias = f"alias{next(NUMBER)}"
        self.asked: dict[uuid.UUID, Asked] = {}
        self.moves: list[tuple[int | None, int]] = []
        self.frozen = False
        self.needed = 0
        self.ask_for(1)

    @property
    def at(self) -> int | None:
        return self.moves[-1][1] if self.moves else None

    def before(self) -> int | None:
        """Where the alias was before it first came to where it is."""
        return next((start for start, end in self.moves if end == self.at), None)

    def move(self, version: int) -> None:
        self.moves.append((self.at, version))

    def pick(self, number: int) -> tuple[uuid.UUID, Asked]:
        return list(self.asked.items())[number % len(self.asked)]

    @rule(needed=st.integers(0, 2))
    def ask_for(self, needed: int) -> None:
        with self.world.database.transaction() as session:
            environments.set_environment(
                session,
                self.alias,
                Actor(name="ada"),
                approvals=needed,
                roles=["approver"],
                after=None,
                expires_after_s=3600,
            )
        self.needed = needed

    @rule(version=st.sampled_from([1, 2, 3]), who=WHO)
    def request(self, version: int, who: str) -> None:
        try:
            row = self.world.promote(version, to=self.alias, actor=Actor(name=who))
        except Conflict:
            assert self.frozen
            return
        assert not self.frozen
        made = self.asked[row.id] = Asked(version=version, by=who, needed=self.needed)
        if not self.needed:
            made.state = "executed"
            self.move(version)

    @precondition(lambda self: self.asked)
    @rule(number=PICK, who=WHO)
    def approve(self, number: int, who: str) -> None:
        row_id, asked = self.pick(number)
        with self.world.database.transaction() as session:
            try:
                requests.approve(session, row_id, Role.APPROVER, Actor(name=who))
            except Conflict:
                assert asked.state != "waiting"
            except Denied:
                assert asked.by == who
            else:
                assert who in asked.approved or (asked.state == "waiting" and asked.by != who)
                asked.approved.add(who)

    @precondition(lambda self: self.asked)
    @rule(number=PICK, who=WHO)
    def reject(self, number: int, who: str) -> None:
        row_id, asked = self.pick(number)
        with self.world.database.transaction() as session:
            try:
                requests.reject(session, row_id, Role.APPROVER, Actor(name=who))
            except Conflict:
                assert asked.state != "waiting"
            else:
                assert asked.state == "waiting"
                asked.state = "rejected"

    @precondition(lambda self: self.asked)
    @rule(number=PICK)
    def expire(self, number: int) -> None:
        row_id, asked = self.pick(number)
        past = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=1)
        with self.world.database.transaction() as session:
            session.execute(update(Promotion).where(Promotion.id == row_id).values(expires_at=past))
        asked.state = "expired" if asked.state == "waiting" else asked.state

    @precondition(lambda self: self.asked)
    @rule(number=PICK)
    def execute(self, number: int) -> None:
        row_id, asked = self.pick(number)
        try:
            requests.execute(
                self.world.database,
                self.world.store,
                self.world.keys_dir,
                promotion_id=row_id,
                actor=Actor(name="ada"),
            )
        except Conflict:
            assert asked.told not in {"approved", "executed"} or self.frozen
            return
        assert asked.told in {"approved", "executed"}
        if asked.state == "waiting":
            asked.state = "executed"
            self.move(asked.version)

    @rule(freeze=st.booleans())
    def hold(self, freeze: bool) -> None:
        with self.world.database.transaction() as session:
            try:
                if freeze:
                    aliases.freeze(session, LLM, self.alias, Actor(name="ada"))
                else:
                    aliases.unfreeze(session, LLM, self.alias, Actor(name="ada"))
            except NotFound:
                assert self.at is None
                return
        self.frozen = freeze

    @rule()
    def roll_back(self) -> None:
        world = self.world
        try:
            row = promotion.roll_back(
                world.database,
                world.store,
                world.keys_dir,
                llm=LLM,
                alias=self.alias,
                actor=Actor(name="ada"),
            )
        except NotFound:
            assert self.at is None
        except Conflict:
            assert self.frozen or self.before() is None
        else:
            before = self.before()
            assert before is not None
            assert not self.frozen
            self.asked[row.id] = Asked(version=before, by="ada", needed=0, state="executed")
            self.move(before)

    @invariant()
    def the_registry_tells_the_same(self) -> None:
        with self.world.database.transaction() as session:
            numbers = {row.id: row.number for row in session.scalars(select(LlmVersion))}
            rows = session.scalars(
                select(AliasMove).where(AliasMove.alias == self.alias).order_by(AliasMove.moved_at)
            )
            told = [
                (
                    numbers[row.previous_version_id] if row.previous_version_id else None,
                    numbers[row.version_id],
                )
                for row in rows
            ]
            assert told == self.moves
            if self.at is not None:
                assert aliases.find_alias(session, LLM, self.alias).version.number == self.at
            for row in session.scalars(select(Promotion).where(Promotion.alias == self.alias)):
                assert requests.state_of(row, dt.datetime.now(dt.UTC)) == self.asked[row.id].told


def test_requests_approvals_executions_and_roll_backs_agree_with_a_model(world: World) -> None:
    for _ in range(3):
        world.make_version()
    PromotionMachine.world = world
    run_state_machine_as_test(
        PromotionMachine,
        settings=settings(
            max_examples=5,
            stateful_step_count=16,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    with world.database.transaction() as session:
        audit.verify(session)
