"""The gateway over HTTP: what clients see. Engines are scripted at our own seam; the server is real."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from tests.serve.gateway_tools import KEY, ScriptedEngine, gateway, leave, snapshot
from tests.waiting import eventually

from raymill.policies.errors import Unavailable
from raymill.serve.gateway.snapshot import Snapshot, StaticSource

CHAT = "/v1/chat/completions"


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
def client(engine: ScriptedEngine) -> Iterator[httpx.Client]:
    with (
        gateway(engine) as address,
        httpx.Client(base_url=address, headers={"Authorization": f"Bearer {KEY}"}, timeout=60) as client,
    ):
        yield client


def asking(word: str, **more: Any) -> dict[str, Any]:
    return {"model": "support-triage", "messages": [{"role": "user", "content": word}], **more}


def error_of(response: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"type", "code", "message", "param", "request_id"}
    assert error["request_id"] == response.headers["x-request-id"]
    return error


# The openai package, unchanged.


def test_the_openai_package_chats_completes_streams_and_lists_models(engine: ScriptedEngine) -> None:
    with gateway(engine) as address, openai.OpenAI(base_url=f"{address}/v1", api_key=KEY) as client:
        chat = client.chat.completions.create(**asking("hello"))
        text = client.completions.create(model="support-triage@production", prompt="hello")
        stream = client.chat.completions.create(
            **asking("x"), stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
        models = [model.id for model in client.models.list()]
        one = client.models.retrieve("support-triage@3")
    assert chat.choices[0].message.content == "hello"
    assert chat._request_id
    assert text.choices[0].text == "hello"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "one two three"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 4
    assert models == ["support-triage", "support-triage@production", "support-triage@3"]
    assert one.id == "support-triage@3"


def test_the_async_openai_package_streams(engine: ScriptedEngine) -> None:
    async def streamed(address: str) -> str:
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key=KEY) as client:
            stream = await client.chat.completions.create(**asking("x"), stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    with gateway(engine) as address:
        assert asyncio.run(streamed(address)) == "one two three"


def test_the_openai_package_raises_its_own_errors(engine: ScriptedEngine) -> None:
    with (
        gateway(engine) as address,
        openai.OpenAI(base_url=f"{address}/v1", api_key="rm-wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError, match="unknown, was revoked or has expired"),
    ):
        client.models.list()


# Names.


def test_the_engine_is_asked_by_the_exact_version_and_unknown_fields_pass_through(
    client: httpx.Client, engine: ScriptedEngine
) -> None:
    client.post(CHAT, json=asking("hello", guided_thing={"a": 1})).raise_for_status()
    assert engine.seen[0]["model"] == "support-triage@3"
    assert engine.seen[0]["guided_thing"] == {"a": 1}


def test_an_unknown_model_is_named_and_so_is_what_is_served(client: httpx.Client) -> None:
    response = client.post(CHAT, json=asking("hello") | {"model": "gpt-9"})
    assert response.status_code == 404
    error = error_of(response)
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "'gpt-9'" in error["message"]
    assert "support-triage@production" in error["message"]


def test_the_bare_name_is_the_production_alias_only(engine: ScriptedEngine) -> None:
    auth = {"Authorization": f"Bearer {KEY}"}
    with gateway(engine, StaticSource(snapshot("staging"))) as address:
        bare = httpx.post(address + CHAT, json=asking("x"), headers=auth)
        named = httpx.post(
            address + CHAT, json=asking("x") | {"model": "support-triage@staging"}, headers=auth
        )
    assert (bare.status_code, named.status_code) == (404, 200)


# Refusals before the engine is asked.


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ({}, "no API key was sent"),
        ({"Authorization": "Basic abc"}, "no bearer token"),
        ({"Authorization": "Bearer rm-other"}, "unknown, was revoked or has expired"),
        ({"Authorization": f"Bearer {KEY}x"}, "unknown, was revoked or has expired"),
    ],
)
def test_without_a_known_key_nothing_is_answered(
    engine: ScriptedEngine, header: dict[str, str], says: str
) -> None:
    with gateway(engine) as address:
        responses = [
            httpx.post(address + CHAT, json=asking("x"), headers=header),
            httpx.post(address + "/v1/completions", json={}, headers=header),
            httpx.get(address + "/v1/models", headers=header),
            httpx.get(address + "/v1/models/support-triage", headers=header),
        ]
    for response in responses:
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        error = error_of(response)
        assert error["type"] == "authentication_error"
        assert says in error["message"]
        assert KEY not in response.text
    assert engine.seen == []


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        (b"{", None, "not JSON"),
        (b"[" * 900, None, "not JSON"),
        (b"\xff", None, "not JSON"),
        (b"[]", None, "array"),
        (b"{}", "model", "missing"),
        (b'{"model": 3}', "model", "number"),
        (b'{"model": "support-triage"}', "messages", "missing"),
        (b'{"model": "support-triage", "messages": []}', "messages", "empty"),
        (b'{"model": "support-triage", "messages": ["hi"]}', "messages", "array"),
        (b'{"model": "support-triage", "messages": [{}], "stream": "yes"}', "stream", "string"),
        (b'{"model": "support-triage", "messages": [{}], "stream_options": {}}', "stream_options", "stream"),
    ],
)
def test_a_malformed_request_is_refused_with_the_field(
    client: httpx.Client, engine: ScriptedEngine, body: bytes, param: str | None, says: str
) -> None:
    response = client.post(CHAT, content=body)
    assert response.status_code == 400
    error = error_of(response)
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert says in error["message"]
    assert engine.seen == []


def test_a_body_over_the_limit_is_refused_with_and_without_an_announced_length(client: httpx.Client) -> None:
    large = json.dumps(asking("x" * 2000)).encode()
    announced = client.post(CHAT, content=large)
    chunked = client.post(CHAT, content=iter([large[:900], large[900:]]))
    for response in (announced, chunked):
        assert response.status_code == 413
        assert error_of(response)["code"] == "body_too_large"


def test_other_paths_and_methods_are_refused_in_the_same_shape(client: httpx.Client) -> None:
    assert error_of(client.get("/v1/nothing"))["code"] == "unknown_route"
    wrong = client.get(CHAT)
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert error_of(wrong)["code"] == "method_not_allowed"


def test_a_request_id_sent_by_the_client_comes_back(client: httpx.Client) -> None:
    assert client.get("/v1/models", headers={"x-request-id": "mine-7"}).headers["x-request-id"] == "mine-7"
    assert (
        client.get("/v1/models").headers["x-request-id"] != client.get("/v1/models").headers["x-request-id"]
    )


# Engines that refuse, break, or lose their client.


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_engine_refuses_keeps_its_status_and_field(client: httpx.Client, stream: bool) -> None:
    response = client.post(CHAT, json=asking("refuse", stream=stream))
    assert response.status_code == 400
    error = error_of(response)
    assert (error["param"], error["message"]) == ("max_tokens", "max_tokens is over the limit: ask for fewer")


@pytest.mark.parametrize(("word", "stream"), [("away", False), ("away", True), ("empty", True)])
def test_an_engine_that_fails_before_the_first_chunk_is_a_503(
    client: httpx.Client, word: str, stream: bool
) -> None:
    response = client.post(CHAT, json=asking(word, stream=stream))
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert error_of(response)["type"] == "server_error"


@pytest.mark.parametrize("word", ["break", "fail"])
def test_a_stream_that_breaks_ends_with_an_error_event_and_never_with_done(
    client: httpx.Client, word: str
) -> None:
    response = client.post(CHAT, json=asking(word, stream=True))
    events = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert response.status_code == 200
    assert len(events) == 3
    assert json.loads(events[-1])["error"]["type"] == "server_error"
    assert "[DONE]" not in response.text


def test_the_openai_package_raises_when_a_stream_breaks(engine: ScriptedEngine) -> None:
    with (
        gateway(engine) as address,
        openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0) as client,
        pytest.raises(openai.APIError, match="does not answer right now"),
    ):
        list(client.chat.completions.create(**asking("break"), stream=True))


def test_chunks_arrive_while_the_engine_still_works(client: httpx.Client, engine: ScriptedEngine) -> None:
    with client.stream("POST", CHAT, json=asking("hang", stream=True)) as response:
        lines = response.iter_lines()
        assert "one " in next(lines)
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert not engine.cancelled.is_set()
    assert engine.cancelled.wait(60)


def test_a_client_that_goes_away_cancels_a_plain_request(
    client: httpx.Client, engine: ScriptedEngine
) -> None:
    leave(str(client.base_url), CHAT, asking("hang"), when=engine.started.is_set)
    assert engine.cancelled.wait(60)


# The snapshot.


def test_a_new_snapshot_takes_effect_without_a_restart(engine: ScriptedEngine) -> None:
    source = StaticSource(snapshot("production"))
    auth = {"Authorization": f"Bearer {KEY}"}
    with gateway(engine, source) as address:
        assert httpx.get(address + "/v1/models", headers=auth).status_code == 200
        source.replace(Snapshot.of({}, []))
        eventually(lambda: httpx.get(address + "/v1/models", headers=auth).status_code == 401)


class FlakySource(StaticSource):
    """Its store can be taken away."""

    away = False
    asked = 0

    async def load(self) -> Snapshot:
        self.asked += 1
        if self.away:
            raise Unavailable("the registry does not answer: start it")
        return await super().load()


def test_while_the_source_is_away_the_last_snapshot_stands(engine: ScriptedEngine) -> None:
    source = FlakySource(snapshot("production"))
    auth = {"Authorization": f"Bearer {KEY}"}
    with gateway(engine, source) as address:
        source.away = True
        before = source.asked
        eventually(lambda: source.asked > before + 2)
        assert httpx.get(address + "/v1/models", headers=auth).status_code == 200
        source.away = False
        source.replace(Snapshot.of({}, []))
        eventually(lambda: httpx.get(address + "/v1/models", headers=auth).status_code == 401)
