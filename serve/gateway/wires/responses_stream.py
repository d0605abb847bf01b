"""Streams of chat chunks, said to a client that speaks the OpenAI Responses API.

Source: OpenAI API reference (Responses, streaming events).

    response.created, response.in_progress
    per message   output_item.added, content_part.added, output_text.delta…, output_text.done,
                  content_part.done, output_item.done (refusal.delta and refusal.done for a refusal)
    per call      output_item.added, function_call_arguments.delta…, function_call_arguments.done,
                  output_item.done
    response.completed, response.incomplete or response.failed
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from raymill.serve.gateway.wires.chunks import CallCursor
from raymill.serve.gateway.wires.errors import provider_error, reads_answer
from raymill.serve.gateway.wires.responses_reply import (
    INCOMPLETE,
    call_item,
    envelope,
    finished,
    message_item,
    output_text,
)
from raymill.serve.gateway.wires.shape import Json
from raymill.serve.gateway.wires.sse import BadStream

FAILURE_CODES = frozenset({"server_error", "rate_limit_exceeded", "invalid_prompt"})
NAMES = {"output_text": "text", "refusal": "refusal"}
"""Of a part of a message, by its type: the field that holds its text."""


@dataclass
class _Open:
    """The item that is being written."""

    item: Json
    index: int
    kind: str = ""
    """Of the open part of a message: output_text or refusal."""

    texts: list[str] = field(default_factory=list)
    """Of the open part, or the arguments of the call."""

    logprobs: list[Json] = field(default_factory=list)

    @property
    def place(self) -> Json:
        return {"item_id": self.item["id"], "output_index": self.index}


class ResponsesStream:
    """Turns chat chunks into Responses events. One stream is one machine.

    Args:
        body: The Responses request, parts of which the response gives back.
    """

    def __init__(self, body: Json) -> None:
        self._body = body
        self._response: Json | None = None
        self._answer_id = ""
        self._number = 0
        """Of the next event."""
        self._output: list[Json] = []
        self._open: _Open | None = None
        self._calls = CallCursor()
        self._finish_reason: str | None = None
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
        if self._response is None:
            self._start(chunk.get("id") or "", events)
        if chunk.get("usage"):
            self._usage = chunk["usage"]
        for choice in chunk.get("choices") or ():
            if choice.get("index", 0) != 0:
                continue
            delta = choice.get("delta") or {}
            if delta.get("content"):
                logprobs = (choice.get("logprobs") or {}).get("content") or []
                self._text("output_text", delta["content"], logprobs, events)
            if delta.get("refusal"):
                self._text("refusal", delta["refusal"], [], events)
            for call in delta.get("tool_calls") or ():
                self._call(call, events)
            if choice.get("finish_reason"):
                self._finish_reason = choice["finish_reason"]
        return events

    @reads_answer
    def end(self) -> list[Json]:
        """The last events.

        Raises:
            BadStream: the stream ended before the model did.
        """
        if self._finish_reason is None or self._response is None:
            raise BadStream("the provider ended its stream before the answer was whole: ask again")
        events: list[Json] = []
        reason = INCOMPLETE.get(self._finish_reason)
        if self._open is None and not self._output:
            self._open_part("output_text", events)
        self._close("incomplete" if reason else "completed", events)
        response = finished(self._response, self._output, self._usage, reason)
        self._emit(events, f"response.{response['status']}", {"response": response})
        return events

    def fail(self, message: str, code: str | None = None) -> list[Json]:
        """The last events of a stream that broke.

        Args:
            code: rate_limit_exceeded or invalid_prompt; anything else is told as server_error.
        """
        events: list[Json] = []
        if self._response is None:
            self._start("", events)
        error = {"code": code if code in FAILURE_CODES else "server_error", "message": message}
        failed = {**(self._response or {}), "status": "failed", "error": error, "output": self._output}
        self._emit(events, "response.failed", {"response": failed})
        return events

    def _emit(self, events: list[Json], kind: str, content: Json) -> None:
        events.append({"type": kind, "sequence_number": self._number, **content})
        self._number += 1

    def _start(self, answer_id: str, events: list[Json]) -> None:
        self._answer_id = answer_id
        self._response = envelope(answer_id, int(time.time()), self._body)
        self._emit(events, "response.created", {"response": self._response})
        self._emit(events, "response.in_progress", {"response": self._response})

    def _text(self, kind: str, text: str, logprobs: list[Json], events: list[Json]) -> None:
        if self._open is None or self._open.kind != kind:
            self._open_part(kind, events)
        assert self._open is not None
        self._open.texts.append(text)
        self._open.logprobs += logprobs
        delta: Json = {**self._open.place, "content_index": len(self._open.item["content"]), "delta": text}
        if kind == "output_text":
            delta["logprobs"] = logprobs
        self._emit(events, f"response.{kind}.delta", delta)

    def _open_part(self, kind: str, events: list[Json]) -> None:
        if self._open is None or not self._open.kind:
            self._close("completed", events)
            self._calls.leave()
            index = len(self._output)
            item = message_item(self._answer_id, index, [], "in_progress")
            self._open = _Open(item, index)
            added = {"output_index": index, "item": {**item, "content": []}}
            self._emit(events, "response.output_item.added", added)
        else:
            self._close_part(self._open, events)
        self._open.kind = kind
        part = output_text("", None) if kind == "output_text" else {"type": kind, "refusal": ""}
        spot = {**self._open.place, "content_index": len(self._open.item["content"])}
        self._emit(events, "response.content_part.added", {**spot, "part": part})

    def _call(self, call: Json, events: list[Json]) -> None:
        function = call.get("function") or {}
        if self._calls.begins(call):
            self._close("completed", events)
            index = len(self._output)
            item_id = f"fc_{self._answer_id}_{index}"
            call_id = call.get("id") or f"call_{self._answer_id}_{self._calls.number}"
            item = call_item(item_id, call_id, function["name"], "", "in_progress")
            self._open = _Open(item, index)
            self._emit(events, "response.output_item.added", {"output_index": index, "item": dict(item)})
        text = function.get("arguments")
        if text and self._open is not None:
            self._open.texts.append(text)
            delta = {**self._open.place, "delta": text}
            self._emit(events, "response.function_call_arguments.delta", delta)

    def _close_part(self, open_: _Open, events: list[Json]) -> None:
        text = "".join(open_.texts)
        name = NAMES[open_.kind]
        spot = {**open_.place, "content_index": len(open_.item["content"])}
        done: Json = {**spot, name: text}
        part: Json = {"type": open_.kind, name: text}
        if open_.kind == "output_text":
            done["logprobs"] = open_.logprobs
            part = output_text(text, open_.logprobs)
        self._emit(events, f"response.{open_.kind}.done", done)
        self._emit(events, "response.content_part.done", {**spot, "part": part})
        open_.item["content"].append(part)
        open_.texts, open_.logprobs = [], []

    def _close(self, status: str, events: list[Json]) -> None:
        """The open item is finished."""
        if self._open is None:
            return
        open_, self._open = self._open, None
        if open_.kind:
            self._close_part(open_, events)
        else:
            arguments = "".join(open_.texts) or "{}"
            open_.item["arguments"] = arguments
            done = {**open_.place, "arguments": arguments, "name": open_.item["name"]}
            self._emit(events, "response.function_call_arguments.done", done)
        open_.item["status"] = status
        self._output.append(open_.item)
        item = {"output_index": open_.index, "item": open_.item}
        self._emit(events, "response.output_item.done", item)
