"""The openai package, unchanged, beyond chat: text completions, embeddings, models, Responses."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from tests.serve.gateway_tools import KEY
from tests.serve.scripted_upstream import DONE, Seen, Writer, says, streams
from tests.serve.scripted_wires import TEXT, House, Wire, calls, embeds, seen, shared, speaks

__all__ = ["shared"]  # fixture

ASK: Any = [{"role": "user", "content": "Hello?"}]
VECTOR = [0.5, -0.25]
VECTOR_BASE64 = base64.b64encode(struct.pack("<2f", *VECTOR)).decode()
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


@pytest.fixture(scope="module")
def client(shared: House) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{shared.url}/v1", api_key=KEY, max_retries=0, timeout=20) as client:
        yield client


# Text completions, embeddings, models.


def test_text_is_completed_and_streamed(client: openai.OpenAI, shared: House) -> None:
    async def act(seen: Seen, writer: Writer) -> None:
        assert seen.path == "/completions"
        text = b'{"id":"c","object":"text_completion","created":1,"model":"m","choices":[{"index":0,"text":"Ulm",'
        text += b'"logprobs":null,"finish_reason":"stop"}]}'
        streamed = streams(b"data: " + text + b"\n\n", DONE)
        await (streamed if seen.body.get("stream") else says(200, text))(seen, writer)

    shared.upstream.on("text", act)
    plain = client.completions.create(model="openai/text", prompt="The city is")
    stream = list(client.completions.create(model="openai/text", prompt="The city is", stream=True))
    assert plain.choices[0].text == "Ulm"
    assert "".join(chunk.choices[0].text for chunk in stream) == "Ulm"


@pytest.mark.parametrize("wire", ["openai", "gemini"])
def test_embeddings_come_as_asked_for(wire: Wire, client: openai.OpenAI, shared: House) -> None:
    shared.upstream.on("embed", embeds(wire, VECTOR, VECTOR_BASE64))
    model = f"{wire}/embed"
    as_packed = client.embeddings.create(model=model, input="Hello.")  # the package asks for base64 itself
    as_floats = client.embeddings.create(model=model, input="Hello.", encoding_format="float")
    as_base64 = client.embeddings.create(model=model, input="Hello.", encoding_format="base64")
    assert as_packed.data[0].embedding == VECTOR
    assert as_floats.data[0].embedding == VECTOR
    assert str(as_base64.data[0].embedding) == VECTOR_BASE64
    assert as_packed.usage.prompt_tokens > 0


def test_what_a_wire_does_not_have_is_refused_by_name(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="anthropic/m has no embeddings") as refused:
        client.embeddings.create(model="anthropic/m", input="Hello.")
    assert refused.value.code == "operation_not_offered"
    with pytest.raises(openai.BadRequestError, match="gemini/m has no completions"):
        client.completions.create(model="gemini/m", prompt="Hello.")


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="'gpt-9' is not served") as refused:
        client.chat.completions.create(model="gpt-9", messages=ASK)
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")
    assert refused.value.request_id
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")
    assert client.models.retrieve("openai/any").owned_by == "openai"


# Responses.


@pytest.mark.parametrize("provider", ["chat-only", "anthropic", "gemini"])
def test_responses_are_translated_where_a_provider_has_none(
    provider: str, client: openai.OpenAI, shared: House
) -> None:
    wire: Any = "openai" if provider == "chat-only" else provider
    shared.upstream.on("resp", speaks(wire))
    plain = client.responses.create(model=f"{provider}/resp", input="Hello?", instructions="Be brief.")
    assert plain.output_text == TEXT
    assert plain.status == "completed"
    assert plain.usage is not None
    assert plain.usage.total_tokens == 15
    assert "Be brief." in str(seen(shared, "resp").body)

    events = list(client.responses.create(model=f"{provider}/resp", input="Hello?", stream=True))
    kinds = [event.type for event in events]
    assert kinds[0] == "response.created"
    assert kinds.count("response.output_text.delta") == 2
    assert kinds[-1] == "response.completed"
    assert [event.sequence_number for event in events] == list(range(len(events)))

    with client.responses.stream(model=f"{provider}/resp", input="Hello?") as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_text == TEXT


def test_a_tool_is_called_in_responses(client: openai.OpenAI, shared: House) -> None:
    shared.upstream.on("resp-tool", calls("anthropic", "weather", {"city": "Ulm"}))
    answer = client.responses.create(model="anthropic/resp-tool", input="Hello?", tools=[WEATHER])
    item: Any = answer.output[0]
    assert (item.type, item.name, item.arguments.replace(" ", "")) == (
        "function_call",
        "weather",
        '{"city":"Ulm"}',
    )


def test_responses_pass_through_where_a_provider_has_them(client: openai.OpenAI, shared: House) -> None:
    told = (
        b'{"id":"resp_1","object":"response","created_at":1,"status":"completed","model":"m","output":[{"id":"msg_1",'
        b'"type":"message","role":"assistant","status":"completed","content":[{"type":"output_text","text":"Hello.",'
        b'"annotations":[]}]}],"usage":{"input_tokens":10,"output_tokens":5,"total_tokens":15},"odd":1}'
    )

    async def act(seen: Seen, writer: Writer) -> None:
        assert seen.path == "/responses"
        if not seen.body.get("stream"):
            await says(200, told)(seen, writer)
            return
        delta = (
            b'{"type":"response.output_text.delta","sequence_number":0,"item_id":"msg_1","output_index":0,'
        )
        delta += b'"content_index":0,"delta":"Hello.","logprobs":[]}'
        done = b'{"type":"response.completed","sequence_number":1,"response":' + told + b"}"
        await streams(
            b"event: response.output_text.delta\ndata: " + delta + b"\n\n",
            b"event: response.completed\ndata: " + done + b"\n\n",
        )(seen, writer)

    shared.upstream.on("own", act)
    raw = client.responses.with_raw_response.create(
        model="openai/own", input="Hello?", extra_body={"odd": [1]}
    )
    assert raw.content == told
    assert seen(shared, "own").body == {"model": "own", "input": "Hello?", "odd": [1]}
    events: list[Any] = list(client.responses.create(model="openai/own", input="Hello?", stream=True))
    assert [event.type for event in events] == ["response.output_text.delta", "response.completed"]
    assert events[-1].response.output_text == "Hello."
