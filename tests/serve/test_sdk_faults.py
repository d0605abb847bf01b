"""Clients that go away, streams that break, errors: what the openai and the anthropic package make of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
from tests.serve.gateway_tools import KEY
from tests.serve.scripted_upstream import error, says, stall
from tests.serve.scripted_wires import TEXT, WIRES, House, Wire, breaks, hangs, refuses, shared, speaks
from tests.waiting import eventually

__all__ = ["shared"]  # fixture

ASK: Any = [{"role": "user", "content": "What is the weather in Ulm?"}]
every_wire = pytest.mark.parametrize("wire", WIRES)


@pytest.fixture(scope="module")
def client(shared: House) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{shared.url}/v1", api_key=KEY, max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def anthropic_client(shared: House) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=shared.url, api_key=KEY, max_retries=0, timeout=60) as client:
        yield client


# The openai package.


def test_a_client_that_runs_out_of_time_cancels_the_call_upstream(
    client: openai.OpenAI, shared: House
) -> None:
    shared.upstream.on("slow", stall)
    shared.upstream.aborted.clear()
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=1.0).chat.completions.create(model="openai/slow", messages=ASK)
    assert shared.upstream.aborted.wait(60)
    eventually(lambda: shared.app.in_flight == 0)


@every_wire
def test_leaving_a_stream_cancels_it_upstream(wire: Wire, client: openai.OpenAI, shared: House) -> None:
    shared.upstream.on("left", hangs(wire))
    shared.upstream.aborted.clear()
    stream = client.chat.completions.create(model=f"{wire}/left", messages=ASK, stream=True)
    said = next(chunk for chunk in stream if chunk.choices and chunk.choices[0].delta.content)
    assert said.choices[0].delta.content == "Hello "
    assert not shared.upstream.aborted.is_set()
    stream.close()
    assert shared.upstream.aborted.wait(60)
    eventually(lambda: shared.app.in_flight == 0)


@every_wire
def test_a_stream_that_breaks_raises(wire: Wire, client: openai.OpenAI, shared: House) -> None:
    shared.upstream.on("broken", breaks(wire))
    said: list[str] = []
    stream = client.chat.completions.create(model=f"{wire}/broken", messages=ASK, stream=True)
    with pytest.raises(openai.APIError, match="ended its stream before the answer was whole"):
        said.extend(chunk.choices[0].delta.content or "" for chunk in stream)
    assert "".join(said) == "Hello "


@pytest.mark.parametrize("provider", ["chat-only", "anthropic"])
def test_a_stream_of_responses_that_breaks_is_no_success(
    provider: str, client: openai.OpenAI, shared: House
) -> None:
    shared.upstream.on("broken-resp", breaks("openai" if provider == "chat-only" else "anthropic"))
    kinds: list[str] = []
    with pytest.raises(openai.APIError, match="ended its stream before the answer was whole"):
        kinds += [
            event.type
            for event in client.responses.create(model=f"{provider}/broken-resp", input="x", stream=True)
        ]
    assert "response.completed" not in kinds


@every_wire
@pytest.mark.parametrize(
    ("status", "raised", "code"),
    [
        (400, openai.BadRequestError, "refused_by_provider"),
        (404, openai.NotFoundError, "provider_model_not_found"),
        (422, openai.UnprocessableEntityError, "refused_by_provider"),
        (429, openai.RateLimitError, "provider_rate_limited"),
        (500, openai.InternalServerError, "provider_error"),
    ],
)
def test_an_error_becomes_the_class_that_clients_expect(
    wire: Wire,
    status: int,
    raised: type[openai.APIStatusError],
    code: str,
    client: openai.OpenAI,
    shared: House,
) -> None:
    # An hour is more than the gateway waits for: it does not try again.
    shared.upstream.on(f"e{status}", refuses(wire, status, "the provider's own words", retry_after="3600"))
    with pytest.raises(raised, match="the provider's own words") as refused:
        client.chat.completions.create(model=f"{wire}/e{status}", messages=ASK)
    assert refused.value.code == code
    assert refused.value.request_id
    assert ("retry-after" in refused.value.response.headers) == (status == 429)


@every_wire
def test_a_key_of_ours_that_a_provider_refuses_is_not_the_clients_fault(
    wire: Wire, client: openai.OpenAI, shared: House
) -> None:
    shared.upstream.on("e401", refuses(wire, 401, f"no such key: sk-{wire}-0"))
    with pytest.raises(openai.InternalServerError, match="refuses our key") as refused:
        client.chat.completions.create(model=f"{wire}/e401", messages=ASK)
    assert (refused.value.status_code, refused.value.code) == (502, "provider_key_refused")
    assert "sk-" not in refused.value.response.text


def test_a_wrong_key_is_an_authentication_error(shared: House) -> None:
    with (
        openai.OpenAI(base_url=f"{shared.url}/v1", api_key="rm-wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as refused,
    ):
        client.chat.completions.create(model="openai/chat", messages=ASK)
    assert refused.value.code == "invalid_api_key"


def test_the_packages_own_retries_meet_a_provider_that_is_well_again(shared: House) -> None:
    # An hour is more than the gateway waits for; the package does not wait so long either.
    shared.upstream.on("well", says(503, error("busy"), retry_after="3600"), speaks("openai"))
    with openai.OpenAI(base_url=f"{shared.url}/v1", api_key=KEY, max_retries=1, timeout=60) as client:
        chat = client.chat.completions.create(model="openai/well", messages=ASK)
    assert chat.choices[0].message.content == TEXT
    assert len(shared.upstream.requests("well")) == 2


# The anthropic package.


def test_with_anthropic_a_client_that_runs_out_of_time_cancels_the_call_upstream(
    anthropic_client: anthropic.Anthropic, shared: House
) -> None:
    shared.upstream.on("slow", stall)
    shared.upstream.aborted.clear()
    with pytest.raises(anthropic.APITimeoutError):
        anthropic_client.with_options(timeout=1.0).messages.create(
            model="anthropic/slow", max_tokens=9, messages=ASK
        )
    assert shared.upstream.aborted.wait(60)
    eventually(lambda: shared.app.in_flight == 0)


@every_wire
def test_with_anthropic_leaving_a_stream_cancels_it_upstream(
    wire: Wire, anthropic_client: anthropic.Anthropic, shared: House
) -> None:
    shared.upstream.on("left", hangs(wire))
    shared.upstream.aborted.clear()
    with anthropic_client.messages.stream(model=f"{wire}/left", max_tokens=9, messages=ASK) as stream:
        assert next(iter(stream.text_stream)) == "Hello "
        assert not shared.upstream.aborted.is_set()
    assert shared.upstream.aborted.wait(60)
    eventually(lambda: shared.app.in_flight == 0)


@every_wire
def test_with_anthropic_a_stream_that_breaks_raises(
    wire: Wire, anthropic_client: anthropic.Anthropic, shared: House
) -> None:
    shared.upstream.on("broken", breaks(wire))
    said: list[str] = []
    with (
        anthropic_client.messages.stream(model=f"{wire}/broken", max_tokens=9, messages=ASK) as stream,
        pytest.raises(anthropic.APIStatusError, match="ended its stream before the answer was whole"),
    ):
        said.extend(stream.text_stream)
    assert "".join(said) == "Hello "


@every_wire
@pytest.mark.parametrize(
    ("status", "raised", "kind"),
    [
        (400, anthropic.BadRequestError, "invalid_request_error"),
        (404, anthropic.NotFoundError, "not_found_error"),
        (429, anthropic.RateLimitError, "rate_limit_error"),
        (500, anthropic.InternalServerError, "api_error"),
        (529, anthropic.InternalServerError, "api_error"),
    ],
)
def test_with_anthropic_an_error_becomes_the_class_that_clients_expect(
    wire: Wire,
    status: int,
    raised: type[anthropic.APIStatusError],
    kind: str,
    anthropic_client: anthropic.Anthropic,
    shared: House,
) -> None:
    # An hour is more than the gateway waits for: it does not try again.
    shared.upstream.on(f"e{status}", refuses(wire, status, "the provider's own words", retry_after="3600"))
    with pytest.raises(raised, match="the provider's own words") as refused:
        anthropic_client.messages.create(model=f"{wire}/e{status}", max_tokens=9, messages=ASK)
    assert refused.value.type == kind
    assert refused.value.request_id


def test_with_anthropic_what_the_gateway_itself_refuses_has_the_same_shape(
    anthropic_client: anthropic.Anthropic, shared: House
) -> None:
    with pytest.raises(anthropic.NotFoundError, match="'gpt-9' is not served") as unknown:
        anthropic_client.messages.create(model="gpt-9", max_tokens=9, messages=ASK)
    assert unknown.value.type == "not_found_error"
    with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
        anthropic_client.messages.create(model="openai/chat", max_tokens=0, messages=ASK)
    with (
        anthropic.Anthropic(base_url=shared.url, api_key="rm-wrong", max_retries=0) as stranger,
        pytest.raises(anthropic.AuthenticationError) as wrong,
    ):
        stranger.messages.create(model="openai/chat", max_tokens=9, messages=ASK)
    assert wrong.value.type == "authentication_error"
