"""What a request leaves behind: one usage record of every outcome, and traces where a route keeps them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from tests.serve.gateway_lab import CHAT, Lab, lab
from tests.serve.gateway_tools import ADA, leave, provider, route, source_of
from tests.serve.scripted_upstream import Seen, Writer, answer, error, says, scripted, stall
from tests.serve.scripted_wires import breaks, calls, embeds, hangs, speaks

from raymill.registry.database import Database, dsn_of
from raymill.serve.gateway.ingest import Ingester
from raymill.serve.gateway.money import Price
from raymill.serve.gateway.spool import Opened, UsageRecord

PRICE = Price(
    2_000_000, 1_000_000, 8_000_000
)  # 10 tokens of a prompt and 5 of an answer cost 60 micro-dollars
CLOSED = {"breaker": {"min_requests": 1000}}  # more than it looks back on: it never opens
ONCE = {"retries": {"attempts": 1, "base_s": 0.01, "cap_s": 0.1}, **CLOSED}
TWICE = {"retries": {"attempts": 2, "base_s": 0.001, "cap_s": 0.01}, **CLOSED}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with scripted() as upstream:
        providers = [
            provider("up", upstream.url, price=PRICE),
            provider("other", upstream.url),
        ]
        first = {"provider": "up", "model": "m"}
        routes = [
            route("once", providers, [first], **ONCE),
            route("twice", providers, [first, {"provider": "other", "model": "n", "order": 1}], **TWICE),
            route("cached", providers, [first], cache_ttl_s=60, **CLOSED),
            route("traced", providers, [first], keep_traces=True, **CLOSED),
        ]
        with lab(upstream, source_of(providers, *routes), tmp_path_factory.mktemp("spool")) as made:
            yield made


def record(shared: Lab, request_id: str) -> UsageRecord:
    return shared.closed(request_id).record


# Outcomes.


def test_a_good_answer_is_recorded_with_its_tokens_and_cost(shared: Lab) -> None:
    shared.upstream.on("m", speaks("openai"))
    shared.ask("once", id="ok")
    kept = record(shared, "ok")
    assert (kept.outcome, kept.status, kept.operation, kept.stream) == ("ok", 200, "chat", False)
    assert (kept.route, kept.provider, kept.model, kept.attempts) == ("once", "up", "m", 1)
    assert (kept.prompt_tokens, kept.cached_tokens, kept.completion_tokens) == (10, 0, 5)
    assert (kept.estimated, kept.priced, kept.cost_micro_usd) == (False, True, 60)
    assert (kept.account_id, kept.key_id) == (ADA.account_id, ADA.key_id)
    assert kept.first_token_ms is None
    assert 0 < kept.overhead_ms < kept.latency_ms


def test_cached_tokens_of_a_prompt_cost_less(shared: Lab) -> None:
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 4},
    }
    shared.upstream.on("m", says(200, answer(usage=usage)))
    shared.ask("once", id="cached-tokens")
    kept = record(shared, "cached-tokens")
    assert (kept.cached_tokens, kept.cost_micro_usd) == (4, 6 * 2 + 4 * 1 + 5 * 8)


def test_a_stream_is_recorded_with_the_time_of_its_first_token(shared: Lab) -> None:
    shared.upstream.on("m", speaks("openai"))
    shared.ask("once", id="streamed", stream=True)
    kept = record(shared, "streamed")
    assert (kept.outcome, kept.stream, kept.estimated, kept.cost_micro_usd) == ("ok", True, False, 60)
    assert kept.first_token_ms is not None
    assert 0 < kept.first_token_ms <= kept.latency_ms


def test_what_an_upstream_does_not_count_is_estimated(shared: Lab) -> None:
    shared.upstream.on("m", says(200, answer("word " * 40, usage=None)))
    shared.ask("once", "word " * 100, id="uncounted")
    kept = record(shared, "uncounted")
    assert (kept.outcome, kept.estimated, kept.priced) == ("ok", True, True)
    assert kept.prompt_tokens > 100
    assert kept.completion_tokens > 40
    assert kept.cost_micro_usd == kept.prompt_tokens * 2 + kept.completion_tokens * 8


def test_a_target_without_a_price_is_recorded_as_unpriced(shared: Lab) -> None:
    shared.upstream.on("m", says(500, error("boom")))
    shared.upstream.on("n", speaks("openai"))
    shared.ask("twice", id="fallback")
    kept = record(shared, "fallback")
    assert (kept.provider, kept.model, kept.attempts, kept.outcome) == ("other", "n", 3, "ok")
    assert (kept.priced, kept.cost_micro_usd, kept.prompt_tokens) == (False, 0, 10)


@pytest.mark.parametrize(("status", "seen"), [(400, 400), (404, 404), (500, 502)])
def test_an_error_of_the_upstream_costs_nothing(status: int, seen: int, shared: Lab) -> None:
    shared.upstream.on("m", says(status, error("no")))
    shared.ask("once", id=f"error-{status}")
    kept = record(shared, f"error-{status}")
    assert (kept.outcome, kept.status, kept.provider) == ("error", seen, "up")
    assert (kept.prompt_tokens, kept.completion_tokens, kept.cost_micro_usd) == (0, 0, 0)
    assert (kept.estimated, kept.priced) == (False, True)


def test_a_client_that_goes_away_is_recorded_as_cancelled(shared: Lab) -> None:
    shared.upstream.on("m", stall)
    body = {"model": "once", "messages": [{"role": "user", "content": "x"}]}
    address, asked = str(shared.client.base_url), len(shared.upstream.seen)
    leave(address, CHAT, body, when=lambda: len(shared.upstream.seen) > asked, x_request_id="gone")
    kept = record(shared, "gone")
    assert (kept.outcome, kept.status, kept.cost_micro_usd) == ("cancelled", 499, 0)


def test_what_a_left_stream_had_said_is_estimated_and_paid(shared: Lab) -> None:
    shared.upstream.on("m", hangs("openai"))
    body = {"model": "once", "messages": [{"role": "user", "content": "x"}], "stream": True}
    with shared.client.stream("POST", CHAT, json=body, headers={"x-request-id": "left"}) as response:
        next(response.iter_lines())
    kept = record(shared, "left")
    assert (kept.outcome, kept.status, kept.estimated) == ("cancelled", 499, True)
    assert kept.completion_tokens == 2  # "Hello " is 6 bytes
    assert kept.cost_micro_usd == kept.prompt_tokens * 2 + 2 * 8
    assert kept.first_token_ms is not None


def test_a_broken_stream_is_no_success(shared: Lab) -> None:
    shared.upstream.on("m", breaks("openai"))
    shared.ask("once", id="broken", stream=True)
    kept = record(shared, "broken")
    assert (kept.outcome, kept.status, kept.estimated, kept.completion_tokens) == ("broken", 200, True, 2)


def test_an_answer_from_the_cache_costs_nothing(shared: Lab) -> None:
    shared.upstream.on("m", speaks("openai"))
    shared.ask("cached", id="miss")
    shared.ask("cached", id="hit")
    assert record(shared, "miss").outcome == "ok"
    kept = record(shared, "hit")
    assert (kept.outcome, kept.status, kept.attempts, kept.provider) == ("cached", 200, 0, "")
    assert (kept.prompt_tokens, kept.cost_micro_usd, kept.priced) == (0, 0, True)


def test_embeddings_are_recorded(shared: Lab) -> None:
    shared.upstream.on("m", embeds("openai", [0.5], ""))
    shared.client.post(
        "/v1/embeddings", json={"model": "once", "input": "Hello."}, headers={"x-request-id": "embedded"}
    )
    kept = record(shared, "embedded")
    assert (kept.operation, kept.prompt_tokens, kept.completion_tokens) == ("embeddings", 10, 0)
    assert kept.cost_micro_usd == 20


# What is not let in, and what is under way.


def test_what_was_not_let_in_leaves_no_record(shared: Lab) -> None:
    shared.ask("nobody", id="unknown")
    shared.client.post(CHAT, content=b"{", headers={"x-request-id": "malformed"})
    shared.client.post(CHAT, json={}, headers={"x-request-id": "stranger", "Authorization": "Bearer rm-x"})
    shared.upstream.on("m", speaks("openai"))
    shared.ask("once", id="after")
    record(shared, "after")
    assert [shared.lines(name) for name in ("unknown", "malformed", "stranger")] == [[], [], []]


def test_a_request_is_on_disk_before_its_answer_comes(shared: Lab) -> None:
    seen: list[Any] = []

    async def act(_: Seen, writer: Writer) -> None:
        seen.extend(shared.lines("under-way"))
        await says(200, answer())(_, writer)

    shared.upstream.on("m", act)
    shared.ask("once", id="under-way")
    assert [type(line) for line in seen] == [Opened]
    assert seen[0].record.outcome == "lost"
    assert record(shared, "under-way").id == seen[0].record.id


# Traces.

SECRET = "I am ada@example.org, call +49 170 1234567."
MASKED = "I am <email>, call <phone>."


def test_prompt_and_answer_are_kept_with_personal_data_masked(shared: Lab) -> None:
    shared.upstream.on("m", speaks("openai", "Dear ada@example.org"))
    shared.ask("traced", SECRET, id="traced", temperature=0.5)
    trace = shared.closed("traced").trace
    assert trace is not None
    assert trace.prompt == {
        "model": "traced",
        "messages": [{"role": "user", "content": MASKED}],
        "temperature": 0.5,
    }
    assert trace.answer["body"]["choices"][0]["message"]["content"] == "Dear <email>"
    assert "ada@example.org" not in _spooled(shared)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "x"}]}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 9}),
    ],
)
def test_of_a_stream_its_text_is_kept(path: str, body: dict[str, Any], shared: Lab) -> None:
    shared.upstream.on("m", speaks("openai", "Dear ada@example.org, hello."))
    id_ = f"traced{path}"
    shared.client.post(
        path, json={"model": "traced", "stream": True, **body}, headers={"x-request-id": id_}
    ).raise_for_status()
    trace = shared.closed(id_).trace
    assert trace is not None
    assert trace.answer["text"] == "Dear <email>, hello."


def test_a_broken_stream_leaves_what_it_said(shared: Lab) -> None:
    shared.upstream.on("m", breaks("openai"))
    shared.ask("traced", id="broken-trace", stream=True)
    trace = shared.closed("broken-trace").trace
    assert trace is not None
    assert trace.answer["text"] == "Hello "


def test_tool_calls_are_kept(shared: Lab) -> None:
    shared.upstream.on("m", calls("openai", "mail", {"to": "ada@example.org"}))
    shared.ask("traced", id="called")
    trace = shared.closed("called").trace
    assert trace is not None
    call = trace.answer["body"]["choices"][0]["message"]["tool_calls"][0]
    assert call["function"] == {"name": "mail", "arguments": '{"to": "<email>"}'}


def test_without_being_asked_for_nothing_is_kept(shared: Lab) -> None:
    shared.upstream.on("m", speaks("openai", "a word that stands nowhere else"))
    shared.ask("once", "neither does this one", id="untraced")
    assert shared.closed("untraced").trace is None
    assert "nowhere else" not in _spooled(shared)
    assert "neither does" not in _spooled(shared)


def _spooled(shared: Lab) -> str:
    return "".join(path.read_text() for path in shared.stores.spool.folder.glob("*.jsonl"))


def test_what_was_left_is_taken_by_postgres_as_it_is(database: Database, shared: Lab) -> None:
    shared.upstream.on("m", speaks("openai"), says(400, error("no")))
    shared.ask("traced", SECRET, id="last-ok")
    shared.ask("once", id="last-error")
    shared.closed("last-error")
    url = dsn_of(database.url)
    ingester = Ingester(shared.stores.spool.folder.parent, lambda: url)
    ingester.step()
    ingester.close()
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT usage.request_id, outcome, cost_micro_usd, prompt->'messages'->0->>'content' FROM usage "
            "LEFT JOIN trace ON usage_id = usage.id WHERE usage.request_id LIKE 'last-%' ORDER BY usage.id"
        ).fetchall()
    assert rows == [("last-ok", "ok", 60, MASKED), ("last-error", "error", 0, None)]
