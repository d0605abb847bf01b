"""The mock upstream and the load generator, which every number of the benchmark rests on."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator

import httpx
import openai
import pytest
from benchmarks.programs import ANSWER_TOKENS, BIN, PROMPT_TOKENS, Endpoint, Load, build_programs, run_load
from benchmarks.systems import CHAT, MOCK_MODEL, Direct


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Direct]:
    build_programs()
    direct = Direct(tmp_path_factory.mktemp("logs"))
    direct.start()
    yield direct
    direct.stop()


@pytest.fixture
def client(upstream: Direct) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=upstream.base_url, api_key="none", max_retries=0) as client:
        yield client


def stats(upstream: Direct) -> dict[str, int]:
    found: dict[str, int] = httpx.get(upstream.base_url.replace("/v1", "/stats")).json()
    return found


def test_the_mock_speaks_what_the_openai_package_reads(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="any", messages=[{"role": "user", "content": "hi"}])
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (PROMPT_TOKENS, ANSWER_TOKENS)
    assert [model.id for model in client.models.list()] == [MOCK_MODEL]


def test_a_stream_has_as_many_chunks_as_tokens_were_asked_for(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="any",
        messages=[{"role": "user", "content": "hi"}],
        max_tokens=3,
        stream=True,
        stream_options={"include_usage": True},
    )
    *chunks, last = stream
    assert [chunk.choices[0].delta.content for chunk in chunks] == ["word "] * 3
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert last.usage is not None
    assert (last.choices, last.usage.completion_tokens) == ([], 3)


def test_every_request_that_the_load_counts_was_answered_by_the_server(upstream: Direct) -> None:
    before = stats(upstream)["requests"]
    outcome = upstream.ask(Load(connections=8, seconds=0.3, warmup_s=0.1))
    assert outcome.errors == outcome.failed == 0
    assert 0 < outcome.requests < outcome.answered == stats(upstream)["requests"] - before
    assert outcome.latency_ms is not None
    assert outcome.latency_ms.p50 <= outcome.latency_ms.p99 <= outcome.latency_ms.max


def test_a_number_of_requests_is_kept_to(upstream: Direct) -> None:
    outcome = upstream.ask(Load(connections=8, requests=100))
    assert (outcome.requests, outcome.answered, outcome.failed) == (100, 100, 0)


def test_many_streams_run_at_once_and_all_their_events_arrive(upstream: Direct) -> None:
    outcome = upstream.ask(Load(connections=200, requests=200, stream=True, max_tokens=5))
    assert (outcome.answered, outcome.broken, outcome.events) == (200, 0, 200 * 6)
    assert outcome.latency_ms is not None
    assert outcome.latency_ms.p50 >= 400  # four pauses of 100 ms


def scripted(answers: list[bytes]) -> str:
    """A server that answers each connection with the next of these bytes, then closes it."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener:
            for answer in answers:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}{CHAT}"


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 500 Oops\r\ncontent-length: 4\r\n\r\noops", "HTTP/1.1 500 Oops oops"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", "the connection ended early: closed"),
        (CHUNKED + b"4\r\nhalf\r\n", "the connection ended early: closed"),
        (b"no HTTP at all\r\n\r\n", "the answer is no HTTP"),
    ],
)
def test_what_is_no_whole_good_answer_is_an_error(answer: bytes, error: str) -> None:
    endpoint = Endpoint(url=scripted([answer]), model="any")
    outcome = run_load(endpoint, Load(connections=1, requests=1))
    assert (outcome.errors, outcome.answered, outcome.failed) == (1, 0, 1)
    assert outcome.first_error == error


@pytest.mark.parametrize("events", [b"data: {}\n\n", b'data: {"error": {}}\n\ndata: [DONE]\n\n'])
def test_a_stream_without_its_end_or_with_an_error_is_broken(events: bytes) -> None:
    whole = CHUNKED + f"{len(events):x}\r\n".encode() + events + b"\r\n0\r\n\r\n"
    outcome = run_load(
        Endpoint(url=scripted([whole]), model="any"), Load(connections=1, requests=1, stream=True)
    )
    assert (outcome.answered, outcome.broken) == (0, 1)


def test_a_server_that_closes_after_each_answer_costs_no_errors() -> None:
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"
    outcome = run_load(Endpoint(url=scripted([answer] * 5), model="any"), Load(connections=1, requests=5))
    assert (outcome.answered, outcome.failed) == (5, 0)


def test_the_key_is_not_shown_with_the_endpoint() -> None:
    endpoint = Endpoint(url="http://127.0.0.1:1/", model="any", headers=("authorization: Bearer secret",))
    assert "secret" not in repr(endpoint)
    assert json.loads(endpoint.body(stream=True, max_tokens=2))["stream"] is True


def test_a_program_is_built_once() -> None:
    build_programs()
    built = (BIN / "load").stat().st_mtime_ns
    build_programs()
    assert (BIN / "load").stat().st_mtime_ns == built
