"""Promotions of one alias, and their canaries, against a plain-Python model of them: any order of what can happen gives the
same history."""

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
from tests.registry.making import ADA, World
from tests.registry.using import usage

from raymill.policies.errors import Conflict, Denied, NotFound
from raymill.registry import (
    aliases,
    audit,
    canaries,
    canary_looks,
    deployments,
    environments,
    identity,
    promotion,
    requests,
)
from raymill.registry.audit import Actor
from raymill.registry.canary_config import CanaryConfig
from raymill.registry.tables import (
    AliasMove,
    ApiKey,
    Canary,
    DeploymentState,
    LlmVersion,
    Promotion,
    Role,
)

LLM = "support-triage"
WHO = st.sampled_from(["ada", "grace", "linus"])
PICK = st.integers(0, 99)
NUMBER = itertools.count(1)
TRIAL = CanaryConfig(share=0.1, for_s=0, min_requests=20)


@dataclass
class Asked:
    """What a request should be."""

    version: int
    by: str
    needed: int
    state: str = "waiting"
    canary: bool = False
    approved: set[str] = field(default_factory=set)

    @property
    def told(self) -> str:
        if self.state != "waiting":
            return self.state
        return "approved" if len(self.approved) >= self.needed else "pending"


class PromotionMachine(RuleBasedStateMachine):
    """Each run has an alias of its own. Every rule does the same to the registry and to the model."""

    world: World
    key: ApiKey

    def __init__(self) -> None:
        super().__init__()
        self.alias = f"alias{next(NUMBER)}"
        self.asked: dict[uuid.UUID, Asked] = {}
        self.moves: list[tuple[int | None, int]] = []
        self.frozen = False
        self.needed = 0
        self.serving: int | None = None
        self.trial: uuid.UUID | None = None
        """The promotion whose canary runs."""
        self.ready = False
        self.ask_for(1)

    @property
    def at(self) -> int | None:
        return self.moves[-1][1] if self.moves else None

    def before(self) -> int | None:
        """Where the alias was before it first came to where it is."""
        return next((start for start, end in self.moves if end == self.at), None)

    def move(self, version: int) -> None:
        self.end()
        self.moves.append((self.at, version))

    def end(self, state: str = "aborted") -> None:
        """Its canary, if there is one."""
        if self.trial is not None:
            self.asked[self.trial].state = state
        self.trial, self.ready = None, False

    def carry_out(self, row_id: uuid.UUID) -> None:
        asked = self.asked[row_id]
        if asked.canary and self.can_try(asked.version):
            self.end()
            self.trial, asked.state = row_id, "canary"
        else:
            asked.state = "executed"
            self.move(asked.version)

    def can_try(self, version: int) -> bool:
        """Whether a canary has something to be compared with."""
        return self.at is not None and self.at != version and self.serving == self.at

    def is_ahead(self, version: int) -> bool:
        """Whether something answers that the alias has moved on from: a canary waits then."""
        return self.at is not None and self.at != version and self.serving not in {None, self.at}

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

    @rule(version=st.sampled_from([1, 2, 3]), who=WHO, canary=st.booleans())
    def request(self, version: int, who: str, canary: bool) -> None:
        world = self.world
        try:
            row = promotion.promote(
                world.database,
                world.store,
                world.keys_dir,
                llm=LLM,
                number=version,
                alias=self.alias,
                require={},
                actor=Actor(name=who),
                canary=TRIAL if canary else None,
            )
        except Conflict:
            assert self.frozen or (canary and not self.can_try(version))
            return
        assert not self.frozen
        assert not canary or self.can_try(version)
        self.asked[row.id] = Asked(version=version, by=who, needed=self.needed, canary=canary)
        if not self.needed:
            self.carry_out(row.id)

    @precondition(lambda self: self.at is not None)
    @rule()
    def answer(self) -> None:
        """The version that the alias is at is served."""
        self.world.serve(alias=self.alias)
        with self.world.database.transaction() as session:
            at = aliases.find_alias(session, LLM, self.alias)
            deployments.report(session, at.llm_id, at.name, DeploymentState.READY, at.version_id, "")
        self.serving = self.at

    @precondition(lambda self: self.trial)
    @rule(state=st.sampled_from([DeploymentState.STARTING, DeploymentState.READY, DeploymentState.FAILED]))
    def deploy_the_canary(self, state: DeploymentState) -> None:
        with self.world.database.transaction() as session:
            canary_looks.report(session, self.running, DeploymentState.STARTING, "")
            canary_looks.report(session, self.running, state, "out of memory")
        if state is DeploymentState.FAILED:
            self.end()
        else:
            self.ready = state is DeploymentState.READY

    @property
    def running(self) -> uuid.UUID:
        assert self.trial is not None
        return self.trial

    @precondition(lambda self: self.trial and self.ready)
    @rule(found=st.sampled_from(["as good", "worse", "too few"]))
    def look(self, found: str) -> None:
        """At 20 requests of each version, or of none for so long that the canary ends."""
        tried = self.asked[self.running]
        with self.world.database.transaction() as session:
            changes: dict[str, dt.datetime | None] = {"looked_at": None}
            if found == "too few":
                changes["step_at"] = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=TRIAL.max_s)
            session.execute(update(Canary).where(Canary.promotion_id == self.trial).values(changes))
            for number in range(0 if found == "too few" else 40):
                of_canary = number % 2 == 0
                values = {
                    "at": dt.datetime.now(dt.UTC),
                    "provider": "raymill",
                    "model": f"{LLM}@{tried.version if of_canary else self.at}",
                    "canary_id": self.trial,
                    "arm": "canary" if of_canary else "current",
                    "latency_ms": 100.0,
                }
                if of_canary and found == "worse":
                    values |= {"outcome": "error", "status": 503}
                session.add(usage(self.key, **values))
        canary_looks.due(self.world.database)
        if found == "as good":
            self.advanced()
        else:
            self.end()

    def advanced(self) -> None:
        version, ready = self.asked[self.running].version, self.ready
        self.end("executed")
        self.move(version)
        self.serving = version if ready else self.serving

    @precondition(lambda self: self.trial)
    @rule(advance=st.booleans())
    def decide_by_hand(self, advance: bool) -> None:
        with self.world.database.transaction() as session:
            if advance:
                canary_looks.advance(session, self.running, Actor(name="ada"))
            else:
                canary_looks.abort(session, self.running, Actor(name="ada"))
        if advance:
            self.advanced()
        else:
            self.end()

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
            waits = asked.canary and self.is_ahead(asked.version)
            assert asked.told not in {"approved", "executed", "canary"} or self.frozen or waits
            return
        assert asked.told in {"approved", "executed", "canary"}
        if asked.state == "waiting":
            self.carry_out(row_id)

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
        if freeze:
            self.end()

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
            if self.trial is not None:  # that is what is taken back
                assert row.id == self.trial
                self.end()
                return
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
                at = aliases.find_alias(session, LLM, self.alias)
                assert at.version.number == self.at
                running = canaries.running_at(session, at.llm_id, self.alias)
                assert (running.promotion_id if running else None) == self.trial
                assert running is None or running.current.number == self.at
            for row in session.scalars(select(Promotion).where(Promotion.alias == self.alias)):
                assert requests.state_of(row, dt.datetime.now(dt.UTC)) == self.asked[row.id].told


def test_requests_approvals_executions_and_roll_backs_agree_with_a_model(world: World) -> None:
    for _ in range(3):
        world.make_version()
    with world.database.transaction() as session:
        identity.create_account(session, "user", Role.VIEWER, ADA)
        PromotionMachine.key = identity.create_key(session, "user", "laptop", ADA)[0]
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
