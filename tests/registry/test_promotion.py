"""Moving an alias: proved, decided, signed and recorded, or not moved (P6)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select
from tests.registry.making import HELDOUT, REQUIRE, World

from raymill.policies.errors import NotFound
from raymill.registry import audit
from raymill.registry.artifacts import Tampered
from raymill.registry.audit import Actor
from raymill.registry.promotion import attestation_of
from raymill.registry.signing import verify_directory
from raymill.registry.signing_keys import KeyRing
from raymill.registry.tables import Alias, AliasMove, Attestation, AuditEvent, LlmVersion, Pipeline, Promotion

RULE = "not_significantly_worse_than"


def production(world: World) -> int | None:
    """Number of the version that the alias points to."""
    with world.database.transaction() as session:
        alias = session.scalars(select(Alias).where(Alias.name == "production")).one_or_none()
        return alias.version.number if alias else None


def count(world: World, table: type[Promotion | Attestation | AliasMove]) -> int:
    with world.database.transaction() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def moves(world: World) -> list[tuple[int | None, int]]:
    """(from, to), oldest first."""
    with world.database.transaction() as session:
        numbers = {row.id: row.number for row in session.scalars(select(LlmVersion))}
        rows = session.scalars(select(AliasMove).order_by(AliasMove.id))
        return [
            (numbers[row.previous_version_id] if row.previous_version_id else None, numbers[row.version_id])
            for row in rows
        ]


def test_a_good_version_takes_the_alias_with_decision_signature_and_history(world: World) -> None:
    number = world.make_version()
    promotion = world.promote(number)
    assert promotion.allowed
    assert promotion.reasons == []
    assert promotion.input["require"] == REQUIRE  # of the recipe
    assert promotion.input["metrics"] == {HELDOUT: 0.95}
    assert promotion.input["base_metrics"] == {HELDOUT: 0.1}
    assert promotion.input["quantized_metrics"] == {"Q8_0": {HELDOUT: 0.95}}
    assert (production(world), moves(world)) == (1, [(None, 1)])
    with world.database.transaction() as session:
        actions = session.scalars(select(AuditEvent.action).order_by(AuditEvent.seq)).all()
        audit.verify(session)
    assert actions[-2:] == ["promotion.allow", "alias.move"]


def test_every_artifact_of_it_carries_a_signature_that_tells_its_story(world: World) -> None:
    world.promote(world.make_version())
    with world.database.transaction() as session:
        version = session.scalars(select(LlmVersion)).one()
        attested = session.scalars(select(Attestation).order_by(Attestation.artifact_name)).all()
    assert [row.artifact_name.partition("/")[0] for row in attested] == ["gguf", "model"]
    keys = KeyRing(world.keys_dir).public_keys()
    for row in attested:
        directory = world.store.existing(row.artifact_name)
        statement = verify_directory(directory, row.envelope, keys, name=row.artifact_name)
        assert statement.predicate["llm"] == "support-triage"
        assert statement.predicate["dataset"]["number"] == 1
        assert statement.predicate["base"]["artifact"] == version.base_artifact_name
        assert statement.predicate["metrics"] == {HELDOUT: 0.95}
        assert statement.key_id == row.key_id == KeyRing(world.keys_dir).key_id()


def test_a_refusal_is_on_record_and_moves_and_signs_nothing(world: World) -> None:
    world.promote(world.make_version())
    promotion = world.promote(world.make_version(score=0.5))
    assert not promotion.allowed
    assert any("0.5" in reason["reason"] and "0.9" in reason["reason"] for reason in promotion.reasons)
    assert (production(world), moves(world)) == (1, [(None, 1)])
    assert (count(world, Promotion), count(world, Attestation)) == (2, 2)
    with world.database.transaction() as session:
        last = session.scalars(select(AuditEvent).order_by(AuditEvent.seq.desc())).first()
    assert last is not None
    assert (last.action, last.object) == ("promotion.refuse", "llm/support-triage/2")
    assert last.detail["reasons"] == [reason["reason"] for reason in promotion.reasons]


@pytest.mark.parametrize("kind", ["model", "gguf"])
def test_changed_bytes_are_named_and_leave_no_trace_but_the_error(world: World, kind: str) -> None:
    number = world.make_version()
    file = next(world.store.root.glob(f"{kind}/*/*/model*"))
    content = file.read_bytes()
    file.write_bytes(content[:-1] + b"X")
    with pytest.raises(Tampered, match=file.name):
        world.promote(number)
    assert (production(world), count(world, Promotion), count(world, Attestation)) == (None, 0, 0)
    file.write_bytes(content)
    assert world.promote(number).allowed


def test_a_version_may_not_be_significantly_worse_than_the_one_in_production(world: World) -> None:
    require = {HELDOUT: {RULE: "production"}}
    good, poor, near = [True] * 60, [True] * 45 + [False] * 15, [False, *[True] * 59]
    numbers = [world.make_version(right=right) for right in (poor, good, poor, near)]
    first = world.promote(numbers[0], require=require)
    assert first.allowed  # over nothing
    assert first.input["comparisons"] == {
        HELDOUT: {"alias": "production", "version": None, "verdict": "no rival"}
    }
    assert world.promote(numbers[1], require=require).allowed
    assert world.promote(numbers[1], require=require).allowed  # over itself
    refused = world.promote(numbers[2], require=require)
    assert refused.reasons == [
        {
            "reason": f"{HELDOUT} is 0.75 against the 1 of version 2 (difference -0.25 between -0.366667 and -0.15, "
            "p 6.1e-05, 60 examples), production requires it not significantly worse than production"
        }
    ]
    assert world.promote(numbers[3], require=require).allowed
    assert moves(world) == [(None, 1), (1, 2), (2, 2), (2, 4)]


def test_what_cannot_be_compared_with_production_is_refused_and_changed_samples_are_an_error(
    world: World,
) -> None:
    require = {HELDOUT: {RULE: "production"}}
    world.promote(world.make_version(right=[True] * 20))
    apart = world.promote(world.make_version(right=[True] * 20, first=500), require=require)
    assert "none of the 20 examples of support-triage@2 is among the 20" in apart.reasons[0]["reason"]
    unkept = world.promote(world.make_version(), require=require)
    assert "the evaluation of support-triage@3 kept no samples" in unkept.reasons[0]["reason"]
    number = world.make_version(right=[False] * 20)
    newest = max(world.store.root.rglob("*.parquet"))
    newest.write_bytes(newest.read_bytes() + b"X")
    with pytest.raises(Tampered, match="parquet"):
        world.promote(number, require=require)
    assert moves(world) == [(None, 1)]


def test_bounds_that_a_resolved_recipe_leaves_open_ask_for_nothing(world: World) -> None:
    number = world.make_version()
    with world.database.transaction() as session:
        for pipeline in session.scalars(select(Pipeline)):
            bounds = {"at_least": 0.9, "at_most": None, RULE: None}
            pipeline.recipe = {"promote": {"require": {HELDOUT: bounds}}}
    promotion = world.promote(number)
    assert promotion.allowed, promotion.reasons
    assert promotion.input["require"] == {HELDOUT: {"at_least": 0.9}}


def test_an_alias_goes_back_to_an_older_version_by_another_promotion(world: World) -> None:
    first, second = world.make_version(), world.make_version()
    for number in (first, second, first):
        assert world.promote(number).allowed
    assert (production(world), moves(world)) == (1, [(None, 1), (1, 2), (2, 1)])


def test_promotions_at_once_leave_one_consistent_history(world: World) -> None:
    numbers = [world.make_version() for _ in range(2)]

    def promote(each: int) -> bool:
        return world.promote(numbers[each % 2], actor=Actor(name=f"user{each}")).allowed

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(promote, range(8)))
    told = moves(world)
    assert len(told) == 8
    assert told[0][0] is None
    assert [before for before, _ in told[1:]] == [after for _, after in told[:-1]]
    assert production(world) == told[-1][1]
    with world.database.transaction() as session:
        audit.verify(session)


def test_the_newest_signature_is_the_one_that_counts(world: World) -> None:
    number = world.make_version()
    world.promote(number)
    KeyRing(world.keys_dir).rotate()
    world.promote(number)
    with world.database.transaction() as session:
        version = session.scalars(select(LlmVersion)).one()
        newest = attestation_of(session, version.artifact_name)
    assert newest is not None
    assert newest.key_id == KeyRing(world.keys_dir).key_id()


def test_a_version_that_is_not_there_is_named(world: World) -> None:
    number = world.make_version()
    with pytest.raises(NotFound, match="no version 9 of 'support-triage': its newest version is 1"):
        world.promote(number + 8)
    with pytest.raises(NotFound, match="no model has that name"):
        world.promote(1, name="nobody")
