"""Both clients against a real HTTP server on the loopback interface: retries, pages, streams, errors."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from raymill.client.errors import (
    ApiError,
    BadRequest,
    Clash,
    Missing,
    Refused,
    ServerAway,
    Unreachable,
    WaitedTooLong,
)
from raymill.client.retry import Outage, Retry
from raymill.client.sdk import AsyncRaymill, Raymill
from raymill.policies.errors import Denied, Invalid, NotFound, RaymillError, Unavailable

if TYPE_CHECKING:
    from tests.client.conftest import Reply, Seen, Service

    Replies = type[Reply]
    Refusal = Callable[..., Reply]

PIPELINE = "11111111-1111-1111-1111-111111111111"
JOB = "22222222-2222-2222-2222-222222222222"
EVENTS = f"/api/v1/pipelines/{PIPELINE}/events"
MOMENT = "2026-01-02T03:04:05Z"


def llm(name: str) -> dict[str, Any]:
    return {"id": str(uuid.uuid4()), "name": name, "latest_version": 1, "aliases": {}, "created_at": MOMENT}


def pipeline(state: str) -> dict[str, Any]:
    return {
        "id": PIPELINE,
        "name": "tiny",
        "state": state,
        "error": None,
        "created_by": "admin",
        "created_at": MOMENT,
        "finished_at": None,
        "recipe": {},
        "jobs": [],
    }


def event(number: int) -> str:
    data = (
        f'{{"id":{number},"job_id":"{JOB}","pipeline_id":"{PIPELINE}","kind":"step",'
        f'"data":{{"step":{number}}},"at":"{MOMENT}"}}'
    )
    return f"id: {number}\nevent: step\ndata: {data}\n\n"


END = "event: end\ndata: {}\n\n"


def test_a_mutating_call_is_sent_again_with_the_same_idempotency_key(
    service: Service, client: Raymill, reply: Replies, refusal: Refusal
) -> None:
    away = refusal(503, "unavailable", "the database is away")
    service.on("POST", "/api/v1/pipelines", away, away, reply(status=202, data=pipeline("running")))
    assert client.pipelines.create({"model": "tiny"}).state == "running"
    keys = {seen.headers["idempotency-key"] for seen in service.seen}
    assert len(service.seen) == 3
    assert len(keys) == 1
    assert service.seen[0].body == {"recipe": {"model": "tiny"}, "dry_run": False}
    assert service.seen[0].headers["authorization"] == "Bearer rk-test"


def test_two_calls_have_two_keys_and_a_given_key_is_used(
    service: Service, client: Raymill, reply: Replies
) -> None:
    service.on("POST", "/api/v1/pipelines", reply(status=202, data=pipeline("running")))
    client.pipelines.create({})
    client.pipelines.create({})
    client.pipelines.create({}, idempotency_key="mine")
    first, second, third = (seen.headers["idempotency-key"] for seen in service.seen)
    assert first != second
    assert third == "mine"


def test_a_call_that_must_not_be_done_twice_is_not_sent_again(
    service: Service, client: Raymill, refusal: Refusal
) -> None:
    service.on("POST", "/api/v1/keys", refusal(502, "bad_gateway", "the answer was lost"))
    with pytest.raises(ServerAway, match="the answer was lost"):
        client.keys.create("ann", "laptop")
    assert len(service.seen) == 1


def test_a_read_carries_no_idempotency_key(service: Service, client: Raymill, reply: Replies) -> None:
    service.on("GET", "/api/v1/llms/tiny", reply(data=llm("tiny")))
    assert client.llms.get("tiny").name == "tiny"
    assert "idempotency-key" not in service.seen[0].headers


def test_a_service_that_stays_away_is_given_up(service: Service, client: Raymill, refusal: Refusal) -> None:
    service.on("GET", "/api/v1/status", refusal(503, "unavailable", "the database is away"))
    with pytest.raises(ServerAway, match="the database is away") as caught:
        client.status()
    assert isinstance(caught.value, Unavailable)
    assert len(service.seen) == 4


@pytest.mark.parametrize(
    ("status", "kind", "base"),
    [
        (400, BadRequest, Invalid),
        (401, Refused, Denied),
        (403, Refused, Denied),
        (404, Missing, NotFound),
        (409, Clash, RaymillError),
        (422, BadRequest, Invalid),
        (500, ApiError, RaymillError),
    ],
)
def test_an_error_body_becomes_an_error_and_is_not_tried_again(
    service: Service,
    client: Raymill,
    refusal: Refusal,
    status: int,
    kind: type[ApiError],
    base: type[RaymillError],
) -> None:
    service.on("GET", "/api/v1/status", refusal(status, "some_code", "value x:\n do y", param="a.b"))
    with pytest.raises(kind) as caught:
        client.status()
    error = caught.value
    assert isinstance(error, base)
    assert str(error) == "value x: do y"
    assert (error.status, error.code, error.param, error.request_id) == (status, "some_code", "a.b", "req-1")
    assert len(service.seen) == 1


def test_an_answer_of_something_else_names_the_place(
    service: Service, client: Raymill, reply: Replies
) -> None:
    service.on("GET", "/api/v1/status", reply(data={"hello": "world"}))
    with pytest.raises(RaymillError, match=r"GET /api/v1/status answered something unexpected \(version: "):
        client.status()
    service.on("GET", "/api/v1/status", reply(status=418, data="teapot"))
    with pytest.raises(ApiError, match=r"GET /api/v1/status answered 418 I'm a Teapot"):
        client.status()


def test_no_service_is_one_line_with_the_cure(fast: Retry) -> None:
    with (
        Raymill("http://127.0.0.1:9", "k", retry=fast) as client,
        pytest.raises(
            Unreachable,
            match=r"no answer from http://127.0.0.1:9 \(.*\): start the service with `raymill up`",
        ),
    ):
        client.status()


def test_a_list_reads_page_after_page(service: Service, client: Raymill, reply: Replies) -> None:
    pages = {None: (["a", "b"], "c1"), "c1": (["c"], None)}

    def answer(seen: Seen) -> Reply:
        names, cursor = pages[seen.query.get("cursor")]
        return reply(data={"data": [llm(name) for name in names], "next_cursor": cursor})

    service.on("GET", "/api/v1/llms", answer)
    assert [model.name for model in client.llms.list()] == ["a", "b", "c"]
    assert [model.name for model in client.llms.list(limit=1)] == ["a"]
    assert service.seen[2].query == {"limit": "1"}
    assert len(service.seen) == 3


def test_a_filter_that_is_not_given_is_not_sent(service: Service, client: Raymill, reply: Replies) -> None:
    service.on("GET", "/api/v1/jobs", reply(data={"data": [], "next_cursor": None}))
    assert list(client.jobs.list(state="failed")) == []
    assert service.seen[0].query == {"state": "failed", "limit": "100"}


def test_a_name_cannot_leave_its_place_in_the_path(service: Service, client: Raymill) -> None:
    with pytest.raises(NotFound):
        client.llms.get("../keys")
    assert service.seen[0].path == "/api/v1/llms/..%2Fkeys"


def test_a_wrong_argument_is_refused_before_anything_is_sent(service: Service, client: Raymill) -> None:
    with pytest.raises(Invalid, match=r"^name: must be text that matches .*, got 'Bad Name'$"):
        client.accounts.create("Bad Name")
    assert service.seen == []


def test_a_stream_goes_on_after_a_broken_connection_without_loss_or_repetition(
    service: Service, client: Raymill, reply: Replies
) -> None:
    service.on(
        "GET",
        EVENTS,
        # The third event is cut in two, and the next connection sends the second one again.
        reply(chunks=(event(1), ": ping\n\n", event(2), event(3)[:20]), cut=True),
        reply(chunks=(event(2), event(3)), cut=False),
        reply(chunks=(event(4), END)),
    )
    assert [one.id for one in client.pipelines.events(PIPELINE)] == [1, 2, 3, 4]
    assert [seen.headers.get("last-event-id") for seen in service.seen] == [None, "2", "3"]
    assert service.seen[0].headers["accept"] == "text/event-stream"


def test_a_stream_starts_after_the_event_that_is_known(
    service: Service, client: Raymill, reply: Replies
) -> None:
    service.on("GET", EVENTS, reply(chunks=(event(8), END)))
    assert [one.id for one in client.pipelines.events(PIPELINE, after=7)] == [8]
    assert service.seen[0].headers["last-event-id"] == "7"


def test_a_stream_survives_a_restart_of_the_service(
    service: Service, client: Raymill, reply: Replies
) -> None:
    service.on("GET", EVENTS, reply(chunks=(event(1),), cut=True), reply(chunks=(event(2), END)))
    events = client.pipelines.events(PIPELINE)
    assert next(events).id == 1
    service.stop()

    def come_back() -> None:
        time.sleep(0.5)
        service.start()

    back = threading.Thread(target=come_back)
    back.start()
    assert [one.id for one in events] == [2]
    back.join()


def test_a_stream_of_a_service_that_does_not_come_back_is_given_up(service: Service, reply: Replies) -> None:
    service.on("GET", EVENTS, reply(chunks=(event(1),)))
    retry = Retry(base_s=0.01, cap_s=0.02, patience_s=0.2)
    with Raymill(service.url, "k", retry=retry) as client:
        events = client.pipelines.events(PIPELINE)
        assert next(events).id == 1
        service.on("GET", EVENTS, reply(chunks=()))
        with pytest.raises(Unreachable, match="closed the event stream too early"):
            next(events)


def test_a_stream_of_nothing_is_an_error_at_once(service: Service, client: Raymill) -> None:
    with pytest.raises(Missing, match="nothing at /api/v1/pipelines/"):
        list(client.pipelines.events(PIPELINE))
    assert len(service.seen) == 1


def test_waiting_ends_with_the_pipeline_or_with_the_time(
    service: Service, client: Raymill, reply: Replies, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raymill.client.sync_control.POLL_S", 0.01)
    path = f"/api/v1/pipelines/{PIPELINE}"
    service.on("GET", path, reply(data=pipeline("running")), reply(data=pipeline("failed")))
    assert client.pipelines.wait(PIPELINE).state == "failed"
    service.on("GET", path, reply(data=pipeline("running")))
    with pytest.raises(
        WaitedTooLong, match=f"pipeline {PIPELINE} is still running: wait longer, or cancel it"
    ):
        client.pipelines.wait(PIPELINE, timeout_s=0.05)


def test_a_log_is_followed_to_its_end(
    service: Service, client: Raymill, reply: Replies, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raymill.client.sync_control.POLL_S", 0.01)
    grow = {0: ("one\n", 4, False), 4: ("", 4, False)}
    asked: list[int] = []

    def answer(seen: Seen) -> Reply:
        after = int(seen.query["after"])
        asked.append(after)
        text, following, ended = grow[after] if asked.count(after) == 1 else ("two\n", 8, True)
        return reply(data={"text": text, "next": following, "ended": ended})

    service.on("GET", f"/api/v1/jobs/{JOB}/logs", answer)
    assert list(client.jobs.logs(JOB, follow=True)) == ["one\n", "two\n"]
    asked.clear()
    assert list(client.jobs.logs(JOB)) == ["one\n"]


def test_a_chat_gives_the_answer_in_pieces(service: Service, client: Raymill, reply: Replies) -> None:
    pieces = [f'data: {{"choices":[{{"delta":{{"content":"{text}"}}}}]}}\n\n' for text in ("Hel", "lo")]
    service.on("POST", "/v1/chat/completions", reply(chunks=(*pieces, "data: [DONE]\n\n")))
    answer = client.chat.stream("tiny", [{"role": "user", "content": "hi"}], temperature=0, max_tokens=None)
    assert "".join(answer) == "Hello"
    assert service.seen[0].body == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "hi"}],
        "temperature": 0,
        "stream": True,
    }


def test_a_chat_that_breaks_off_is_an_error(service: Service, client: Raymill, reply: Replies) -> None:
    service.on(
        "POST", "/v1/chat/completions", reply(chunks=('data: {"error": {"message": "no memory"}}\n\n',))
    )
    with pytest.raises(ServerAway, match="no memory"):
        list(client.chat.stream("tiny", []))
    service.on("POST", "/v1/chat/completions", reply(chunks=('data: {"choices": []}\n\n',)))
    with pytest.raises(ServerAway, match="broke off"):
        list(client.chat.stream("tiny", []))


def test_the_asyncio_client_does_the_same(
    service: Service, fast: Retry, reply: Replies, refusal: Refusal
) -> None:
    away = refusal(503, "unavailable", "away")
    service.on("POST", "/api/v1/pipelines", away, reply(status=202, data=pipeline("running")))
    proxys_own = reply(status=500, data="Internal Server Error")
    service.on(
        "GET",
        EVENTS,
        reply(chunks=(event(1),), cut=True),
        proxys_own,
        reply(chunks=(event(1), event(2), END)),
    )
    service.on("GET", "/api/v1/llms", reply(data={"data": [llm("a")], "next_cursor": None}))
    service.on("GET", f"/api/v1/pipelines/{PIPELINE}", reply(data=pipeline("succeeded")))

    async def work() -> tuple[list[int | None], list[str], str]:
        async with AsyncRaymill(service.url, "rk-test", retry=fast) as client:
            started = await client.pipelines.create({})
            ids = [one.id async for one in client.pipelines.events(started.id)]
            names = [model.name async for model in client.llms.list()]
            return ids, names, (await client.pipelines.wait(started.id)).state

    assert asyncio.run(work()) == ([1, 2], ["a"], "succeeded")
    first, second = (seen.headers["idempotency-key"] for seen in service.seen[:2])
    assert first == second


def test_both_clients_have_the_same_methods() -> None:
    with Raymill("http://127.0.0.1:9", "k") as blocking:
        waiting = AsyncRaymill("http://127.0.0.1:9", "k")
        for name, resource in vars(blocking).items():
            other = vars(waiting)[name]
            public = {method for method in dir(resource) if not method.startswith("_")}
            assert public == {method for method in dir(other) if not method.startswith("_")}, name
        asyncio.run(waiting.close())


def test_the_service_is_found_in_its_home_and_the_environment_wins(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raymill.client.settings import load_settings

    assert load_settings().url == "http://127.0.0.1:8000"
    assert load_settings().api_key is None
    (home / "service.json").write_text('{"url": "http://127.0.0.1:8123/"}')
    (home / "keys").mkdir()
    (home / "keys" / "admin.key").write_text("rk-admin\n")
    assert (load_settings().url, load_settings().api_key) == ("http://127.0.0.1:8123", "rk-admin")
    assert "rk-admin" not in repr(load_settings())
    monkeypatch.setenv("RAYMILL_URL", "https://raymill.example")
    assert load_settings().api_key is None  # the key of this machine's service is no other's business
    monkeypatch.setenv("RAYMILL_API_KEY", "rk-mine")
    assert (load_settings().url, load_settings().api_key) == ("https://raymill.example", "rk-mine")
    assert load_settings("http://other", "k").url == "http://other"


def test_a_damaged_home_says_what_to_do(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from raymill.client.settings import load_settings

    (home / "service.json").write_text("{")
    with pytest.raises(Invalid, match=r"service.json is damaged: .*set RAYMILL_URL"):
        load_settings()
    monkeypatch.setenv("RAYMILL_URL", "localhost:8000")
    with pytest.raises(Invalid, match="service address 'localhost:8000' is no URL"):
        load_settings()


def test_pauses_grow_are_jittered_and_have_a_cap() -> None:
    retry = Retry(base_s=1, cap_s=4)
    for failures, longest in ((1, 1), (2, 2), (3, 4), (4, 4), (10_000, 4)):
        pauses = [retry.pause_s(failures) for _ in range(200)]
        assert 0 <= min(pauses) < longest / 4
        assert longest / 2 < max(pauses) <= longest


def test_an_outage_is_counted_from_its_first_failure() -> None:
    outage = Outage(Retry(base_s=0, patience_s=0.05))
    outage.pause_s(Unavailable("away"))
    time.sleep(0.06)
    outage.over()
    outage.pause_s(Unavailable("away"))
    time.sleep(0.06)
    with pytest.raises(Unavailable, match="away"):
        outage.pause_s(Unavailable("away"))
