"""`POST /v1/compare`: one prompt to several models at once, tagged and interleaved in one stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.serve.gateway_lab import Lab, events, lab
from tests.serve.gateway_tools import provider, source_of
from tests.serve.scripted_upstream import DONE, ROLE, chunk, error, good, says, scripted, streams
from tests.serve.scripted_wires import breaks, hangs
from tests.waiting import eventually

from raymill.serve.gateway.catalog import Preset
from raymill.serve.gateway.money import Price

USER: list[Any] = [{"role": "user", "content": "Who are you?"}]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with scripted() as upstream:
        providers = [
            provider("openai", upstream.url),
            provider("anthropic", upstream.url, preset="anthropic"),
            provider("priced", upstream.url, price=Price(2_000_000, 1_000_000, 8_000_000)),
        ]
        pirate = Preset(name="pirate", model="openai/persona", system="Talk like a pirate.", params={})
        with lab(upstream, source_of(providers, presets=(pirate,)), tmp_path_factory.mktemp("spool")) as made:
            yield made


def compare(shared: Lab, *models: str, **more: Any) -> list[tuple[str, Any]]:
    response = shared.client.post("/v1/compare", json={"models": models, "messages": USER, **more})
    assert response.status_code == 200, response.text
    return events(response.text)


def test_two_models_answer_at_once_in_one_stream(shared: Lab) -> None:
    slowly = streams(ROLE, chunk("one "), chunk("two"), chunk(None, "stop"), DONE, delay_s=0.1)
    shared.upstream.on("left", slowly)
    shared.upstream.on("right", slowly)
    told = compare(shared, "openai/left", "openai/right")
    names = [name for name, _ in told]
    assert (names.count("done"), names.count("error"), names[-1]) == (2, 0, "end")
    for index, model in enumerate(("openai/left", "openai/right")):
        own = [data for name, data in told if data.get("index") == index]
        assert {data["model"] for data in own} == {model}
        texts = [data["chunk"]["choices"][0]["delta"].get("content") or "" for data in own[:-1]]
        assert "".join(texts) == "one two"
        assert own[-1]["target"] == model
        assert own[-1]["latency_ms"] >= 300
    first_end = names.index("done")
    assert {data["index"] for _, data in told[:first_end]} == {0, 1}, "one waited for the other"


def test_of_models_that_fail_the_others_are_not_held_up(shared: Lab) -> None:
    shared.upstream.on("good", good("fine"))
    shared.upstream.on("bad", says(500, error("boom")))
    shared.upstream.on("breaking", breaks("openai"))
    shared.upstream.on("persona", good("arr"))
    told = compare(shared, "openai/good", "nope", "openai/bad", "openai/breaking", "pirate")
    over = {data["index"]: (name, data) for name, data in told if name in {"done", "error"}}
    assert [over[index][0] for index in range(5)] == ["done", "error", "error", "error", "done"]
    codes = [over[index][1]["error"]["code"] for index in (1, 2, 3)]
    assert codes == ["model_not_found", "provider_error", "bad_stream"]
    assert told[-1] == ("end", {})


def test_what_one_wire_cannot_say_is_that_models_error(shared: Lab) -> None:
    shared.upstream.on("odd", good("fine"))
    told = compare(shared, "openai/odd", "anthropic/odd", logprobs=True)
    over = {data["index"]: name for name, data in told if name in {"done", "error"}}
    assert over == {0: "done", 1: "error"}
    assert told[-1] == ("end", {})


def test_each_model_of_a_comparison_has_a_record_of_its_own(shared: Lab) -> None:
    shared.upstream.on("own", good("fine"))
    body = {"models": ["openai/own", "priced/own"], "messages": USER}
    shared.client.post("/v1/compare", json=body, headers={"x-request-id": "cmp"}).raise_for_status()
    records = [shared.closed(f"cmp-{index}").record for index in range(2)]
    assert [record.provider for record in records] == ["openai", "priced"]
    assert [record.cost_micro_usd for record in records] == [0, 60]
    assert records[0].id != records[1].id


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": USER}, "models"),
        ({"models": "openai/a", "messages": USER}, "models"),
        ({"models": ["openai/a"], "messages": USER}, "models"),
        ({"models": ["openai/a", "openai/a"], "messages": USER}, "models"),
        ({"models": ["openai/a", 3], "messages": USER}, "models"),
        ({"models": [f"openai/{n}" for n in range(9)], "messages": USER}, "models"),
        ({"models": ["openai/a", "openai/b"]}, "messages"),
        ({"models": ["openai/a", "openai/b"], "messages": USER, "stream": False}, "stream"),
    ],
)
def test_a_comparison_that_makes_no_sense_is_refused(body: dict[str, Any], param: str, shared: Lab) -> None:
    refused = shared.client.post("/v1/compare", json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


def test_leaving_a_comparison_cancels_all_of_it(shared: Lab) -> None:
    shared.upstream.on("forever", hangs("openai"))
    shared.upstream.on("forever-too", hangs("openai"))
    body = {"models": ["openai/forever", "openai/forever-too"], "messages": USER}
    with shared.client.stream("POST", "/v1/compare", json=body, headers={"x-request-id": "gone"}) as response:
        lines = response.iter_lines()
        assert next(lines) == "event: delta"
        eventually(lambda: shared.upstream.open == 2)
    eventually(lambda: shared.upstream.open == 0)
    assert [shared.closed(f"gone-{index}").record.outcome for index in range(2)] == ["cancelled"] * 2
    eventually(lambda: shared.app.in_flight == 0)
