"""Towards one target: what is sent, and what its answer means, when both sides speak the same wire.

A dialect is made for one request and one target. `call` says what goes out; `whole` and `reader` read what
comes back: the bytes for the client, the tokens it cost, and whether an answer has begun. Other wires are
translated by `translated.py`, which has the same shape. No I/O.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

import msgspec

from raymill.registry.provider_settings import ProviderSettings
from raymill.serve.gateway.catalog import Provider, ProviderSecret, Target
from raymill.serve.gateway.wire import Ask, Operation, encode
from raymill.serve.gateway.wires.errors import BadAnswer, provider_error, reads_answer
from raymill.serve.gateway.wires.sse import BadStream, SseReader, frame
from raymill.serve.gateway.wires.usage import Tokens, tokens_of

DONE = b"data: [DONE]\n\n"
CUT_SHORT = "the provider ended its stream before the answer was whole: ask again"


class Call(NamedTuple):
    """What goes out."""

    path: str
    headers: bytes
    body: bytes


class Whole(NamedTuple):
    """A whole answer."""

    body: bytes
    tokens: Tokens | None


class Reader(Protocol):
    """Reads one stream."""

    tokens: Tokens | None
    begun: bool
    """Something that a person would see has come: from now on the answer is this target's."""

    text_bytes: int
    """Of what the model said so far, roughly: to estimate by when the upstream tells no usage."""

    def feed(self, data: bytes) -> bytes:
        """What the client gets for these bytes; may be nothing.

        Raises:
            BadAnswer: it is no such stream.
            ProviderError: an error came instead of an answer.
        """
        ...

    def end(self) -> bytes:
        """The last bytes for the client. Raises BadStream when it ended too early."""
        ...


class Dialect(Protocol):
    def call(self, secret: ProviderSecret | None) -> Call: ...

    def whole(self, data: bytes) -> Whole:
        """Raises BadAnswer and ProviderError."""
        ...

    def reader(self) -> Reader: ...


# What is read of chat and text completions; everything else passes through unseen.
class _Delta(msgspec.Struct):
    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    refusal: Any = None
    tool_calls: Any = None
    function_call: Any = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    text: Any = None
    finish_reason: Any = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: dict[str, Any] | None = None
    error: Any = None


class _Answer(msgspec.Struct):
    usage: dict[str, Any] | None = None
    error: Any = None


_chunk = msgspec.json.Decoder(_Chunk).decode
_answer = msgspec.json.Decoder(_Answer).decode


def decoded(decode: Any, data: bytes) -> Any:
    """Raises BadAnswer when the JSON is cut off or is none."""
    try:
        return decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadAnswer(f"the provider's answer is not what its API says ({error}): ask again") from None


class SameWire:
    """Chat, text completions, embeddings, Responses or Messages to a target that speaks just that."""

    def __init__(self, ask: Ask, target: Target) -> None:
        self._ask = ask
        self._target = target

    def call(self, secret: ProviderSecret | None) -> Call:
        ask, provider = self._ask, self._target.provider
        body = dict(ask.body)
        body["model"] = self._target.model
        if provider is None:
            if ask.stream:
                body["stream_options"] = {**_options(body), "include_usage": True}
            return Call("", b"", encode(body))
        settings = provider.settings
        adjust(body, settings, ask)
        headers = head_lines(provider, secret) + ask.passed
        return Call(path_of(settings, ask.operation), headers, encode(body))

    @reads_answer
    def whole(self, data: bytes) -> Whole:
        answer = decoded(_answer, data)
        if answer.error:
            raise provider_error({"error": answer.error})
        return Whole(data, tokens_of(answer.usage) if answer.usage else None)

    def reader(self) -> Reader:
        if self._ask.operation == "responses":
            return EventReader(RESPONSES)
        if self._ask.operation == "messages":
            return EventReader(MESSAGES)
        return ChunkReader(wants_usage=self._ask.wants_usage)


class ChunkReader:
    """`data:` chunks of chat or text completions, ended by [DONE]."""

    def __init__(self, *, wants_usage: bool) -> None:
        self.tokens: Tokens | None = None
        self.begun = False
        self.text_bytes = 0
        self._wants_usage = wants_usage
        self._events = SseReader()
        self._finished = False

    @reads_answer
    def feed(self, data: bytes) -> bytes:
        out: list[bytes] = []
        for event in self._events.feed(data):
            if event.data == b"[DONE]":
                self._finished = True
                continue
            chunk = decoded(_chunk, event.data)
            if chunk.error:
                raise provider_error({"error": chunk.error})
            if chunk.usage:
                self.tokens = tokens_of(chunk.usage) or self.tokens
                if not chunk.choices and not self._wants_usage:
                    continue
            for choice in chunk.choices or ():
                self._look(choice, len(event.data))
            out.append(frame(event.data))
        return out[0] if len(out) == 1 else b"".join(out)

    def _look(self, choice: _Choice, size_bytes: int) -> None:
        if choice.finish_reason:
            self._finished = self.begun = True
        delta = choice.delta
        if delta is None:
            content = choice.text
        else:
            content = delta.content or delta.reasoning_content or delta.reasoning or delta.refusal
            if not content and (delta.tool_calls or delta.function_call):
                self.begun = True
                self.text_bytes += size_bytes // 2
        if content:
            self.begun = True
            self.text_bytes += len(content) if isinstance(content, str) else size_bytes // 2

    def end(self) -> bytes:
        # Some providers leave [DONE] out; one that has said why it stopped is believed.
        if not self._finished:
            raise BadStream(CUT_SHORT)
        return DONE


class _EventWire(NamedTuple):
    """What matters in a stream of named events."""

    begins: frozenset[str]
    """Types after which the answer is this target's."""

    ends: frozenset[str]
    fails: frozenset[str]


RESPONSES = _EventWire(
    begins=frozenset(
        {
            "response.output_text.delta",
            "response.function_call_arguments.delta",
            "response.reasoning_summary_text.delta",
            "response.refusal.delta",
        }
    ),
    ends=frozenset({"response.completed", "response.incomplete"}),
    fails=frozenset({"error", "response.failed"}),
)
MESSAGES = _EventWire(
    begins=frozenset({"content_block_delta", "content_block_start"}),
    ends=frozenset({"message_stop"}),
    fails=frozenset({"error"}),
)


class EventReader:
    """Named events of Responses or Messages."""

    def __init__(self, wire: _EventWire) -> None:
        self.tokens: Tokens | None = None
        self.begun = False
        self.text_bytes = 0
        self._wire = wire
        self._events = SseReader()
        self._finished = False

    @reads_answer
    def feed(self, data: bytes) -> bytes:
        out: list[bytes] = []
        for event in self._events.feed(data):
            if event.data == b"[DONE]":
                continue
            content = decoded(_object, event.data)
            kind = content.get("type", "")
            if kind in self._wire.fails:
                response = content.get("response") or content
                raise provider_error({"error": response.get("error") or content})
            if kind in self._wire.begins:
                self.begun = True
                self.text_bytes += len(event.data) // 2
            if kind in self._wire.ends:
                self._finished = self.begun = True
            self._count(content)
            out.append(frame(event.data, event.event or kind.encode()))
        return b"".join(out)

    def _count(self, content: dict[str, Any]) -> None:
        holder = content.get("message") or content.get("response") or content
        usage = holder.get("usage") if isinstance(holder, dict) else None
        if isinstance(usage, dict):
            self.tokens = merged(self.tokens, tokens_of(usage))

    def end(self) -> bytes:
        if not self._finished:
            raise BadStream(CUT_SHORT)
        return b""


_object = msgspec.json.Decoder(dict[str, Any]).decode


def merged(first: Tokens | None, second: Tokens | None) -> Tokens | None:
    """Anthropic tells the prompt's tokens at the start and the answer's at the end: the larger ones hold."""
    if first is None or second is None:
        return first or second
    return Tokens(*(max(pair) for pair in zip(first, second, strict=True)))


def adjust(body: dict[str, Any], settings: ProviderSettings, ask: Ask) -> None:
    """Fit an OpenAI-wire body to the provider's quirks, in place."""
    if ask.operation in {"chat", "completions"}:
        if ask.stream and settings.stream_usage:
            body["stream_options"] = {**_options(body), "include_usage": True}
        if ask.operation == "chat":
            _rename_max_tokens(body, settings.max_tokens_field)
    for field in settings.drop:
        body.pop(field, None)


def _options(body: dict[str, Any]) -> dict[str, Any]:
    options = body.get("stream_options")
    return options if isinstance(options, dict) else {}


def _rename_max_tokens(body: dict[str, Any], wanted: str) -> None:
    other = "max_tokens" if wanted == "max_completion_tokens" else "max_completion_tokens"
    if other in body:
        value = body.pop(other)
        body.setdefault(wanted, value)


def path_of(
    settings: ProviderSettings, operation: Operation, *, model: str = "", stream: bool = False
) -> str:
    """Behind the provider's base_url, with its query; empty when it has no such operation."""
    path = settings.paths.get(operation, "")
    if stream and operation == "chat":
        path = settings.paths.get("chat_stream", path)
    if "{model}" in path:
        path = path.replace("{model}", quote(model, safe=""))
    return path + settings.query_string


def head_lines(provider: Provider, secret: ProviderSecret | None) -> bytes:
    """Header lines: what is sent, who we are, the key in the provider's own style."""
    key = secret.id if secret is not None else ""
    made = provider.heads.get(key)
    if made is not None:
        return made
    lines = ["content-type: application/json", "accept: application/json, text/event-stream"]
    lines += [f"{name.lower()}: {value}" for name, value in provider.settings.headers.items()]
    if secret is not None:
        style = provider.settings.auth
        if style == "bearer":
            lines.append(f"authorization: Bearer {secret.value}")
        elif style != "none":
            lines.append(f"{style}: {secret.value}")
    lines.append("user-agent: raymill")
    made = provider.heads[key] = ("\r\n".join(lines) + "\r\n").encode("latin-1")
    return made
