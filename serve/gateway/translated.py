"""Towards a target that speaks another wire than the client: both are taken by way of chat completions.

client           to chat              from chat
chat             as it is             as it is
messages         chat_of_messages     messages_of_answer, MessagesStream
responses        chat_of_responses    response_of_answer, ResponsesStream

target           from chat            to chat
openai, ours     as it is             as it is
anthropic        messages_of_chat     answer_of_messages, ChatStreamOfMessages
gemini           gemini_of_chat       answer_of_gemini, ChatStreamOfGemini
"""

from __future__ import annotations

from typing import Any, Protocol, assert_never

import msgspec

from raymill.serve.gateway.catalog import ProviderSecret, Target
from raymill.serve.gateway.dialect import (
    CUT_SHORT,
    DONE,
    Call,
    Dialect,
    Reader,
    SameWire,
    Whole,
    adjust,
    decoded,
    head_lines,
    path_of,
)
from raymill.serve.gateway.wire import Ask, Operation, Refused, encode
from raymill.serve.gateway.wires.anthropic_answer import ChatStreamOfMessages, answer_of_messages
from raymill.serve.gateway.wires.anthropic_in import chat_of_messages, wants_thinking
from raymill.serve.gateway.wires.anthropic_out import messages_of_chat
from raymill.serve.gateway.wires.anthropic_reply import MessagesStream, messages_of_answer
from raymill.serve.gateway.wires.errors import provider_error, reads_answer
from raymill.serve.gateway.wires.gemini_answer import ChatStreamOfGemini, answer_of_gemini
from raymill.serve.gateway.wires.gemini_embeddings import embeddings_of_gemini, gemini_of_embeddings
from raymill.serve.gateway.wires.gemini_out import gemini_of_chat
from raymill.serve.gateway.wires.responses_in import chat_of_responses
from raymill.serve.gateway.wires.responses_reply import response_of_answer
from raymill.serve.gateway.wires.responses_stream import ResponsesStream
from raymill.serve.gateway.wires.sse import BadStream, SseReader, frame
from raymill.serve.gateway.wires.usage import Tokens, estimate_prompt_tokens, tokens_of

Json = dict[str, Any]

OUR_OPERATIONS: frozenset[Operation] = frozenset({"chat", "completions"})
DEFAULT_MAX_TOKENS = 4096
"""Where a target's wire wants a limit and the request has none."""

_object = msgspec.json.Decoder(Json).decode


def dialect_of(ask: Ask, target: Target) -> Dialect:
    """How `target` is asked.

    Raises:
        Refused: it has no such operation, on any wire.
        Untranslatable: something in the request cannot be said to it.
    """
    if target.provider is None:
        offered: frozenset[str] = OUR_OPERATIONS
    else:
        offered = frozenset(target.provider.settings.paths)
    same_wire = target.wire != "gemini"
    if same_wire and ask.operation in offered:
        return SameWire(ask, target)
    if ask.operation == "embeddings" and target.wire == "gemini" and "embeddings" in offered:
        return GeminiEmbeddings(ask, target)
    speaks_chat = "messages" in offered if target.wire == "anthropic" else "chat" in offered
    if ask.operation in {"completions", "embeddings"} or not speaks_chat:
        raise Refused(
            400,
            "operation_not_offered",
            f"{target.id} has no {ask.operation}: it offers {', '.join(sorted(offered)) or 'nothing'}",
            param="model",
        )
    return Translated(ask, target)


class Translated:
    """Chat, Messages or Responses to a target that speaks chat, Messages or Gemini."""

    def __init__(self, ask: Ask, target: Target) -> None:
        self._ask = ask
        self._target = target
        self._chat = chat_of(ask)

    def call(self, secret: ProviderSecret | None) -> Call:
        target, ask, provider = self._target, self._ask, self._target.provider
        chat = {**self._chat, "model": target.model}
        if ask.stream:
            chat["stream"] = True
        wire = target.wire
        if wire == "ours" or provider is None:
            if ask.stream:
                chat["stream_options"] = {"include_usage": True}
            return Call("", b"", encode(chat))
        settings = provider.settings
        body = chat
        operation: Operation = "chat"
        if wire == "openai":
            adjust(body, settings, Ask("chat", body, target.model, ask.stream, ask.size_bytes))
        elif wire == "anthropic":
            longest = target.price.max_output_tokens if target.price is not None else None
            body, operation = (
                messages_of_chat(chat, min(longest or DEFAULT_MAX_TOKENS, DEFAULT_MAX_TOKENS)),
                "messages",
            )
        elif wire == "gemini":
            body = gemini_of_chat(chat)
        else:
            assert_never(wire)
        path = path_of(settings, operation, model=target.model, stream=ask.stream)
        if wire == "gemini" and ask.stream:
            path += "&alt=sse" if "?" in path else "?alt=sse"  # its other stream is one long JSON list
        return Call(path, head_lines(provider, secret), encode(body))

    @reads_answer
    def whole(self, data: bytes) -> Whole:
        answer = decoded(_object, data)
        if answer.get("error"):
            raise provider_error(answer)
        wire = self._target.wire
        if wire == "anthropic":
            answer = answer_of_messages(answer)
        elif wire == "gemini":
            answer = answer_of_gemini(answer, self._target.model)
        usage = answer.get("usage")
        tokens = tokens_of(usage) if isinstance(usage, dict) else None
        return Whole(encode(self._for_client(answer)), tokens)

    def _for_client(self, answer: Json) -> Json:
        ask = self._ask
        if ask.operation == "messages":
            return messages_of_answer(answer, ask.model, thinking=wants_thinking(ask.body))
        if ask.operation == "responses":
            return response_of_answer(answer, ask.body)
        return answer

    def reader(self) -> Reader:
        wire = self._target.wire
        target: _Machine = _AsItIs()
        if wire == "anthropic":
            target = ChatStreamOfMessages()
        elif wire == "gemini":
            target = ChatStreamOfGemini(self._target.model)
        return TranslatedReader(target, client_of(self._ask))


def chat_of(ask: Ask) -> Json:
    """The request as a chat request. Raises Untranslatable and Invalid."""
    if ask.operation == "messages":
        return chat_of_messages(ask.body)
    if ask.operation == "responses":
        return chat_of_responses(ask.body)
    return dict(ask.body)


class _Machine(Protocol):
    """Events or chunks in, events or chunks out."""

    def feed(self, event: Json) -> list[Json]: ...

    def end(self) -> list[Json]: ...


class _AsItIs:
    """Chunks of a target that speaks chat."""

    def __init__(self) -> None:
        self._finished = False

    def feed(self, event: Json) -> list[Json]:
        if event.get("error"):
            raise provider_error(event)
        choices = event.get("choices") or ()
        self._finished = self._finished or any(choice.get("finish_reason") for choice in choices)
        return [event]

    def end(self) -> list[Json]:
        if not self._finished:
            raise BadStream(CUT_SHORT)
        return []


class _Client:
    """Frames chunks for a client of the chat wire."""

    def __init__(self, *, wants_usage: bool) -> None:
        self._wants_usage = wants_usage

    def feed(self, chunk: Json) -> bytes:
        if chunk.get("usage") and not self._wants_usage:
            if not chunk.get("choices"):
                return b""
            chunk = {name: value for name, value in chunk.items() if name != "usage"}
        return frame(encode(chunk))

    def end(self) -> bytes:
        return DONE


class _EventClient:
    """Frames the named events of Messages or Responses."""

    def __init__(self, machine: _Machine) -> None:
        self._machine = machine

    def feed(self, chunk: Json) -> bytes:
        return b"".join(frame(encode(event), event["type"].encode()) for event in self._machine.feed(chunk))

    def end(self) -> bytes:
        return b"".join(frame(encode(event), event["type"].encode()) for event in self._machine.end())


def client_of(ask: Ask) -> _Client | _EventClient:
    """What turns chat chunks into the client's own stream."""
    if ask.operation == "messages":
        prompt = estimate_prompt_tokens(ask.body)
        thinking = wants_thinking(ask.body)
        return _EventClient(MessagesStream(ask.model, prompt_tokens=prompt, thinking=thinking))
    if ask.operation == "responses":
        return _EventClient(ResponsesStream(ask.body))
    return _Client(wants_usage=ask.wants_usage)


class TranslatedReader:
    """A target's stream, as chat chunks, as the client's stream."""

    def __init__(self, target: _Machine, client: _Client | _EventClient) -> None:
        self.tokens: Tokens | None = None
        self.begun = False
        self.text_bytes = 0
        self._target = target
        self._client = client
        self._events = SseReader()

    @reads_answer
    def feed(self, data: bytes) -> bytes:
        out: list[bytes] = []
        for event in self._events.feed(data):
            if event.data != b"[DONE]":
                out += self._pass(self._target.feed(decoded(_object, event.data)))
        return b"".join(out)

    @reads_answer
    def end(self) -> bytes:
        return b"".join([*self._pass(self._target.end()), self._client.end()])

    def _pass(self, chunks: list[Json]) -> list[bytes]:
        for chunk in chunks:
            usage = chunk.get("usage")
            if isinstance(usage, dict):
                self.tokens = tokens_of(usage) or self.tokens
            for choice in chunk.get("choices") or ():
                self._look(choice)
        return [self._client.feed(chunk) for chunk in chunks]

    def _look(self, choice: Json) -> None:
        delta = choice.get("delta") or {}
        said = delta.get("content") or delta.get("reasoning_content") or delta.get("refusal")
        if said or delta.get("tool_calls"):
            self.begun = True
            self.text_bytes += len(said) if isinstance(said, str) else 16
        if choice.get("finish_reason"):
            self.begun = True


class GeminiEmbeddings:
    """Embeddings of the OpenAI wire from Gemini."""

    def __init__(self, ask: Ask, target: Target) -> None:
        self._ask = ask
        self._target = target

    def call(self, secret: ProviderSecret | None) -> Call:
        provider = self._target.provider
        assert provider is not None
        body = gemini_of_embeddings({**self._ask.body, "model": self._target.model})
        path = path_of(provider.settings, "embeddings", model=self._target.model)
        return Call(path, head_lines(provider, secret), encode(body))

    def whole(self, data: bytes) -> Whole:
        answer = embeddings_of_gemini(decoded(_object, data), {**self._ask.body, "model": self._target.model})
        usage = answer.get("usage")
        return Whole(encode(answer), tokens_of(usage) if usage else None)

    def reader(self) -> Reader:
        raise Refused(
            400, "invalid_request", "stream: embeddings are not streamed: leave it out", param="stream"
        )
