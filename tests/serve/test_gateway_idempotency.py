"""`Idempotency-Key`, on a real Postgres: the same request twice is one call and one charge."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import openai
import psycopg
import pytest
from tests.serve.gateway_lab import CHAT, Lab, copy_of, lab
from tests.serve.gateway_tools import ADA, KEY, leave, provider, source_of
from tests.serve.scripted_upstream import Act, Seen, Writer, error, says, scripted, stall
from tests.serve.scripted_wires import TEXT, Wire, breaks, hangs, speaks
from tests.waiting import eventually

from raymill.registry.database import Database
from raymill.serve.gateway.answers import MAX_KEY_CHARS, PostgresAnswers
from raymill.serve.gateway.snapshot import Snapshot, StaticSource, digest_of

BOBS_KEY = "rm-fedcba9876543210"
BOB = replace(ADA, account="bob", account_id=uuid.UUID(int=7), key_id=uuid.UUID(int=8))
MESSAGES, RESPONSES = "/v1/messages", "/v1/responses"
REPLAY = "x-raymill-idempotent-replay"


class Mine(NamedTuple):
    """What one test alone uses of the gateway that all of them share."""

    lab: Lab
    name: str
    """Of a model and of a key."""

    def on(self, *acts: Act) -> None:
        self.lab.upstream.on(self.name, *acts)

    def calls(self) -> int:
        return len(self.lab.upstream.requests(self.name))

    def post(
        self,
        said: str = "Hello.",
        *,
        key: str | None = None,
        provider: str = "openai",
        path: str = CHAT,
        **more: Any,
    ) -> httpx.Response:
        text = "input" if path == RESPONSES else "messages"
        body = {"model": f"{provider}/{self.name}", text: [{"role": "user", "content": said}], **more}
        if path == MESSAGES:
            body["max_tokens"] = 9
        key = self.name if key is None else key
        return self.lab.client.post(path, json=body, headers={"Idempotency-Key": key})


@pytest.fixture(scope="module")
def url(migrated: Database) -> Iterator[str]:
    with copy_of(migrated) as url:
        yield url


@pytest.fixture(scope="module")
def shared(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with scripted() as upstream:
        providers = [
            provider("openai", upstream.url),
            provider("chat-only", upstream.url, preset="llama-cpp"),
            provider("anthropic", upstream.url, preset="anthropic"),
        ]
        keys = {digest_of(KEY): ADA, digest_of(BOBS_KEY): BOB}
        source = StaticSource(Snapshot.of(keys, providers=providers))
        answers = PostgresAnswers(url, uuid.uuid4())
        with lab(upstream, source, tmp_path_factory.mktemp("spool"), answers=answers) as made:
            yield made


@pytest.fixture
def mine(shared: Lab) -> Mine:
    return Mine(shared, uuid.uuid4().hex)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "provider"),
    [
        (CHAT, "openai"),
        (CHAT, "anthropic"),
        (MESSAGES, "anthropic"),
        (MESSAGES, "openai"),
        (RESPONSES, "chat-only"),
        (RESPONSES, "anthropic"),
    ],
)
def test_the_same_key_and_body_give_the_same_bytes(
    stream: bool, path: str, provider: str, mine: Mine
) -> None:
    mine.on(speaks("anthropic" if provider == "anthropic" else "openai"))
    first, second = (mine.post(path=path, provider=provider, stream=stream) for _ in range(2))
    assert (first.status_code, second.status_code) == (200, 200)
    assert second.content == first.content
    assert (REPLAY in first.headers, second.headers.get(REPLAY)) == (False, "true")
    for name in ("content-type", "x-raymill-target", "x-raymill-attempts"):
        assert second.headers[name] == first.headers[name]
    assert second.headers["x-request-id"] != first.headers["x-request-id"]
    assert mine.calls() == 1
    assert mine.lab.lines(second.headers["x-request-id"]) == [], "a replay was charged"


def test_while_an_answer_is_being_made_the_key_is_in_use(mine: Mine) -> None:
    go_on = threading.Event()

    async def act(seen: Seen, writer: Writer) -> None:
        await asyncio.to_thread(go_on.wait, 60)
        await speaks("openai")(seen, writer)

    mine.on(act)
    first: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: first.append(mine.post()))
    thread.start()
    eventually(lambda: mine.calls() == 1)
    meanwhile = mine.post()
    other = mine.post("Something else.")
    go_on.set()
    thread.join(60)
    assert (meanwhile.status_code, meanwhile.headers["retry-after"]) == (409, "1")
    assert meanwhile.json()["error"]["code"] == "idempotency_key_in_use"
    assert other.status_code == 422
    assert first[0].status_code == 200
    assert mine.post().headers[REPLAY] == "true"


def test_another_body_or_operation_under_the_same_key_is_refused(mine: Mine) -> None:
    mine.on(speaks("openai"))
    assert mine.post().status_code == 200
    for other in (mine.post("Something else."), mine.post(temperature=1), mine.post(path=MESSAGES)):
        assert other.status_code == 422
        assert "was used with another body: use a new key" in other.json()["error"]["message"]
    assert mine.calls() == 1


def test_two_accounts_may_use_the_same_key(mine: Mine, monkeypatch: pytest.MonkeyPatch) -> None:
    mine.on(speaks("openai", "for ada"), speaks("openai", "for bob"))
    assert "for ada" in mine.post().text
    monkeypatch.setitem(mine.lab.client.headers, "Authorization", f"Bearer {BOBS_KEY}")
    told = mine.post("Something else.")
    assert (told.status_code, REPLAY in told.headers) == (200, False)
    assert "for bob" in told.text


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_failed_frees_its_key(stream: bool, mine: Mine) -> None:
    boom = says(500, error("boom"), retry_after="3600")
    mine.on(says(400, error("no")), boom, speaks("openai"))
    assert mine.post(stream=stream).status_code == 400
    assert mine.post("Another body.", stream=stream).status_code == 502
    assert "there." in mine.post(stream=stream).text
    assert mine.post(stream=stream).headers[REPLAY] == "true"


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
@pytest.mark.parametrize("provider", ["chat-only", "anthropic"])
def test_a_stream_that_broke_is_not_kept(provider: str, path: str, mine: Mine) -> None:
    wire: Wire = "anthropic" if provider == "anthropic" else "openai"
    mine.on(breaks(wire), speaks(wire))
    broken, whole = (mine.post(path=path, provider=provider, stream=True) for _ in range(2))
    assert "ended its stream before the answer was whole" in broken.text
    assert REPLAY not in whole.headers
    assert "there." in whole.text


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_its_key(stream: bool, mine: Mine) -> None:
    mine.on(hangs("openai") if stream else stall)
    body = {"model": f"openai/{mine.name}", "messages": [{"role": "user", "content": "Hello."}]}
    address = str(mine.lab.client.base_url)
    leave(address, CHAT, body | {"stream": stream}, when=lambda: mine.calls() == 1, idempotency_key=mine.name)
    eventually(lambda: mine.lab.app.in_flight == 0)
    mine.on(speaks("openai"))
    again = mine.post(stream=stream)
    assert (again.status_code, REPLAY in again.headers) == (200, False)


@pytest.mark.parametrize("key", ["", "x" * (MAX_KEY_CHARS + 1)])
def test_a_key_that_is_none_is_refused(key: str, mine: Mine) -> None:
    refused = mine.post(key=key)
    assert refused.status_code == 400
    assert f"has {len(key)} characters" in refused.json()["error"]["message"]
    assert mine.calls() == 0


def test_an_answer_is_kept_for_a_day_and_what_a_dead_replica_left_for_less(mine: Mine, url: str) -> None:
    mine.on(speaks("openai"))
    mine.post()
    with psycopg.connect(url, autocommit=True) as connection:
        left = (
            "SELECT extract(epoch FROM expires_at - clock_timestamp())::int FROM kept_answer WHERE key = %s"
        )
        ((kept_s,),) = connection.execute(left, [mine.name]).fetchall()
        assert 86_000 < kept_s <= 86_400
        connection.execute("UPDATE kept_answer SET status = NULL, body = NULL WHERE key = %s", [mine.name])
        assert mine.post().status_code == 409
        connection.execute(
            "UPDATE kept_answer SET expires_at = now() - interval '1 s' WHERE key = %s", [mine.name]
        )
    assert REPLAY not in mine.post().headers
    assert mine.post().headers[REPLAY] == "true"


def test_another_replica_gives_the_answer_too(mine: Mine, url: str, tmp_path: Path) -> None:
    mine.on(speaks("openai"))
    first = mine.post()
    source = source_of([provider("openai", mine.lab.upstream.url)])
    with lab(mine.lab.upstream, source, tmp_path, answers=PostgresAnswers(url, uuid.uuid4())) as other:
        second = Mine(other, mine.name).post()
    assert (second.content, second.headers[REPLAY]) == (first.content, "true")


def test_the_openai_package_may_send_a_key(mine: Mine) -> None:
    mine.on(speaks("openai"))
    with openai.OpenAI(base_url=str(mine.lab.client.base_url.join("/v1")), api_key=KEY) as client:
        answers = [
            client.chat.completions.create(
                model=f"openai/{mine.name}",
                messages=[{"role": "user", "content": "Hello."}],
                extra_headers={"Idempotency-Key": mine.name},
            )
            for _ in range(2)
        ]
    assert [answer.choices[0].message.content for answer in answers] == [TEXT] * 2
    assert mine.calls() == 1


def test_while_postgres_is_away_a_key_is_refused_and_other_requests_go_on(tmp_path: Path) -> None:
    away = PostgresAnswers("postgresql://nobody@127.0.0.1:1/none", uuid.uuid4())
    with scripted() as upstream:
        upstream.on("m", speaks("openai"))
        with lab(upstream, source_of([provider("openai", upstream.url)]), tmp_path, answers=away) as own:
            refused = Mine(own, "m").post()
            assert own.ask("openai/m").status_code == 200
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
