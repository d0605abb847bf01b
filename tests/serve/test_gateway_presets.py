"""Presets: a persona's system prompt and parameters, put into requests of every wire."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.serve.gateway_lab import CHAT, Lab, lab
from tests.serve.gateway_tools import provider, source_of
from tests.serve.scripted_upstream import Seen, says, scripted
from tests.serve.scripted_wires import speaks

from raymill.serve.gateway.catalog import Preset

PIRATE = "Talk like a pirate."
PARAMS = {"temperature": 0.25, "max_tokens": 77}
USER: list[Any] = [{"role": "user", "content": "Who are you?"}]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with scripted() as upstream:
        known = {"openai": "vllm", "anthropic": "anthropic", "gemini": "gemini"}
        providers = [provider(name, upstream.url, preset=preset) for name, preset in known.items()]
        personas = [
            Preset(name=f"pirate-{name}", model=f"{name}/persona", system=PIRATE, params=PARAMS)
            for name in known
        ]
        source = source_of(providers, presets=tuple(personas))
        with lab(upstream, source, tmp_path_factory.mktemp("spool")) as made:
            yield made


def sent(shared: Lab, path: str, body: dict[str, Any]) -> Seen:
    """What goes upstream for a request that is answered."""
    shared.client.post(path, json=body).raise_for_status()
    return shared.upstream.requests("persona")[-1]


def test_a_preset_gives_chat_its_model_system_prompt_and_parameters(shared: Lab) -> None:
    shared.upstream.on("persona", speaks("openai"))
    seen = sent(shared, CHAT, {"model": "pirate-openai", "messages": USER})
    system = {"role": "system", "content": PIRATE}
    assert seen.body == {"model": "persona", "messages": [system, *USER], **PARAMS}


def test_what_the_client_says_itself_wins_over_the_preset(shared: Lab) -> None:
    shared.upstream.on("persona", speaks("openai"))
    body = {"model": "pirate-openai", "messages": USER, "temperature": 1, "max_completion_tokens": 5}
    seen = sent(shared, CHAT, body)
    assert (seen.body["temperature"], seen.body["max_tokens"]) == (1, 5)
    assert "max_completion_tokens" not in seen.body


@pytest.mark.parametrize(
    ("own", "told"),
    [
        (None, PIRATE),
        ("Be brief.", f"{PIRATE}\n\nBe brief."),
        (
            [{"type": "text", "text": "Be brief."}],
            [{"type": "text", "text": PIRATE}, {"type": "text", "text": "Be brief."}],
        ),
    ],
)
def test_a_preset_works_on_the_anthropic_wire(own: Any, told: Any, shared: Lab) -> None:
    shared.upstream.on("persona", speaks("anthropic"))
    body = {"model": "pirate-anthropic", "messages": USER, "max_tokens": 9}
    seen = sent(shared, "/v1/messages", body | ({"system": own} if own else {}))
    assert seen.body == {
        "model": "persona",
        "messages": USER,
        "system": told,
        "max_tokens": 9,
        "temperature": 0.25,
    }


def test_a_preset_works_in_responses_and_text_completions(shared: Lab) -> None:
    shared.upstream.on("persona", says(200, b'{"usage": {"input_tokens": 1, "output_tokens": 1}}'))
    responses = sent(shared, "/v1/responses", {"model": "pirate-openai", "input": "Who are you?"})
    own = sent(shared, "/v1/responses", {"model": "pirate-openai", "input": "x", "instructions": "Be brief."})
    text = sent(shared, "/v1/completions", {"model": "pirate-openai", "prompt": "I am"})
    several = sent(shared, "/v1/completions", {"model": "pirate-openai", "prompt": ["I am", "You are"]})
    assert responses.body == {
        "model": "persona",
        "input": "Who are you?",
        "instructions": PIRATE,
        "temperature": 0.25,
        "max_output_tokens": 77,
    }
    assert own.body["instructions"] == f"{PIRATE}\n\nBe brief."
    assert text.body == {"model": "persona", "prompt": f"{PIRATE}\n\nI am", **PARAMS}
    assert several.body["prompt"] == [f"{PIRATE}\n\nI am", f"{PIRATE}\n\nYou are"]


def test_a_presets_prompt_that_cannot_be_said_is_not_left_out_silently(shared: Lab) -> None:
    refused = shared.client.post("/v1/completions", json={"model": "pirate-openai", "prompt": [1, 2, 3]})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "prompt"


def test_a_preset_is_translated_for_a_target_of_another_wire(shared: Lab) -> None:
    shared.upstream.on("persona", speaks("gemini"))
    seen = sent(shared, CHAT, {"model": "pirate-gemini", "messages": USER})
    assert seen.body["systemInstruction"] == {"parts": [{"text": PIRATE}]}
    assert seen.body["generationConfig"] == {"temperature": 0.25, "maxOutputTokens": 77}


def test_presets_are_listed_and_their_tokens_counted(shared: Lab) -> None:
    listed = {model["id"]: model for model in shared.client.get("/v1/models").json()["data"]}
    assert listed["pirate-openai"]["preset_of"] == "openai/persona"
    counts = [
        shared.client.post("/v1/messages/count_tokens", json={"model": model, "messages": USER}).json()
        for model in ("openai/persona", "pirate-openai")
    ]
    assert counts[1]["input_tokens"] > counts[0]["input_tokens"]
