"""Canaries: from promotion to move or end, by what the records of usage say. Nothing is served; the records are written."""

from __future__ import annotations

import datetime as dt
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy import select, text, update
from sqlalchemy.orm import Session
from tests.registry.making import ADA, World
from tests.registry.using import usage

from raymill.policies.errors import Conflict
from raymill.registry import (
    aliases,
    archive,
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
from raymill.registry.signing_keys import KeyRing
from raymill.registry.tables import (
    AliasMove,
    ApiKey,
    Attestation,
    AuditEvent,
    Canary,
    CanaryState,
    Deployment,
    DeploymentState,
    DriftRun,
    DriftWatch,
    Feedback,
    LlmVersion,
    Promotion,
    PromotionState,
    Role,
    TriggerEvent,
    Usage,
    new_id,
)

GRACE = Actor(name="grace")
LLM = "support-triage"
SOON = CanaryConfig(share=0.1, for_s=0, min_requests=20)


class Trial:
    """Version 1 is in production and answers, version 2 is its canary."""

    def __init__(self, world: World, config: CanaryConfig | None = SOON) -> None:
        self.world = world
        world.promote(world.make_version())
        world.serve()
        with world.database.transaction() as session:
            identity.create_account(session, "user", Role.VIEWER, ADA)
            self.key: ApiKey = identity.create_key(session, "user", "laptop", ADA)[0]
            version = session.scalars(select(LlmVersion)).one()
            deployments.report(session, version.llm_id, "production", DeploymentState.READY, version.id, "")
        self.id = self.begin(config)

    def begin(self, config: CanaryConfig | None, number: int | None = None) -> uuid.UUID:
        """Promote a new version, and have it ready at once."""
        world = self.world
        number = number or world.make_version()
        row = promotion.promote(
            world.database,
            world.store,
            world.keys_dir,
            llm=LLM,
            number=number,
            alias="production",
            require={},
            actor=ADA,
            canary=config,
        )
        self.ready(row.id)
        return row.id

    def ready(
        self, promotion_id: uuid.UUID, state: DeploymentState = DeploymentState.READY, why: str = ""
    ) -> None:
        with self.world.database.transaction() as session:
            canary_looks.report(session, promotion_id, DeploymentState.STARTING, "")
            canary_looks.report(session, promotion_id, state, why)

    def answers(self, arm: str, count: int, **changes: Any) -> None:
        """Requests that its own version answered in 100 to 199 ms."""
        model = f"{LLM}@{2 if arm == 'canary' else 1}"
        with self.world.database.transaction() as session:
            for number in range(count):
                values: dict[str, Any] = {
                    "at": dt.datetime.now(dt.UTC),
                    "provider": "raymill",
                    "model": model,
                    "latency_ms": 100.0 + number % 100,
                    "canary_id": self.id,
                    "arm": arm,
                    **changes,
                }
                session.add(usage(self.key, **values))

    def look(self) -> str:
        """What became of it, after a look now."""
        with self.world.database.transaction() as session:
            session.execute(update(Canary).values(looked_at=None))
        canary_looks.due(self.world.database)
        return self.state()

    def state(self) -> str:
        with self.world.database.transaction() as session:
            return requests.state_of(requests.find(session, self.id), dt.datetime.now(dt.UTC))

    def row(self) -> Canary:
        with self.world.database.transaction() as session:
            return session.get_one(Canary, self.id)

    def note(self) -> str:
        with self.world.database.transaction() as session:
            return requests.find(session, self.id).note or ""

    def at(self) -> int:
        with self.world.database.transaction() as session:
            return aliases.find_alias(session, LLM, "production").version.number

    def moves(self) -> int:
        with self.world.database.transaction() as session:
            return len(session.scalars(select(AliasMove.id)).all())

    def actions(self) -> list[str]:
        with self.world.database.transaction() as session:
            audit.verify(session)
            return list(session.scalars(select(AuditEvent.action).order_by(AuditEvent.seq)))


def test_good_traffic_moves_the_alias_step_by_step_also_after_a_kill(world: World) -> None:
    trial = Trial(world, CanaryConfig(steps=(0.1, 0.5), for_s=0, min_requests=20))
    assert (trial.state(), trial.at(), trial.row().state) == ("canary", 1, CanaryState.RUNNING)
    with world.database.transaction() as session:
        assert session.scalars(select(Attestation).where(Attestation.promotion_id == trial.id)).first()
        assert canaries.share_of(canaries.running(session)[0]) == 0.1
    trial.answers("current", 20)
    trial.answers("canary", 19)
    assert trial.look() == "canary"  # too few
    measured = trial.row().measured
    assert measured is not None
    assert (measured["canary"]["requests"], measured["current"]["p95_ms"]) == (
        19,
        pytest.approx(118, abs=1),
    )
    trial.answers("canary", 1, outcome="error", status=400)  # the client's fault, not the version's
    assert (trial.look(), trial.row().step) == ("canary", 1)
    assert trial.look() == "canary"  # a greater share begins anew, with requests of its own
    # Nothing but rows is left when a service is killed; what is deployed is started again, and takes the share again.
    trial.ready(trial.id, DeploymentState.STARTING)
    trial.answers("current", 20)
    trial.answers("canary", 20)
    assert (trial.look(), trial.row().state) == ("canary", CanaryState.STARTING)
    trial.ready(trial.id)
    assert (trial.look(), trial.at(), trial.moves()) == ("executed", 2, 2)
    with world.database.transaction() as session:
        deployed = session.scalars(select(Deployment)).one()
        assert (deployed.state, deployed.version_id) == (DeploymentState.READY, deployed.serving_version_id)
        version = session.get(LlmVersion, deployed.serving_version_id)
        assert version is not None
        assert version.number == 2  # nothing is started again
        with pytest.raises(Conflict, match="is executed: only one whose canary runs"):
            canary_looks.abort(session, trial.id, GRACE)
    assert trial.actions()[-5:] == [
        "canary.begin",
        "canary.ready",
        "canary.step",
        "canary.advance",
        "alias.move",
    ]


def test_what_is_worse_goes_back_and_says_why(world: World) -> None:
    trial = Trial(world)
    for changes, why in (
        ({"outcome": "error", "status": 503}, "20 of 20 requests failed, at most 50% may"),
        ({"model": f"{LLM}@1"}, "20 of 20 requests failed"),  # the current version had to answer
        ({"latency_ms": 400.0}, "latency p95 400 ms, the current version's is"),
        (
            {"outcome": "cancelled", "latency_ms": 30_000.0},
            "latency p95 30000 ms",
        ),  # it hangs: clients give up
        ({"outcome": "error", "status": 400}, "error rate 100.00%, the current version's is 0.00%"),
    ):
        trial.answers("current", 180)
        trial.answers("canary", 20, **changes)
        assert (trial.look(), trial.at(), trial.moves()) == ("aborted", 1, 1)
        assert why in trial.note()
        trial.id = trial.begin(SOON, number=2)
    with world.database.transaction() as session:
        subjects = session.scalars(select(TriggerEvent.subject).where(TriggerEvent.on == "drift")).all()
        assert subjects == [f"canary/{LLM}@production"] * 5
    for arm, score in (("current", 1.0), ("canary", -1.0)):
        trial.answers(arm, 40)
        with world.database.transaction() as session:
            for row in session.scalars(
                select(Usage).where(Usage.arm == arm, Usage.canary_id == trial.id)
            ).all():
                session.add(Feedback(request_id=row.request_id, account_id=row.account_id, score=score))
    assert trial.look() == "aborted"
    assert "mean score -1.00, the current version's is 1.00" in trial.note()
    trial.id = trial.begin(CanaryConfig(for_s=60, max_s=120), number=2)
    with world.database.transaction() as session:
        session.execute(update(Canary).values(step_at=dt.datetime.now(dt.UTC) - dt.timedelta(seconds=121)))
    assert (trial.look(), "200 of each version are needed" in trial.note()) == ("aborted", True)
    trial.id = trial.begin(SOON, number=2)
    with world.database.transaction() as session:
        watch = DriftWatch(name="nightly", config={"target": f"{LLM}@2"}, created_by="ada")
        session.add(watch)
        session.flush()
        about = {"news": True, "action": "", "reasons": ["canary: -0.30"], "baseline": False}
        session.add(DriftRun(watch_id=watch.id, job_id=new_id(), severity="major", version=2, **about))
    assert (trial.look(), trial.note()) == ("aborted", "major drift by nightly: canary: -0.30")
    trial.id = trial.begin(SOON, number=2)
    trial.ready(trial.id, DeploymentState.FAILED, "out of memory")
    assert (trial.state(), trial.note()) == ("aborted", "version 2 cannot be served: out of memory")
    trial.id = trial.begin(SOON, number=2)
    ring = KeyRing(world.keys_dir)
    ring.revoke(ring.key_id(), reason="lost", by="ada")
    with world.database.transaction() as session:
        deployments.withdraw(session, ring.revoked())
    assert (trial.state(), "which was revoked (lost" in trial.note()) == ("aborted", True)


def test_freezing_rolling_back_and_other_promotions_end_it(world: World) -> None:
    trial = Trial(world)
    with world.database.transaction() as session:
        aliases.freeze(session, LLM, "production", GRACE, "an incident")
        aliases.unfreeze(session, LLM, "production", GRACE)
    assert (trial.state(), trial.note()) == (
        "aborted",
        f"{LLM}@production was frozen by grace: an incident",
    )
    trial.id = trial.begin(SOON, number=2)
    back = promotion.roll_back(
        world.database,
        world.store,
        world.keys_dir,
        llm=LLM,
        alias="production",
        actor=GRACE,
        note="too rude",
    )
    assert (back.id, trial.at(), trial.note()) == (trial.id, 1, "rolled back by grace: too rude")
    first = trial.id = trial.begin(SOON, number=2)
    other = trial.begin(SOON)  # version 3 tries itself now
    assert trial.state() == "aborted"
    with world.database.transaction() as session:
        assert [row.promotion_id for row in canaries.running(session)] == [other]
        with pytest.raises(Conflict, match=f"{LLM} version 3 is a canary at production"):
            archive.archive(session, LLM, 3, GRACE)
        with pytest.raises(Conflict, match=f"promotion {first} is aborted"):
            canary_looks.advance(session, first, GRACE)
        canary_looks.advance(session, other, GRACE)  # by hand, before its time
    assert (trial.at(), trial.moves()) == (3, 2)
    trial.id = trial.begin(SOON, number=2)
    race(trial)
    with world.database.transaction() as session:
        moves = session.scalars(select(AliasMove).order_by(AliasMove.moved_at)).all()
        assert [row.previous_version_id for row in moves[1:]] == [row.version_id for row in moves[:-1]]
        assert aliases.find_alias(session, LLM, "production").version_id == moves[-1].version_id
        moved = Counter(row.promotion_id for row in moves)
        for row in session.scalars(select(Promotion)):
            assert moved[row.id] == (row.state is PromotionState.DECIDED)
            assert row.trial is None or (row.trial.ended_at is None) == (row.state is PromotionState.CANARY)
        assert len(canaries.running(session)) <= 1
        audit.verify(session)


def test_a_look_holds_up_nobody_while_it_measures(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Trial(world)
    trial.answers("current", 20)
    trial.answers("canary", 20)  # it would advance
    measure = canary_looks.measure

    def freeze_meanwhile(session: Session, row: Canary) -> canary_looks.Measured:
        found = measure(session, row)
        with world.database.transaction() as other:
            other.execute(text("SET LOCAL lock_timeout = '5s'"))
            aliases.freeze(other, LLM, "production", GRACE, "an incident")
        return found

    monkeypatch.setattr(canary_looks, "measure", freeze_meanwhile)
    assert (trial.look(), trial.at(), trial.moves()) == ("aborted", 1, 1)
    assert trial.note() == f"{LLM}@production was frozen by grace: an incident"


def race(trial: Trial) -> None:
    """Looks, hands, freezing and other promotions at the same moment, at a canary that may advance."""
    world = trial.world
    trial.answers("current", 20, model=f"{LLM}@3")
    trial.answers("canary", 20)

    def one(kind: int) -> None:
        try:
            if kind < 3:
                canary_looks.due(world.database)
            elif kind == 3:
                world.promote(1)
            elif kind == 4:
                with world.database.transaction() as session:
                    canary_looks.abort(session, trial.id, GRACE)
            elif kind == 5:
                trial.begin(SOON, number=2)
            else:
                with world.database.transaction() as session:
                    aliases.freeze(session, LLM, "production", GRACE)
                    aliases.unfreeze(session, LLM, "production", GRACE)
        except Conflict:
            return

    with ThreadPoolExecutor(7) as threads:
        list(threads.map(one, range(7)))


def test_an_environment_has_canaries_by_default_and_approvals_come_first(world: World) -> None:
    settings: dict[str, Any] = {"roles": ["approver"], "after": None, "expires_after_s": 60, "canary": SOON}
    with world.database.transaction() as session:
        environments.set_environment(session, "production", ADA, approvals=0, **settings)
    trial = Trial(
        world, None
    )  # nothing answered, so there was nothing to compare with: the alias moved at once
    assert (trial.at(), trial.state()) == (1, "canary")
    with world.database.transaction() as session:
        canary_looks.abort(session, trial.id, GRACE)
        environments.set_environment(session, "production", ADA, approvals=1, **settings)
    asked = world.promote(2)
    assert asked.state is PromotionState.WAITING
    with world.database.transaction() as session:
        requests.approve(session, asked.id, Role.APPROVER, GRACE)
    for _ in range(2):  # again is the same
        done = requests.execute(
            world.database, world.store, world.keys_dir, promotion_id=asked.id, actor=GRACE
        )
        assert (done.state, trial.at()) == (PromotionState.CANARY, 1)
    with world.database.transaction() as session:  # a recipe's `serve` step
        assert requests.serve_when_executed(session, asked.id, {"engine": "llama_cpp"}) == "canary"
        canary_looks.report(session, asked.id, DeploymentState.READY, "")  # with the settings before these
        canary_looks.report(session, asked.id, DeploymentState.STARTING, "", {"engine": "vllm"})  # likewise
        assert session.get_one(Canary, asked.id).state is CanaryState.PENDING
    trial.ready(asked.id)
    with world.database.transaction() as session:
        canary_looks.advance(session, asked.id, GRACE)
        deployed = session.scalars(select(Deployment)).one()
        assert (deployed.config, deployed.state) == ({"engine": "llama_cpp"}, DeploymentState.READY)
        deployed.serving_version_id = None
    trial.id = asked.id
    assert (trial.state(), trial.at()) == ("executed", 2)
    with pytest.raises(
        Conflict, match=r"does not answer for production now .* ask for the promotion without one"
    ):
        trial.begin(SOON, number=1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"share": 0.1, "steps": [0.1]},
        {"steps": [0.5, 0.1]},
        {"share": 1.0},
        {"steps": [0.0, 0.1]},
        {"for_s": 100, "max_s": 50},
        {"limits": {"latency": 3}},
    ],
)
def test_a_canary_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CanaryConfig.model_validate(wrong)
