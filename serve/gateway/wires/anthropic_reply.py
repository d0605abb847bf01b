"""Chat answers, said to a client that speaks the Anthropic Messages API.

Sources: OpenAI API reference (the chat completion object and chunk), Anthropic Messages API (Message;
streaming; errors).

    finish_reason                  stop_reason
    stop                           end_turn; stop_sequence where the server says which (vLLM does)
    length                         max_tokens
    tool_calls                     tool_use
    content_filter                 refusal

Only the first choice is read; a Messages request cannot ask for more. Reasoning becomes a thinking block,
without a signature, when the client asked for thinking, and is left out otherwise: clients take the first
block for the answer. Log probabilities and annotations are dropped.
"""

from __future__ import annotations

import msgspec

from raymill.serve.gateway.wires.chunks import CallCursor, reasoning_of
from raymill.serve.gateway.wires.errors import STATUS_BY_TYPE, BadAnswer, provider_error, reads_answer
from raymill.serve.gateway.wires.shape import Json, told
from raymill.serve.gateway.wires.sse import BadStream
from raymill.serve.gateway.wires.usage import tokens_of

STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}
ERROR_TYPES = {status: kind for kind, status in STATUS_BY_TYPE.items()} | {503: "overloaded_error"}


def messages_error(status: int, kind: str | None, message: str, request_id: str) -> Json:
    """The body of an error, and the data of an `error` event.

    Args:
        kind: An error type of Anthropic's. Any other word, or None, and the type follows from the status.
    """
    if kind not in STATUS_BY_TYPE:
        kind = ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}


@reads_answer
def messages_of_answer(answer: Json, model: str, *, thinking: bool = False) -> Json:
    """A chat completion as a Message ({"id", "type", "role", "model", "content", "stop_reason", "usage"}).

    Args:
        model: The model as the client named it.
        thinking: The client asked for thinking blocks (`anthropic_in.wants_thinking`).

    Raises:
        BadAnswer: it is no chat completion, or a tool call's arguments are no JSON object.
    """
    choice = answer["choices"][0]
    message = choice["message"]
    content: list[Json] = []
    if thinking and (reasoning := reasoning_of(message)):
        content.append({"type": "thinking", "thinking": reasoning, "signature": ""})
    for text in (message.get("content"), message.get("refusal")):
        if text:
            content.append({"type": "text", "text": text})
    cut = choice["finish_reason"] == "length"
    blocks = [_tool_use(call, cut=cut) for call in message.get("tool_calls") or ()]
    content += [block for block in blocks if block is not None]
    stop_reason, sequence = _stop_reason(choice, refused=bool(message.get("refusal")))
    return {
        "id": _message_id(answer),
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": sequence,
        "usage": _usage(answer.get("usage")),
    }


def _tool_use(call: Json, *, cut: bool) -> Json | None:
    """None when the limit of tokens cut the call off: half of it is none."""
    function = call["function"]
    try:
        arguments = msgspec.json.decode(function.get("arguments") or "{}")
    except msgspec.DecodeError:
        if cut:
            return None
        raise
    if not isinstance(arguments, dict):
        raise BadAnswer(f"the model called {told(function['name'])} with no JSON object: ask again")
    return {"type": "tool_use", "id": call["id"], "name": function["name"], "input": arguments}


def _stop_reason(choice: Json, *, refused: bool) -> tuple[str, str | None]:
    finish_reason = choice["finish_reason"]
    if refused:
        return "refusal", None
    sequence = choice.get("stop_reason")
    if finish_reason == "stop" and isinstance(sequence, str):
        return "stop_sequence", sequence
    return STOP_REASONS.get(finish_reason, "end_turn"), None


def _usage(usage: Json | None) -> Json:
    tokens = tokens_of(usage) if usage else None
    if tokens is None:
        return {"input_tokens": 0, "output_tokens": 0}
    return {
        "input_tokens": tokens.prompt - tokens.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": tokens.cached,
        "output_tokens": tokens.completion,
    }


def _message_id(answer: Json) -> str:
    answer_id: str = answer.get("id") or ""
    return answer_id if answer_id.startswith("msg_") else f"msg_{answer_id}"


class MessagesStream:
    """Turns chat chunks into the events of a Messages stream. One stream is one machine.

    Args:
        model: The model as the client named it.
        prompt_tokens: For message_start, which is sent before the provider has counted: an estimate.
            message_delta corrects it.
        thinking: The client asked for thinking blocks.
    """

    def __init__(self, model: str, *, prompt_tokens: int = 0, thinking: bool = False) -> None:
        self._model = model
        self._prompt_tokens = prompt_tokens
        self._thinking = thinking
        self._started = False
        self._id = ""
        self._index = -1
        self._open: str | None = None
        """Type of the open block."""
        self._calls = CallCursor()
        self._finish: tuple[str, str | None] | None = None
        self._refused = False
        self._usage: Json | None = None

    @reads_answer
    def feed(self, chunk: Json) -> list[Json]:
        """The events for one chunk; the name of each is its `type`.

        Raises:
            BadAnswer: it is no chunk.
            ProviderError: it is an error.
        """
        if chunk.get("error"):
            raise provider_error(chunk)
        events: list[Json] = []
        if not self._started:
            events.append(self._message_start(chunk))
        if chunk.get("usage"):
            self._usage = chunk["usage"]
        for choice in chunk.get("choices") or ():
            if choice.get("index", 0) != 0:
                continue
            delta = choice.get("delta")
            if delta:
                self._add(delta, events)
            if choice.get("finish_reason"):
                self._finish = _stop_reason(choice, refused=self._refused)
        return events

    @reads_answer
    def end(self) -> list[Json]:
        """The last events.

        Raises:
            BadStream: the stream ended before the model did.
        """
        if self._finish is None:
            raise BadStream("the provider ended its stream before the answer was whole: ask again")
        events: list[Json] = []
        self._close(events)
        stop_reason, sequence = self._finish
        delta = {"stop_reason": stop_reason, "stop_sequence": sequence}
        events.append({"type": "message_delta", "delta": delta, "usage": _usage(self._usage)})
        events.append({"type": "message_stop"})
        return events

    def _message_start(self, chunk: Json) -> Json:
        self._started = True
        self._id = _message_id(chunk)
        message: Json = {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": self._prompt_tokens, "output_tokens": 0},
        }
        return {"type": "message_start", "message": message}

    def _add(self, delta: Json, events: list[Json]) -> None:
        if self._thinking and (reasoning := reasoning_of(delta)):
            if self._open != "thinking":
                self._start({"type": "thinking", "thinking": "", "signature": ""}, events)
            self._delta({"type": "thinking_delta", "thinking": reasoning}, events)
        for name in ("content", "refusal"):
            text = delta.get(name)
            if text:
                self._refused = self._refused or name == "refusal"
                if self._open != "text":
                    self._start({"type": "text", "text": ""}, events)
                self._delta({"type": "text_delta", "text": text}, events)
        for call in delta.get("tool_calls") or ():
            self._add_call(call, events)

    def _add_call(self, call: Json, events: list[Json]) -> None:
        function = call.get("function") or {}
        if self._calls.begins(call):
            block_id = call.get("id") or f"toolu_{self._id}_{self._calls.number}"
            block = {"type": "tool_use", "id": block_id, "name": function["name"], "input": {}}
            self._start(block, events)
        if function.get("arguments"):
            self._delta({"type": "input_json_delta", "partial_json": function["arguments"]}, events)

    def _start(self, block: Json, events: list[Json]) -> None:
        self._close(events)
        self._index += 1
        self._open = block["type"]
        if self._open != "tool_use":
            self._calls.leave()
        events.append({"type": "content_block_start", "index": self._index, "content_block": block})

    def _delta(self, delta: Json, events: list[Json]) -> None:
        events.append({"type": "content_block_delta", "index": self._index, "delta": delta})

    def _close(self, events: list[Json]) -> None:
        if self._open is not None:
            events.append({"type": "content_block_stop", "index": self._index})
            self._open = None
