"""Sets made of what was asked of the gateway: from rows of traces, usage and feedback to a registered version."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from tests.registry.making import World
from tests.registry.using import NOON, make_account, usage
from tests.serve.dataset_lab import API, connected, error_of, run_all

from raymill.registry import feedback
from raymill.registry.database import Database
from raymill.registry.tables import Account, ApiKey, Role, Trace
from raymill.registry.traffic import Kept, kept_requests
from raymill.serve.gateway.mask import mask
from raymill.serve.traffic_rows import LeftOut, conversations, exchange, exchanges, preferences

SINCE = (NOON - dt.timedelta(hours=1)).isoformat()


def chat(*texts: str, **more: Any) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {
        "model": "support",
        "messages": [{"role": roles[n % 2], "content": t} for n, t in enumerate(texts)],
        **more,
    }


def said(text: str) -> dict[str, Any]:
    return {"body": {"choices": [{"message": {"role": "assistant", "content": text}}]}}


def keep(
    database: Database,
    key: ApiKey,
    request_id: str,
    prompt: dict[str, Any],
    answer: dict[str, Any],
    **changes: Any,
) -> None:
    """A request as the gateway's records arrive in Postgres: masked."""
    row = usage(key, **{"request_id": request_id, **changes})
    trace = Trace(
        usage_id=row.id,
        request_id=request_id,
        account_id=row.account_id,
        route=row.route,
        at=row.at,
        prompt=mask(prompt),
        answer=mask(answer),
    )
    with database.transaction() as session:
        session.add_all([row, trace])


def judge(database: Database, request_id: str, account: Account, **given: Any) -> None:
    with database.transaction() as session:
        feedback.attach(session, request_id, account.id, **given)


@pytest.fixture
def client(world: World) -> Iterator[TestClient]:
    with connected(world, Role.ADMIN) as found:
        yield found


def make(client: TestClient, world: World, **body: Any) -> dict[str, Any]:
    made = client.post(
        f"{API}/datasets/from-traffic", json={"name": "better", "route": "support", "since": SINCE, **body}
    )
    assert made.status_code == 202, made.text
    run_all(world)
    found: dict[str, Any] = client.get(f"{API}/pipelines/{made.json()['id']}").json()
    return found


def rows(client: TestClient) -> list[dict[str, Any]]:
    return [each["row"] for each in client.get(f"{API}/datasets/better/rows").json()["data"]]


def test_corrected_answers_become_targets_and_personal_data_stays_masked(
    client: TestClient, world: World
) -> None:
    ann, key = make_account(world.database, "ann")
    keep(world.database, key, "r1", chat("I am jo@example.com, where is my parcel?"), said("No idea."))
    keep(world.database, key, "r2", chat("Is it late?"), said("Yes."))
    keep(world.database, key, "r3", chat("Is it red?"), said("Blue."))
    keep(world.database, key, "r4", chat("Of another route"), said("x"), route="other")
    keep(world.database, key, "r5", chat("Failed"), said("x"), outcome="error")
    keep(world.database, key, "r6", chat("Too early"), said("x"), at=NOON - dt.timedelta(days=1))
    judge(world.database, "r1", ann, score=-1, correction="It is on its way, we wrote to jo@example.com.")
    judge(world.database, "r3", ann, score=-0.5)
    made = make(client, world)
    assert made["state"] == "succeeded", made["error"]
    assert [job["step"] for job in made["jobs"]] == ["traffic", "dataset"]
    found = {row["messages"][0]["content"]: row["messages"][1]["content"] for row in rows(client)}
    assert found == {
        "I am <email>, where is my parcel?": "It is on its way, we wrote to <email>.",
        "Is it late?": "Yes.",
    }
    provenance = client.get(f"{API}/datasets/better").json()["provenance"]
    assert provenance["created_by"] == "admin"
    assert {
        key: provenance["traffic"][key] for key in ("route", "requests", "rows", "rows_as", "feedback")
    } == {
        "route": "support",
        "requests": 3,
        "rows": 2,
        "rows_as": "conversations",
        "feedback": "any",
    }


@pytest.mark.parametrize(
    ("asked", "questions"),
    [
        ({}, {"good", "middling", "unheard", "corrected"}),
        ({"min_score": 0.5}, {"good", "corrected"}),
        ({"feedback": "scored"}, {"good", "middling", "corrected"}),
        ({"feedback": "corrected"}, {"corrected"}),
        ({"min_score": -1, "feedback": "scored"}, {"good", "middling", "bad", "corrected"}),
    ],
)
def test_feedback_decides_which_answers_are_learnt_from(
    client: TestClient, world: World, asked: dict[str, Any], questions: set[str]
) -> None:
    ann, key = make_account(world.database, "ann")
    for name in ("good", "middling", "bad", "unheard", "corrected"):
        keep(world.database, key, name, chat(name), said(f"answer {name}"))
    for name, given in (
        ("good", {"score": 1}),
        ("middling", {"score": 0}),
        ("bad", {"score": -1}),
        ("corrected", {"score": -1, "correction": "right"}),
    ):
        judge(world.database, name, ann, **given)
    assert make(client, world, **asked)["state"] == "succeeded"
    assert {row["messages"][0]["content"] for row in rows(client)} == questions


def test_two_answers_to_one_prompt_and_corrections_become_pairs(world: World) -> None:
    ann, key = make_account(world.database, "ann")
    for name, text in (("a", "worse"), ("b", "best"), ("c", "best"), ("d", "unheard")):
        keep(world.database, key, name, chat("Is it late?"), said(text))
    keep(world.database, key, "e", chat("And now?"), said("No."))
    for name, given in (("a", {"score": -1}), ("b", {"score": 1}), ("c", {"score": 0.5})):
        judge(world.database, name, ann, **given)
    judge(world.database, "e", ann, correction="Yes.")
    with world.database.transaction() as session:
        kept = list(kept_requests(session, route="support", since=NOON, until=NOON + dt.timedelta(hours=1)))
    left_out: Counter[str] = Counter()
    pairs = list(preferences(exchanges(kept, left_out), min_score=None))
    assert not left_out
    found = {
        (p["prompt"][0]["content"], p["chosen"][0]["content"], p["rejected"][0]["content"]) for p in pairs
    }
    assert found == {("Is it late?", "best", "worse"), ("And now?", "Yes.", "No.")}
    assert len(list(preferences(exchanges(kept, left_out), min_score=1.0))) == 2


def test_feedback_is_on_the_newest_request_of_that_id_by_that_account(world: World) -> None:
    ann, anns = make_account(world.database, "ann")
    bob, bobs = make_account(world.database, "bob")
    later = NOON + dt.timedelta(minutes=1)
    keep(world.database, anns, "same", chat("old"), said("x"))
    keep(world.database, anns, "same", chat("new"), said("x"), at=later)
    keep(world.database, bobs, "same", chat("bob's"), said("x"), at=later)
    judge(world.database, "same", ann, score=0.5)
    judge(world.database, "same", bob, score=-0.5)
    with world.database.transaction() as session:
        kept = list(kept_requests(session, route="support", since=NOON, until=NOON + dt.timedelta(hours=1)))
    scores = {one.prompt["messages"][0]["content"]: one.scores for one in kept}
    assert scores == {"old": (), "new": (0.5,), "bob's": (-0.5,)}


def test_all_kept_requests_are_read_across_pages(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raymill.registry.traffic.PAGE", 3)
    _, key = make_account(world.database, "ann")
    for number in range(8):
        keep(
            world.database,
            key,
            f"r{number}",
            chat(f"q{number}"),
            said("x"),
            at=NOON + dt.timedelta(seconds=number // 3),
        )
    with world.database.transaction() as session:
        kept = list(kept_requests(session, route="support", since=NOON, until=NOON + dt.timedelta(hours=1)))
    assert sorted(one.request_id for one in kept) == [f"r{number}" for number in range(8)]


def kept(
    operation: str, prompt: dict[str, Any], answer: dict[str, Any], correction: str | None = None
) -> Kept:
    return Kept("r", NOON, operation, prompt, answer, (), correction)


def test_every_wire_is_read_as_a_conversation() -> None:
    anthropic = {
        "model": "m",
        "max_tokens": 9,
        "system": "Be brief.",
        "messages": [{"role": "user", "content": "Hi"}],
    }
    message = {
        "id": "x", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn",
        "content": [{"type": "text", "text": "Hello"}], "usage": {"input_tokens": 1, "output_tokens": 1},
    }  # fmt: skip
    response = {"output": [{"type": "message", "content": [{"type": "output_text", "text": "Hello"}]}]}
    made = [
        exchange(kept("chat", chat("Hi"), {"text": "Hello", "chunks": 2})),
        exchange(kept("messages", anthropic, {"body": message})),
        exchange(
            kept("responses", {"model": "m", "instructions": "Be brief.", "input": "Hi"}, {"body": response})
        ),
        exchange(kept("completions", {"prompt": "Hi"}, {"body": {"choices": [{"text": "Hello"}]}})),
    ]
    assert {one.answer["content"] for one in made} == {"Hello"}
    assert [one.messages[-1]["content"] for one in made] == ["Hi"] * 4
    assert [one.messages[0]["role"] for one in made] == ["user", "system", "system", "user"]


def test_calls_of_tools_stay_calls() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"id": 3}'}}
    tools = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}]
    body = {"choices": [{"message": {"role": "assistant", "content": None, "tool_calls": [call]}}]}
    (row,) = conversations(
        [exchange(kept("chat", chat("Hi", tools=tools), {"body": body}))], min_score=None, feedback="any"
    )
    assert row["tools"] == tools
    assert row["messages"][-1]["tool_calls"] == [call]


@pytest.mark.parametrize(
    ("one", "why"),
    [
        (kept("chat", {"left_out": True, "size_bytes": 9}, said("x")), "the prompt was too long to be kept"),
        (kept("chat", chat("Hi"), {"left_out": True, "size_bytes": 9}), "the answer was too long to be kept"),
        (kept("embeddings", {"input": "Hi"}, {"body": {}}), "it is embeddings, no conversation"),
        (kept("chat", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, said("x")), "it holds pictures, sounds or files"),
        (kept("chat", {"messages": [{"content": "Hi"}]}, said("x")), "it cannot be read as a conversation"),
        (kept("chat", {"messages": []}, said("x")), "nobody asks anything in it"),
    ],
)  # fmt: skip
def test_what_no_row_can_be_made_of_is_counted_by_its_reason(one: Kept, why: str) -> None:
    with pytest.raises(LeftOut, match=why):
        exchange(one)
    left_out: Counter[str] = Counter()
    assert list(exchanges([one], left_out)) == []
    assert left_out == {why: 1}


def test_a_corrected_answer_needs_not_have_been_kept() -> None:
    made = exchange(
        kept("chat", chat("Hi"), {"left_out": True, "size_bytes": 9}, "Hello, call +49 170 1234567")
    )
    (row,) = conversations([made], min_score=None, feedback="any")
    assert row["messages"][-1]["content"] == "Hello, call <phone>"


def test_nothing_to_learn_from_is_an_error_with_the_reason(client: TestClient, world: World) -> None:
    ann, key = make_account(world.database, "ann")
    none = make(client, world)
    assert none["state"] == "failed"
    assert "no answered request of support is kept since" in none["jobs"][0]["error"]
    keep(world.database, key, "r1", chat("Hi"), said("x"))
    judge(world.database, "r1", ann, score=-1)
    scored = make(client, world, min_score=0.5)
    assert "1 requests of support are kept" in scored["jobs"][0]["error"]
    assert "lower min_score" in scored["jobs"][0]["error"]
    assert scored["jobs"][1]["state"] == "cancelled"


def test_only_an_admin_may_make_a_set_of_everyones_prompts(world: World) -> None:
    with connected(world, Role.APPROVER) as approver:
        body = {"name": "better", "route": "support", "since": SINCE}
        assert error_of(approver.post(f"{API}/datasets/from-traffic", json=body))[:2] == (403, "denied")
