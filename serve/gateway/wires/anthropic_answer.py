"""Answers of a target that speaks the Anthropic Messages API, as chat answers.

Sources: Anthropic Messages API (Message; streaming: message_start, content_block_start, …, message_stop),
OpenAI API reference (the chat completion object and chunk).

    stop_reason                                    finish_reason
    end_turn, stop_sequence, pause_turn            stop
    max_tokens, model_context_window_exceeded      length
    tool_use                                       tool_calls
    refusal                                        content_filter

Thinking is `reasoning_content`, as DeepSeek and vLLM name it, and `thinking_blocks` holds the blocks with
their signatures: a client that hands the message back lets Anthropic go on thinking. Citations and blocks
of Anthropic's own tools are dropped; a chat request cannot ask for them.
"""

from __future__ import annotations

from typing import Any

import msgspec

from raymill.serve.gateway.wires.anthropic_out import JSON_TOOL
from raymill.serve.gateway.wires.chunks import Chunks, chat_answer, chat_usage, tool_call
from raymill.serve.gateway.wires.errors import provider_error, reads_answer
from raymill.serve.gateway.wires.shape import Json
from raymill.serve.gateway.wires.sse import BadStream

FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
THINKING = ("thinking", "redacted_thinking")


@reads_answer
def answer_of_messages(answer: Json) -> Json:
    """A Message ({"id", "model", "content": [blocks], "stop_reason", "usage"}) as a chat completion.

    Raises:
        BadAnswer: it is none.
        ProviderError: it is an error.
    """
    if answer.get("type") == "error":
        raise provider_error(answer)
    texts: list[str] = []
    thinking: list[Json] = []
    calls: list[Json] = []
    for block in answer["content"]:
        kind = block["type"]
        if kind == "text":
            texts.append(block["text"])
        elif kind == "tool_use":
            arguments = msgspec.json.encode(block["input"]).decode()
            if block["name"] == JSON_TOOL:
                texts.append(arguments)
            else:
                calls.append(tool_call(block["id"], block["name"], arguments))
        elif kind in THINKING:
            thinking.append(block)
    message: Json = {"role": "assistant", "content": "".join(texts) if texts else None, "refusal": None}
    if calls:
        message["tool_calls"] = calls
    elif not texts:
        message["content"] = ""
    if thinking:
        message["reasoning_content"] = "".join(block.get("thinking", "") for block in thinking)
        message["thinking_blocks"] = thinking
    stop_reason = answer["stop_reason"]
    if stop_reason == "refusal":
        message["refusal"] = _refusal(answer)
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": _finish_reason(stop_reason, calls=bool(calls)),
    }
    return chat_answer(answer["id"], answer["model"], [choice], usage_of_messages(answer["usage"]))


def usage_of_messages(usage: Json) -> Json:
    """Anthropic counts cached tokens beside `input_tokens`, OpenAI among `prompt_tokens`."""
    cached = usage.get("cache_read_input_tokens") or 0
    written = usage.get("cache_creation_input_tokens") or 0
    details = usage.get("output_tokens_details") or {}
    return chat_usage(
        prompt=(usage.get("input_tokens") or 0) + cached + written,
        cached=cached,
        cache_written=written,
        completion=usage.get("output_tokens") or 0,
        reasoning=details.get("thinking_tokens"),
    )


class ChatStreamOfMessages:
    """Turns the events of a Messages stream into chat chunks; the last one carries the usage.

    One stream is one machine. Unknown events and blocks are passed over, as Anthropic asks for.
    """

    def __init__(self) -> None:
        self._chunks = Chunks("", "")
        self._usage: Json = {}
        self._tool_indexes: dict[int, int] = {}
        """By the index of the block; -1 is the tool whose input is the answer."""
        self._silent: set[int] = set()
        """Blocks of tools for which no input has come yet."""
        self._thinking: dict[int, Json] = {}
        self._thought = 0
        self._calls = 0
        self._finished = False

    @property
    def finished(self) -> bool:
        """The model has said why it stopped."""
        return self._finished

    @reads_answer
    def feed(self, event: Json) -> list[Json]:
        """The chunks for one event, the decoded `data` of it.

        Raises:
            ProviderError: Anthropic ends the stream with an error.
            BadAnswer: the event is not one.
        """
        kind = event["type"]
        if kind == "content_block_delta":
            return self._delta(event["index"], event["delta"])
        if kind == "content_block_start":
            return self._start(event["index"], event["content_block"])
        if kind == "content_block_stop":
            return self._stop(event["index"])
        if kind == "message_start":
            message = event["message"]
            self._chunks = Chunks(message["id"], message["model"])
            self._count(message.get("usage"))
            return [self._chunks.delta({"role": "assistant", "content": ""})]
        if kind == "message_delta":
            return self._message_delta(event)
        if kind == "error":
            raise provider_error(event)
        return []

    @reads_answer
    def end(self) -> list[Json]:
        """The usage.

        Raises:
            BadStream: the stream ended before the model did.
        """
        if not self._finished:
            raise BadStream("Anthropic ended its stream before the answer was whole: ask again")
        return [self._chunks.usage(usage_of_messages(self._usage))]

    def _start(self, index: int, block: Json) -> list[Json]:
        kind = block["type"]
        if kind == "tool_use":
            self._silent.add(index)
            if block["name"] == JSON_TOOL:
                self._tool_indexes[index] = -1
                return []
            number = self._tool_indexes[index] = self._calls
            self._calls += 1
            call = {"index": number, **tool_call(block["id"], block["name"], "")}
            return [self._chunks.delta({"tool_calls": [call]})]
        if kind == "text" and block.get("text"):
            return [self._chunks.delta({"content": block["text"]})]
        if kind in THINKING:
            self._thinking[index] = dict(block)
        return []

    def _delta(self, index: int, delta: Json) -> list[Json]:
        kind = delta["type"]
        if kind == "text_delta":
            return [self._chunks.delta({"content": delta["text"]})]
        if kind == "input_json_delta":
            return self._input(index, delta["partial_json"])
        if kind == "thinking_delta":
            self._thinking[index]["thinking"] += delta["thinking"]
            return [self._chunks.delta({"reasoning_content": delta["thinking"]})]
        if kind == "signature_delta":
            self._thinking[index]["signature"] = delta["signature"]
        return []

    def _input(self, index: int, text: str) -> list[Json]:
        number = self._tool_indexes.get(index)
        if not text or number is None:
            return []
        self._silent.discard(index)
        if number < 0:
            return [self._chunks.delta({"content": text})]
        return [self._chunks.delta({"tool_calls": [{"index": number, "function": {"arguments": text}}]})]

    def _stop(self, index: int) -> list[Json]:
        if index in self._silent:
            # A tool without input: OpenAI's clients read the arguments as JSON, and "" is none.
            return self._input(index, "{}")
        block = self._thinking.pop(index, None)
        if block is None:
            return []
        block = {"index": self._thought, **block}
        self._thought += 1
        return [self._chunks.delta({"thinking_blocks": [block]})]

    def _message_delta(self, event: Json) -> list[Json]:
        self._count(event.get("usage"))
        stop_reason = event["delta"].get("stop_reason")
        if stop_reason is None:
            return []
        self._finished = True
        delta: Json = {"refusal": _refusal(event["delta"])} if stop_reason == "refusal" else {}
        return [self._chunks.delta(delta, _finish_reason(stop_reason, calls=self._calls > 0))]

    def _count(self, usage: Any) -> None:
        # Counts of a message_delta are totals; those that it leaves out stay as they were.
        for name, value in (usage or {}).items():
            if value is not None:
                self._usage[name] = value


def _finish_reason(stop_reason: str, *, calls: bool) -> str:
    if stop_reason == "tool_use" and not calls:
        return "stop"  # the one call was that of JSON_TOOL
    return FINISH_REASONS.get(stop_reason, "stop")


def _refusal(holder: Json) -> str:
    details = holder.get("stop_details") or {}
    return details.get("explanation") or "Anthropic's safety system stopped the answer."
