"""The gateway in front of providers that fail in every way: retries, keys in turn, fallbacks, honest ends."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import httpx
import openai
import pytest
from tests.serve.gateway_tools import KEY, gateway, leave, made, provider, route, source_of
from tests.serve.scripted_upstream import (
    DONE,
    END,
    ROLE,
    STREAM_HEAD,
    Act,
    Script,
    Seen,
    Writer,
    answer,
    chunk,
    drips,
    error,
    good,
    http,
    piece,
    reset,
    says,
    scripted,
    send,
    stall,
    streams,
    truncated,
)
from tests.waiting import eventually

CHAT = "/v1/chat/completions"
AUTH = {"Authorization": f"Bearer {KEY}"}
FAST = {"retries": {"attempts": 2, "base_s": 0.01, "cap_s": 0.5}}
SHORT = {"timeouts": {"connect_s": 1, "first_token_s": 0.4, "idle_s": 0.4, "total_s": 5}}
BOTH: list[dict[str, Any]] = [
    {"provider": "one", "model": "a"},
    {"provider": "two", "model": "b", "order": 1},
]


@pytest.fixture
def upstream() -> Iterator[Script]:
    with scripted() as script:
        yield script


def ask(address: str, *, stream: bool = False, **more: Any) -> httpx.Response:
    body = {"model": "r", "messages": [{"role": "user", "content": "Hello."}], "stream": stream, **more}
    return httpx.post(address + CHAT, json=body, headers=AUTH, timeout=60)


def events(stream: str) -> list[str]:
    return [event.removeprefix("data: ") for event in stream.split("\n\n") if event]


def two(upstream: Script, **config: Any) -> Any:
    """A route to model a of one provider, then to model b of another.

    Where nothing stalls, the usual times hold: on a busy machine 0.4 s are soon over.
    """
    providers = [provider("one", upstream.url), provider("two", upstream.url)]
    return source_of(providers, route("r", providers, BOTH, **{**FAST, **config}))


def times(fault: str) -> dict[str, Any]:
    return SHORT if fault.startswith(("stall", "cut before")) else {}


FAULTS: dict[str, Act] = {
    "500": says(500, error("boom")),
    "429 without Retry-After": says(429, error("slow down", "rate_limit_error")),
    "503 as HTML": says(503, b"<html>busy</html>"),
    "reset": reset,
    "stall before the first byte": stall,
    "cut in the middle": truncated(answer()),
    "truncated JSON": says(200, answer()[:-20]),
    "an error in a 200": says(200, error("overloaded")),
    "redirect": says(302, b"", location="http://127.0.0.1:1/"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_plain_request_meets_the_next_target_when_one_fails(fault: str, upstream: Script) -> None:
    upstream.on("a", FAULTS[fault])
    with gateway(source=two(upstream, **times(fault))) as address:
        response = ask(address)
    assert response.status_code == 200, response.text
    assert response.json()["choices"][0]["message"]["content"] == "Hello."
    assert response.headers["x-raymill-target"] == "two/b"
    assert int(response.headers["x-raymill-attempts"]) == (2 if fault == "redirect" else 3)
    assert float(response.headers["x-raymill-overhead-ms"]) < 400  # what a stall takes is not counted


STREAM_FAULTS: dict[str, Act] = {
    "stall before the first token": streams(ROLE, stall=True),
    "malformed SSE": streams(b"data: {oops\n\n"),
    "no SSE at all": says(200, b"<html></html>"),
    "an end without a word": streams(ROLE),
    "cut before the first token": streams(ROLE, end=b""),
    "error event first": streams(b'data: {"error": {"message": "overloaded", "type": "server_error"}}\n\n'),
}


@pytest.mark.parametrize("fault", [*STREAM_FAULTS, "500", "reset"])
def test_a_stream_meets_the_next_target_before_its_first_token(fault: str, upstream: Script) -> None:
    upstream.on("a", STREAM_FAULTS.get(fault) or FAULTS[fault])
    upstream.on("b", good("from b"))
    with gateway(source=two(upstream, **times(fault))) as address:
        response = ask(address, stream=True)
    assert response.headers["x-raymill-target"] == "two/b"
    told = [json.loads(event) for event in events(response.text)[:-1]]
    assert "".join(each["choices"][0]["delta"].get("content", "") for each in told) == "from b "
    assert events(response.text)[-1] == "[DONE]"


BREAKS: dict[str, bytes | None] = {
    "stall after the first token": None,
    "end without a finish": END,
    "connection cut": b"zz",
    "malformed JSON": piece(b'data: {"choices": [\n\n') + piece(DONE) + END,
    "error event": piece(b'data: {"error": {"message": "out of memory"}}\n\n') + END,
}


def breaks(heard: threading.Event, after: bytes | None) -> Act:
    """Says one, and what comes after it once the client has that: in one piece with it nobody would have seen it."""

    async def act(_: Seen, writer: Writer) -> None:
        await send(writer, STREAM_HEAD + piece(ROLE) + piece(chunk("one")))
        while not heard.is_set():
            await asyncio.sleep(0.005)
        if after is None:
            await asyncio.sleep(3600)
        await send(writer, after or b"")

    return act


def listen(stream: Iterable[object], heard: threading.Event) -> None:
    for _ in stream:
        heard.set()


@pytest.mark.parametrize("fault", BREAKS)
def test_a_stream_that_breaks_after_its_first_token_ends_with_an_error_and_no_done(
    fault: str, upstream: Script
) -> None:
    heard = threading.Event()
    upstream.on("a", breaks(heard, BREAKS[fault]))
    messages: Any = [{"role": "user", "content": "x"}]
    body = {"model": "r", "messages": messages, "stream": True}
    said = ""
    with gateway(source=two(upstream, **times(fault))) as address:
        with httpx.stream("POST", address + CHAT, json=body, headers=AUTH, timeout=60) as response:
            for text in response.iter_text():
                said += text
                heard.set()
        heard.clear()
        client = openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0)
        with client:
            stream = client.chat.completions.create(model="r", messages=messages, stream=True)
            with pytest.raises(openai.APIError):
                listen(stream, heard)
    assert response.status_code == 200
    assert response.headers["x-raymill-target"] == "one/a"
    assert json.loads(events(said)[-1])["error"]["type"] in {"server_error", "invalid_request_error"}
    assert "[DONE]" not in said
    assert upstream.requests("b") == []


def test_retry_after_is_waited_for_when_it_is_short(upstream: Script) -> None:
    limited = says(429, error("slow down"), retry_after="0.3")
    upstream.on("a", limited, good())
    providers = [provider("one", upstream.url)]
    source = source_of(providers, route("r", providers, BOTH[:1], **FAST))
    with gateway(source=source) as address:
        started = time.monotonic()
        response = ask(address)
    assert response.status_code == 200
    assert time.monotonic() - started >= 0.3
    assert response.headers["x-raymill-attempts"] == "2"


def test_a_long_retry_after_means_the_next_target_and_at_the_end_the_client_is_told(upstream: Script) -> None:
    limited = says(429, error("slow down"), retry_after="30")
    upstream.on("a", limited)
    with gateway(source=two(upstream)) as address:
        started = time.monotonic()
        assert ask(address).headers["x-raymill-target"] == "two/b"
        upstream.on("b", limited)
        refused = ask(address)
    assert time.monotonic() - started < 20  # and not 30
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "30")
    assert refused.json()["error"]["type"] == "rate_limit_error"


@pytest.mark.parametrize("status", [401, 403, 429])
def test_a_key_that_is_refused_rests_and_the_next_one_is_used(status: int, upstream: Script) -> None:
    async def by_key(seen: Any, writer: Any) -> None:
        refused = seen.headers["authorization"].endswith("-1")
        answered = http(status, error("no"), retry_after="30") if refused else http(200, answer())
        await send(writer, answered)

    upstream.on("a", by_key)
    providers = [provider("one", upstream.url, keys=2)]
    source = source_of(providers, route("r", providers, BOTH[:1], **FAST))
    with gateway(source=source) as address:
        codes = [ask(address).status_code for _ in range(6)]
    assert codes == [200] * 6
    used = [seen.headers["authorization"][-1] for seen in upstream.seen]
    assert used.count("1") == 1, "a key that rests was used again"


def test_when_every_key_is_refused_the_client_is_not_told_that_its_own_is_wrong(upstream: Script) -> None:
    upstream.on("a", says(401, error("bad key sk-one-0")))
    providers = [provider("one", upstream.url)]
    source = source_of(providers, route("r", providers, BOTH[:1], **FAST))
    with gateway(source=source) as address:
        refused = ask(address)
    assert refused.status_code == 502
    assert refused.json()["error"]["code"] == "provider_key_refused"
    assert "raymill provider test" in refused.json()["error"]["message"]


def test_what_the_client_did_wrong_is_told_at_once(upstream: Script) -> None:
    upstream.on("a", says(400, error("temperature must be at most 2", "invalid_request_error")))
    with gateway(source=two(upstream)) as address:
        refused = ask(address, temperature=3)
    assert refused.status_code == 400
    assert "temperature must be at most 2" in refused.json()["error"]["message"]
    assert len(upstream.seen) == 1


def test_a_breaker_opens_lets_one_through_and_closes_again(upstream: Script) -> None:
    upstream.on("a", says(500, error("boom")))
    breaker = {"window": 4, "min_requests": 2, "error_rate": 0.5, "open_s": 1.5}
    once = {"attempts": 1, "base_s": 0.01, "cap_s": 0.1}
    with gateway(source=two(upstream, breaker=breaker, retries=once)) as address:
        # Within the time that the breaker is open for.
        for _ in range(4):
            assert ask(address).headers["x-raymill-target"] == "two/b"
        assert len(upstream.requests("a")) == 2, "an open breaker let a request through"
        upstream.on("a", good())
        time.sleep(1.6)
        assert ask(address).headers["x-raymill-target"] == "one/a"
        assert ask(address).headers["x-raymill-target"] == "one/a"


def test_when_every_breaker_is_open_the_client_is_told_when_to_come_back(upstream: Script) -> None:
    upstream.on("a", says(500, error("boom")))
    providers = [provider("one", upstream.url)]
    breaker = {"window": 4, "min_requests": 2, "error_rate": 0.5, "open_s": 7}
    source = source_of(providers, route("r", providers, BOTH[:1], breaker=breaker, **FAST))
    with gateway(source=source) as address:
        ask(address)
        refused = ask(address)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "7")
    assert refused.json()["error"]["code"] == "no_target_available"


def test_ten_megabytes_and_a_slow_drip_come_through(upstream: Script) -> None:
    large = answer("x" * 10_000_000)
    upstream.on("a", says(200, large), drips(answer(), 0.002))
    with gateway(source=two(upstream)) as address:
        assert ask(address).content == large
        assert ask(address).content == answer()


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_cancels_the_call_upstream(stream: bool, upstream: Script) -> None:
    upstream.on("a", streams(ROLE, chunk("one"), stall=True) if stream else stall)
    with made(source=two(upstream)) as (app, address):
        body = {"model": "r", "messages": [{"role": "user", "content": "Hello."}], "stream": stream}
        leave(address, CHAT, body, when=lambda: upstream.open == 1)
        assert upstream.aborted.wait(60)
        eventually(lambda: app.in_flight == 0)


def test_an_upstream_address_in_the_request_is_never_used(upstream: Script) -> None:
    elsewhere = "http://127.0.0.1:1"
    named = {
        "base_url": elsewhere,
        "api_base": elsewhere,
        "x-portkey-custom-host": elsewhere,
        "proxy": elsewhere,
    }
    with gateway(source=two(upstream)) as address:
        response = httpx.post(
            address + CHAT,
            json={"model": "r", "messages": [{"role": "user", "content": "x"}], **named},
            headers=AUTH | {"x-portkey-custom-host": elsewhere, "host": "127.0.0.1:1"},
        )
        refused = ask(address, model=f"{elsewhere}/m")
    assert response.status_code == 200
    assert len(upstream.requests("a")) == 1
    assert upstream.seen[0].headers["host"] == upstream.url.removeprefix("http://")
    assert refused.status_code == 404


def test_only_the_providers_own_key_goes_upstream(upstream: Script) -> None:
    with gateway(source=two(upstream)) as address:
        ask(address)
    sent = upstream.seen[0].headers
    assert sent["authorization"] == "Bearer sk-one-0"
    assert KEY not in json.dumps(sent)


def test_weights_split_the_requests(upstream: Script) -> None:
    providers = [provider("one", upstream.url), provider("two", upstream.url)]
    split: list[dict[str, Any]] = [
        {"provider": "one", "model": "a", "weight": 3},
        {"provider": "two", "model": "b"},
    ]
    source = source_of(providers, route("r", providers, split))
    body = {"model": "r", "messages": [{"role": "user", "content": "x"}]}
    with gateway(source=source) as address, httpx.Client(base_url=address, headers=AUTH) as client:
        targets = [client.post(CHAT, json=body).headers["x-raymill-target"] for _ in range(200)]
    assert 0.6 < targets.count("one/a") / 200 < 0.9


def test_a_sticky_route_keeps_users_where_they_are(upstream: Script) -> None:
    providers = [provider("one", upstream.url), provider("two", upstream.url)]
    split: list[dict[str, Any]] = [{"provider": "one", "model": "a"}, {"provider": "two", "model": "b"}]
    source = source_of(providers, route("r", providers, split, sticky="user"))
    with gateway(source=source) as address:
        met = {
            user: {ask(address, user=user).headers["x-raymill-target"] for _ in range(4)}
            for user in "abcdefgh"
        }
    assert all(len(targets) == 1 for targets in met.values())
    assert len(set.union(*met.values())) == 2


def test_conditions_choose_the_target(upstream: Script) -> None:
    providers = [provider("one", upstream.url), provider("two", upstream.url)]
    targets: list[dict[str, Any]] = [
        {"provider": "one", "model": "a", "when": {"max_prompt_tokens": 50, "tools": False}},
        {"provider": "two", "model": "b", "when": {"min_prompt_tokens": 51}},
    ]
    with gateway(
        source=source_of(providers, route("r", providers, targets)), max_body_bytes=10_000
    ) as address:
        short = ask(address)
        long = ask(address, messages=[{"role": "user", "content": "word " * 100}])
        neither = ask(address, tools=[{"type": "function", "function": {"name": "f"}}])
    assert short.headers["x-raymill-target"] == "one/a"
    assert long.headers["x-raymill-target"] == "two/b"
    assert (neither.status_code, neither.json()["error"]["code"]) == (400, "no_target_for_request")


def test_usage_is_asked_for_and_taken_out_again_unless_the_client_asked(upstream: Script) -> None:
    with gateway(source=two(upstream)) as address:
        without = ask(address, stream=True)
        with_usage = ask(address, stream=True, stream_options={"include_usage": True})
    assert all(seen.body["stream_options"] == {"include_usage": True} for seen in upstream.seen)
    assert "usage" not in without.text
    assert json.loads(events(with_usage.text)[-2])["usage"]["total_tokens"] == 15
