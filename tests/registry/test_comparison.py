"""Targets, what can be compared with what, and how versions stand."""

from __future__ import annotations

import pytest
from sqlalchemy import event
from tests.registry.making import HELDOUT, World

from raymill.policies.errors import Invalid, NotFound
from raymill.registry.comparison import (
    compare,
    files_to_compare,
    find_target,
    find_version_target,
    measured,
    spread,
    standings,
)
from raymill.registry.samples import SampleFile
from raymill.registry.tables import Evaluation

LLM = "support-triage"
GOOD, POOR = [True] * 40, [True] * 25 + [False] * 15


def test_a_target_is_a_version_an_alias_a_quantized_file_or_the_base(world: World) -> None:
    world.make_version()
    world.promote(1)
    world.make_version()
    with world.database.transaction() as session:
        for text, wanted in [
            (f"{LLM}@2", f"{LLM}@2"),
            (f"{LLM}@production", f"{LLM}@1"),
            (f"{LLM}@production:Q8_0", f"{LLM}@1:Q8_0"),
            (f"{LLM}@2:base", f"{LLM}@2:base"),
        ]:
            assert str(find_target(session, text)) == wanted
        base = find_version_target(session, f"{LLM}@2:base")
        assert base.artifact_name.startswith("base/")
        assert measured(session, base)[HELDOUT].score == 0.1


def test_what_is_not_there_is_named_with_what_is(world: World) -> None:
    world.make_version()
    world.promote(1)
    for text, reason in (
        (f"{LLM}@9", "no version 9 of 'support-triage': its newest version is 1"),
        ("nobody@1", "no model has that name"),
        (f"{LLM}@staging", "has no alias 'staging': it has production"),
        ("nobody@production", "has no alias 'production': give a version's number"),
        (f"{LLM}@1:Q2_K", "support-triage@1 has no Q2_K file: it has Q8_0"),
    ):
        with world.database.transaction() as session, pytest.raises(NotFound, match=reason):
            find_target(session, text)
    for text in ("", "support", "support@", "@3", "a@1:x:y", "A@1", "a@1:\x00", "../a@1"):
        with world.database.transaction() as session, pytest.raises(Invalid, match="write it as support@3"):
            find_target(session, text)


def test_two_versions_and_a_quantized_file_are_compared_by_example(world: World) -> None:
    world.make_version(right=GOOD, quantized=POOR)
    world.make_version(right=POOR, first=5)
    with world.database.transaction() as session:
        one, two = find_target(session, f"{LLM}@1"), find_target(session, f"{LLM}@2")
        quantized = find_target(session, f"{LLM}@1:Q8_0")
        versions = files_to_compare(session, one, two, HELDOUT)[HELDOUT]
        cost = files_to_compare(session, one, quantized)[HELDOUT]
    found = compare(world.store, versions)
    assert (found.statistics.examples, found.only_a, found.only_b) == (35, 5, 5)
    assert (found.statistics.verdict, found.statistics.wins, found.statistics.losses) == ("better", 10, 0)
    assert compare(world.store, versions[::-1]).statistics.verdict == "worse"
    assert compare(world.store, (versions[0], versions[0])).statistics.verdict == "no evidence"
    assert compare(world.store, cost).statistics.difference == 0.375


def test_a_task_that_only_one_was_measured_on_is_refused(world: World) -> None:
    world.make_version(right=GOOD)
    world.make_version(right=GOOD)
    with world.database.transaction() as session:
        one, two = find_target(session, f"{LLM}@1"), find_target(session, f"{LLM}@2")
        wanted = f"{LLM}@1 was measured on {HELDOUT} and {LLM}@2 on {HELDOUT}: evaluate both on mmlu"
        with pytest.raises(NotFound, match=wanted):
            files_to_compare(session, one, two, "mmlu")


def test_a_longer_board_asks_the_database_no_more_often(world: World) -> None:
    def statements() -> int:
        sent: list[str] = []

        def note(_: object, __: object, statement: str, *___: object) -> None:
            sent.append(statement)

        event.listen(world.database.engine, "before_cursor_execute", note)
        with world.database.transaction() as session:
            assert standings(session, None, None, 100)
        event.remove(world.database.engine, "before_cursor_execute", note)
        return len(sent)

    world.make_version(right=GOOD, quantized=POOR)
    of_one = statements()
    for name in ("second", "third"):
        world.make_version(name, right=GOOD, quantized=POOR)
    assert statements() == of_one


def test_the_newest_score_of_each_version_and_file_stands(world: World) -> None:
    world.make_version(right=POOR, quantized=POOR)
    world.make_version()  # of which no samples were kept
    world.make_version("other", right=GOOD)
    with world.database.transaction() as session:
        old = (
            session.query(Evaluation)
            .filter_by(artifact_name=find_version_target(session, f"{LLM}@1").artifact_name)
            .one()
        )
        again = {
            key: getattr(old, key) for key in ("job_id", "artifact_name", "dataset_id", "task", "samples")
        }
        session.add(Evaluation(**again, score=0.75))
    world.promote(2)
    with world.database.transaction() as session:
        found = {str(each.target): each for each in standings(session, None, LLM, 100)}
        assert set(found) == {f"{LLM}@1", f"{LLM}@1:Q8_0", f"{LLM}@2", f"{LLM}@2:Q8_0"}
        assert found[f"{LLM}@1"].evaluation.score == 0.75
        assert (found[f"{LLM}@2"].aliases, found[f"{LLM}@1"].aliases) == (["production"], [])
        assert found[f"{LLM}@1"].dataset == f"{LLM}@1"
        assert "kept no samples" in str(found[f"{LLM}@2"].where)
        where = found[f"{LLM}@1:Q8_0"].where
        (newest,) = standings(session, HELDOUT, None, 1)
        assert (str(newest.target), newest.evaluation.score) == (f"{LLM}@1", 0.75)
        board = standings(session, HELDOUT, None, 100)
        assert {str(each.target).partition("@")[0] for each in board} == {LLM, "other"}
        assert standings(session, "mmlu", None, 100) == []
    assert isinstance(where, SampleFile)
    sure = spread(world.store, where)
    assert sure.interval.low < 25 / 40 < sure.interval.high
    assert sure.higher_is_better
