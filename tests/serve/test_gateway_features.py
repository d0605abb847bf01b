"""What the gateway adds to its targets: answers kept in memory, fallbacks over wires, feedback, numbers."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.serve.gateway_lab import AUTH, CHAT, Lab, lab
from tests.serve.gateway_tools import ADA, KEY, provider, route, source_of
from tests.serve.scripted_upstream import error, says, scripted
from tests.serve.scripted_wires import TEXT, breaks, speaks
from tests.waiting import eventually

from raymill.serve.gateway.cache import MAX_ANSWER_BYTES, AnswerCache, Copy
from raymill.serve.gateway.feedback import FeedbackRequest
from raymill.serve.gateway.money import Price
from raymill.serve.gateway.snapshot import Snapshot, digest_of
from raymill.serve.gateway.wire import Refused

ONCE = {"retries": {"attempts": 1, "base_s": 0.01, "cap_s": 0.1}}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with scripted() as upstream:
        price = Price(2_000_000, 1_000_000, 8_000_000)
        providers = [
            provider("openai", upstream.url),
            provider("anthropic", upstream.url, preset="anthropic"),
            provider("priced", upstream.url, price=price),
        ]
        routes = [
            route(name, providers, [{"provider": "openai", "model": model}], **ONCE, **config)
            for name, model, config in (
                ("cached", "c", {"cache_ttl_s": 60}),
                ("briefly", "c", {"cache_ttl_s": 1.0}),
                ("plain", "c", {}),
                ("failing", "f", {"breaker": {"window": 2, "min_requests": 1, "open_s": 60}}),
            )
        ]
        both: list[dict[str, Any]] = [
            {"provider": "anthropic", "model": "m"},
            {"provider": "openai", "model": "m", "order": 1},
        ]
        never_opens = {"breaker": {"min_requests": 1000}}
        routes.append(route("mixed", providers, both, **ONCE, **never_opens))
        with lab(upstream, source_of(providers, *routes), tmp_path_factory.mktemp("spool")) as made:
            yield made


# Kept answers.


def test_the_same_request_is_answered_from_the_cache(shared: Lab) -> None:
    shared.upstream.on("c", speaks("openai"))
    before = len(shared.upstream.requests("c"))
    first, second = (shared.ask("cached", "the same") for _ in range(2))
    assert (first.headers["x-raymill-cache"], second.headers["x-raymill-cache"]) == ("miss", "hit")
    assert second.content == first.content
    assert second.headers["x-raymill-attempts"] == "0"
    assert len(shared.upstream.requests("c")) == before + 1


def test_another_request_or_route_is_another_answer(shared: Lab) -> None:
    shared.upstream.on("c", speaks("openai"))
    shared.ask("cached", "x")
    others = [
        shared.ask("cached", "y"),
        shared.ask("cached", "x", temperature=0.5),
        shared.ask("cached", "x", user="bob"),
        shared.ask("briefly", "x"),
    ]
    assert [other.headers["x-raymill-cache"] for other in others] == ["miss"] * 4


def test_a_stream_is_kept_apart_from_a_plain_answer(shared: Lab) -> None:
    shared.upstream.on("c", speaks("openai"))
    plain = shared.ask("cached", "streamed")
    first, second = (shared.ask("cached", "streamed", stream=True) for _ in range(2))
    told = [answer.headers["x-raymill-cache"] for answer in (plain, first, second)]
    assert told == ["miss", "miss", "hit"]
    assert second.text == first.text
    assert second.text.endswith("data: [DONE]\n\n")
    assert second.headers["content-type"] == first.headers["content-type"]


def test_an_answer_is_kept_for_its_time_only(shared: Lab) -> None:
    shared.upstream.on("c", speaks("openai"))
    told = [shared.ask("briefly", "brief").headers["x-raymill-cache"] for _ in range(2)]
    time.sleep(1.05)
    told.append(shared.ask("briefly", "brief").headers["x-raymill-cache"])
    assert told == ["miss", "hit", "miss"]


def test_errors_and_broken_streams_are_not_kept(shared: Lab) -> None:
    shared.upstream.on("c", says(400, error("no")), speaks("openai"))
    assert shared.ask("cached", "error").status_code == 400
    assert shared.ask("cached", "error").headers["x-raymill-cache"] == "miss"
    shared.upstream.on("c", breaks("openai"), speaks("openai"))
    assert "[DONE]" not in shared.ask("cached", "broken", stream=True).text
    again = shared.ask("cached", "broken", stream=True)
    assert again.headers["x-raymill-cache"] == "miss"
    assert "[DONE]" in again.text


def test_without_a_time_to_live_nothing_is_kept(shared: Lab) -> None:
    shared.upstream.on("c", speaks("openai"))
    before = len(shared.upstream.requests("c"))
    answers = [shared.ask("plain", "the same") for _ in range(2)]
    assert not any("x-raymill-cache" in answer.headers for answer in answers)
    assert len(shared.upstream.requests("c")) == before + 2


def test_the_cache_forgets_what_was_not_used_for_longest() -> None:
    cache = AnswerCache(max_bytes=300)
    for name in (b"a", b"b", b"c"):
        cache.put(name, b"x" * 100, 60)
    assert cache.get(b"a") is not None
    cache.put(b"d", b"x" * 100, 60)
    assert [cache.get(name) is not None for name in (b"a", b"b", b"c", b"d")] == [True, False, True, True]


def test_a_copy_that_gets_too_long_is_given_up() -> None:
    copy = Copy()
    copy.add(b"x" * MAX_ANSWER_BYTES)
    assert len(copy.data()) == MAX_ANSWER_BYTES
    copy.add(b"x")
    copy.add(b"x")
    assert (copy.whole, copy.data(), copy.size_bytes) == (False, b"", MAX_ANSWER_BYTES + 2)


# Targets of several wires.


def test_what_cannot_be_said_to_one_target_is_said_to_the_next(shared: Lab) -> None:
    shared.upstream.on("m", speaks("openai"))
    answered = shared.ask("mixed", id="mixed", logprobs=True)
    assert answered.status_code == 200, answered.text
    assert answered.headers["x-raymill-target"] == "openai/m"
    assert shared.closed("mixed").record.attempts == 1


def test_what_can_be_said_to_no_target_is_the_clients_error(shared: Lab) -> None:
    refused = shared.ask("anthropic/m", id="unsaid", logprobs=True)
    told = refused.json()["error"]
    assert (refused.status_code, told["code"], told["param"]) == (400, "untranslatable", "logprobs")
    kept = shared.closed("unsaid").record
    assert (kept.outcome, kept.status, kept.attempts) == ("error", 400, 0)


def test_a_target_that_is_down_is_told_of_rather_than_one_that_was_not_asked(shared: Lab) -> None:
    shared.upstream.on("m", says(500, error("boom")))
    refused = shared.ask("mixed", id="both", logprobs=True)
    assert (refused.status_code, refused.json()["error"]["code"]) == (502, "provider_error")


@pytest.mark.parametrize("model", ["cached", "anthropic/m", "openai/m"])
def test_what_is_nested_to_the_edge_of_what_can_be_read_is_no_fault_of_ours(model: str, shared: Lab) -> None:
    told = b'{"model": "%s", "messages": [{"role": "user", "content": %s}]}'
    shared.upstream.on("m", speaks("anthropic" if model == "anthropic/m" else "openai"))
    shared.upstream.on("c", speaks("openai"))
    for depth in (*range(900, 1000, 4), 2000, 100_000):
        body = told % (model.encode(), b"[" * depth + b"]" * depth)
        assert shared.client.post(CHAT, content=body).status_code in {200, 400}, depth


# Feedback.


def test_without_a_registry_there_is_no_feedback(shared: Lab) -> None:
    refused = shared.client.post("/v1/feedback", json={"request_id": "r", "score": 1})
    assert (refused.status_code, refused.json()["error"]["code"]) == (501, "feedback_unavailable")


def test_feedback_goes_to_the_registry_as_the_account_that_sent_it(tmp_path: Path) -> None:
    taken: list[tuple[uuid.UUID, FeedbackRequest]] = []

    def take(account_id: uuid.UUID, request: FeedbackRequest) -> bytes:
        if request.request_id == "unknown":
            raise Refused(404, "request_not_found", "no such request", param="request_id")
        taken.append((account_id, request))
        return b'{"object":"feedback"}'

    with (
        scripted() as upstream,
        lab(upstream, source_of([]), tmp_path, take_feedback=take) as own,
    ):
        kept = own.client.post("/v1/feedback", json={"request_id": "r", "score": -0.5, "comment": "wrong"})
        unknown = own.client.post("/v1/feedback", json={"request_id": "unknown", "score": 1})
        misspelt = own.client.post("/v1/feedback", json={"request_id": "r", "scor": 1})
        too_good = own.client.post("/v1/feedback", json={"request_id": "r", "score": 2})
        stranger = own.client.post(
            "/v1/feedback", json={"request_id": "r"}, headers={"Authorization": "Bearer rm-x"}
        )
    assert (kept.status_code, kept.content) == (200, b'{"object":"feedback"}')
    assert taken == [(ADA.account_id, FeedbackRequest("r", -0.5, None, "wrong"))]
    assert [each.status_code for each in (unknown, misspelt, too_good, stranger)] == [404, 400, 400, 401]
    assert "did you mean score?" in misspelt.json()["error"]["message"]


# Keys that end, and numbers.


def test_a_key_works_until_it_expires(tmp_path: Path) -> None:
    with scripted() as upstream:
        upstream.on("m", speaks("openai"))
        providers = [provider("openai", upstream.url)]
        source = source_of(providers)
        with lab(upstream, source, tmp_path) as own:
            assert own.ask("openai/m").status_code == 200
            ending = replace(ADA, expires_at=time.time() + 0.5)
            source.replace(Snapshot.of({digest_of(KEY): ending}, providers=providers))
            eventually(lambda: own.ask("openai/m").status_code == 401)
            assert ending.expires_at is not None
            assert time.time() >= ending.expires_at
            assert "has expired" in own.ask("openai/m").json()["error"]["message"]


def test_metrics_tell_what_happened(shared: Lab) -> None:
    shared.upstream.on("counted", speaks("openai"))
    shared.upstream.on("f", says(500, error("boom")))
    shared.ask("priced/counted")
    shared.ask("priced/counted", stream=True)
    shared.ask("failing")
    shared.ask("failing")
    httpx.post(shared.client.base_url.join(CHAT), json={}, headers={"Authorization": "Bearer rm-x"})
    samples = _samples(shared.metrics())
    who = 'model="counted"'
    assert samples("request_seconds_count", who, 'route="priced/counted"', 'provider="priced"') == 2
    assert samples("requests_total", who, 'operation="chat"', 'outcome="ok"', 'status="200"') == 2
    assert samples("first_token_seconds_count", who) == 1
    assert samples("tokens_total", who, 'kind="prompt"') == 20
    assert samples("tokens_total", who, 'kind="completion"') == 10
    assert samples("spend_micro_usd_total", who) == 120
    assert samples("upstream_attempts_total", who) == 2
    assert samples("requests_total", 'route="failing"', 'outcome="error"', 'status="502"') == 1
    assert samples("refused_total", 'code="invalid_api_key"', 'status="401"') >= 1
    assert samples("cache_total", 'route="cached"', 'result="hit"') >= 1
    assert samples("breaker", 'target="openai/f"') == 2
    assert samples("ready") == 1


def _samples(text: str) -> Any:
    """The sum of the samples of a metric that carry these labels."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]

    def of(name: str, *labels: str) -> float:
        found = [
            float(line.rpartition(" ")[2])
            for line in lines
            if line.startswith(f"raymill_gateway_{name}{{") and all(label in line for label in labels)
        ]
        assert found, f"no sample of {name} {labels}"
        return sum(found)

    return of


def test_a_request_needs_its_key_whatever_was_kept_for_others(shared: Lab) -> None:
    shared.upstream.on("c", speaks("openai"))
    shared.ask("cached", "secret")
    body = {"model": "cached", "messages": [{"role": "user", "content": "secret"}]}
    stranger = httpx.post(
        shared.client.base_url.join(CHAT), json=body, headers=AUTH | {"Authorization": "Bearer rm-x"}
    )
    assert stranger.status_code == 401
    assert TEXT not in stranger.text
