"""Feedback and traces: on whose answers, and what is kept."""

from __future__ import annotations

import datetime as dt
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import func, select
from tests.registry.using import NOON, add, make_account, usage

from raymill.policies.errors import Invalid, NotFound
from raymill.registry import feedback
from raymill.registry.database import Database
from raymill.registry.tables import Feedback, Trace, new_id
from raymill.registry.usage_records import Position


def test_a_score_and_a_correction_are_attached_and_replaced(database: Database) -> None:
    ann, key = make_account(database, "ann")
    add(database, usage(key, request_id="r1"))
    with database.transaction() as session:
        first = feedback.attach(session, "r1", ann.id, score=-1, correction="Berlin", comment="wrong")
        assert (first.score, first.correction, first.comment) == (-1.0, "Berlin", "wrong")
        assert first.at is not None
    with database.transaction() as session:
        second = feedback.attach(session, "r1", ann.id, score=1)
        assert (second.id, second.score, second.correction, second.comment) == (first.id, 1.0, None, "")


def test_only_ones_own_answers_can_be_judged_but_by_an_administrator(database: Database) -> None:
    ann, key = make_account(database, "ann")
    bob, _ = make_account(database, "bob")
    add(database, usage(key, request_id="r1"))
    with database.transaction() as session:
        for request_id, account in (("r1", bob), ("r2", ann)):
            with pytest.raises(NotFound, match="a second or two after it; try again"):
                feedback.attach(session, request_id, account.id, score=0)
        feedback.attach(session, "r1", bob.id, score=0, any_account=True)
        feedback.attach(session, "r1", ann.id, score=1)
        assert [one.account_id for one in feedback.feedback_list(session)] == [ann.id, bob.id]
        assert len(feedback.feedback_list(session, account_id=bob.id)) == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "says nothing"),
        ({"score": 1.01}, "score is 1.01: give a number from -1"),
        ({"score": float("nan")}, "score is nan"),
        ({"comment": "x" * 100_001}, "comment has 100001 characters"),
        ({"correction": "a\0b"}, "correction holds a NUL"),
    ],
)
def test_what_makes_no_sense_is_refused(database: Database, wrong: dict[str, Any], message: str) -> None:
    ann, key = make_account(database, "ann")
    add(database, usage(key, request_id="r1"))
    with database.transaction() as session, pytest.raises(Invalid, match=message):
        feedback.attach(session, "r1", ann.id, **wrong)


def test_eight_at_once_leave_one_opinion(database: Database) -> None:
    ann, key = make_account(database, "ann")
    add(database, usage(key, request_id="r1"))

    def say(number: int) -> None:
        with database.transaction() as session:
            feedback.attach(session, "r1", ann.id, score=number / 8)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(say, range(8)))
    with database.transaction() as session:
        assert session.scalar(select(func.count()).select_from(Feedback)) == 1


def test_traces_are_listed_by_route_and_found_by_request(database: Database) -> None:
    ann, key = make_account(database, "ann")
    bob, _ = make_account(database, "bob")
    with database.transaction() as session:
        for number, (account, route) in enumerate([(ann, "a"), (ann, "b"), (bob, "a"), (ann, "a")]):
            session.add(
                Trace(
                    usage_id=new_id(),
                    request_id=f"r{number % 3}",
                    account_id=account.id,
                    route=route,
                    at=NOON + dt.timedelta(seconds=number),
                    prompt={"n": number},
                    answer={},
                )
            )
    with database.transaction() as session:
        assert [row.prompt["n"] for row in feedback.traces(session)] == [3, 2, 1, 0]
        assert [row.prompt["n"] for row in feedback.traces(session, account_id=ann.id, route="a")] == [3, 0]
        first, second = feedback.traces(session, limit=2)
        rest = feedback.traces(session, after=Position(second.at, second.usage_id))
        assert [row.prompt["n"] for row in rest] == [1, 0]
        assert feedback.find_trace(session, "r0").prompt == {"n": 3}  # the newest that is called so
        assert feedback.find_trace(session, "r2", account_id=bob.id).prompt == {"n": 2}
        for request_id in ("r1", "r9"):
            with pytest.raises(NotFound, match="they are kept on routes with keep_traces"):
                feedback.find_trace(session, request_id, account_id=bob.id)
    assert first.prompt == {"n": 3}
    assert key.account_id == ann.id
