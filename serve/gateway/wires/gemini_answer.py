"""Answers of a target that speaks the Gemini API, as chat answers.

Sources: Gemini API reference (GenerateContentResponse, Candidate, FinishReason, UsageMetadata), OpenAI API
reference (the chat completion object and chunk). A stream is a row of GenerateContentResponse, each with
what is new; the usage in them is a total, and the last one counts.

    finishReason                                   finish_reason
    STOP                                           stop; tool_calls when functions are called
    MAX_TOKENS, CONTINUATION                       length
    MALFORMED_*, UNEXPECTED_TOOL_CALL, …           none: BadAnswer, for the answer is of no use
    SAFETY, RECITATION and all others              content_filter

Thoughts, when a model shows them, are `reasoning_content`; a function call keeps its thought signature in
`extra_content.google.thought_signature`. Grounding, citations and safety ratings are dropped.
"""

from __future__ import annotations

import uuid
from typing import Any

import msgspec

from raymill.serve.gateway.wires.chunks import Chunks, chat_answer, chat_usage, tool_call
from raymill.serve.gateway.wires.errors import BadAnswer, provider_error, reads_answer
from raymill.serve.gateway.wires.shape import Json
from raymill.serve.gateway.wires.sse import BadStream

FINISH_REASONS = {"STOP": "stop", "MAX_TOKENS": "length", "CONTINUATION": "length"}
USELESS = frozenset(
    {
        "MALFORMED_FUNCTION_CALL",
        "MALFORMED_RESPONSE",
        "UNEXPECTED_TOOL_CALL",
        "TOO_MANY_TOOL_CALLS",
        "MISSING_THOUGHT_SIGNATURE",
    }
)


class _Said:
    """What the parts of one candidate say."""

    __slots__ = ("calls", "content", "reasoning")

    def __init__(self, candidate: Json, first_call: int) -> None:
        self.content: list[str] = []
        self.reasoning: list[str] = []
        self.calls: list[Json] = []
        for part in (candidate.get("content") or {}).get("parts") or ():
            if part.get("thought"):
                self.reasoning.append(part.get("text") or "")
            elif "text" in part:
                self.content.append(part["text"])
            elif "functionCall" in part:
                self.calls.append(_call(part, first_call + len(self.calls)))
            elif "inlineData" in part:
                media_type = part["inlineData"].get("mimeType")
                raise BadAnswer(f"the model answers with {media_type}, a chat answer holds text: use another")


def _call(part: Json, number: int) -> Json:
    call = part["functionCall"]
    call_id = call.get("id") or f"call_{uuid.uuid4().hex[:24]}"
    arguments = msgspec.json.encode(call.get("args") or {}).decode()
    out = {"index": number, **tool_call(call_id, call["name"], arguments)}
    if part.get("thoughtSignature"):
        out["extra_content"] = {"google": {"thought_signature": part["thoughtSignature"]}}
    return out


@reads_answer
def answer_of_gemini(answer: Json, model: str) -> Json:
    """A GenerateContentResponse ({"candidates", "usageMetadata", "responseId"}) as a chat completion.

    Args:
        model: The model as it was asked for.

    Raises:
        BadAnswer: it is none, or the model's output is of no use.
        ProviderError: it is an error.
    """
    if "error" in answer:
        raise provider_error(answer)
    choices = [_choice(candidate, number) for number, candidate in enumerate(answer.get("candidates") or ())]
    if not choices:
        blocked = _blocked(answer)
        message = {"role": "assistant", "content": None, "refusal": blocked}
        choices = [{"index": 0, "message": message, "logprobs": None, "finish_reason": "content_filter"}]
    usage = usage_of_gemini(answer.get("usageMetadata") or {})
    return chat_answer(_answer_id(answer), model, choices, usage)


def _choice(candidate: Json, number: int) -> Json:
    said = _Said(candidate, 0)
    message: Json = {"role": "assistant", "content": "".join(said.content), "refusal": None}
    if said.calls:
        message["content"] = message["content"] or None
        message["tool_calls"] = [
            {name: value for name, value in call.items() if name != "index"} for call in said.calls
        ]
    if said.reasoning:
        message["reasoning_content"] = "".join(said.reasoning)
    finish_reason = _finish_reason(candidate["finishReason"], calls=bool(said.calls))
    index = candidate.get("index", number)
    return {"index": index, "message": message, "logprobs": None, "finish_reason": finish_reason}


def usage_of_gemini(usage: Json) -> Json:
    """Gemini counts thoughts beside the candidates' tokens, OpenAI among `completion_tokens`."""
    thoughts = usage.get("thoughtsTokenCount") or 0
    return chat_usage(
        prompt=(usage.get("promptTokenCount") or 0) + (usage.get("toolUsePromptTokenCount") or 0),
        cached=usage.get("cachedContentTokenCount") or 0,
        completion=(usage.get("candidatesTokenCount") or 0) + thoughts,
        reasoning=thoughts,
    )


class ChatStreamOfGemini:
    """Turns the events of a Gemini stream into chat chunks; the last one carries the usage.

    One stream is one machine.

    Args:
        model: The model as it was asked for.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._chunks: Chunks | None = None
        self._usage: Json = {}
        self._calls: dict[int, int] = {}
        """Calls so far, by the candidate that made them."""
        self._finished: set[int] = set()

    @property
    def finished(self) -> bool:
        """Every candidate that has begun has said why it stopped."""
        return bool(self._finished) and self._finished >= self._calls.keys()

    @reads_answer
    def feed(self, event: Any) -> list[Json]:
        """The chunks for one event, the decoded `data` of it.

        Raises:
            ProviderError: Gemini ends the stream with an error.
            BadAnswer: the event is not one, or the model's output is of no use.
        """
        if isinstance(event, list) or "error" in event:
            raise provider_error(event)
        if self._chunks is None:
            self._chunks = Chunks(_answer_id(event), self._model)
        if event.get("usageMetadata"):
            self._usage = event["usageMetadata"]
        chunks: list[Json] = []
        for candidate in event.get("candidates") or ():
            self._add(self._chunks, candidate, chunks)
        if not self._calls and (event.get("promptFeedback") or {}).get("blockReason"):
            self._calls[0] = 0
            self._finished.add(0)
            delta = {"role": "assistant", "content": "", "refusal": _blocked(event)}
            chunks.append(self._chunks.delta(delta, "content_filter"))
        return chunks

    @reads_answer
    def end(self) -> list[Json]:
        """The usage.

        Raises:
            BadStream: the stream ended before the model did.
        """
        if not self.finished or self._chunks is None:
            raise BadStream("Gemini ended its stream before the answer was whole: ask again")
        return [self._chunks.usage(usage_of_gemini(self._usage))]

    def _add(self, made: Chunks, candidate: Json, chunks: list[Json]) -> None:
        index = candidate.get("index", 0)
        if index not in self._calls:
            self._calls[index] = 0
            chunks.append(made.delta({"role": "assistant", "content": ""}, index=index))
        said = _Said(candidate, self._calls[index])
        self._calls[index] += len(said.calls)
        delta: Json = {}
        if said.reasoning:
            delta["reasoning_content"] = "".join(said.reasoning)
        if said.content:
            delta["content"] = "".join(said.content)
        if said.calls:
            delta["tool_calls"] = said.calls
        if delta:
            chunks.append(made.delta(delta, index=index))
        if candidate.get("finishReason"):
            self._finished.add(index)
            # In a chunk of its own, as OpenAI has it: the openai package misses the end of a call otherwise.
            reason = _finish_reason(candidate["finishReason"], calls=self._calls[index] > 0)
            chunks.append(made.delta({}, reason, index))


def _finish_reason(reason: str, *, calls: bool) -> str:
    if reason in USELESS:
        raise BadAnswer(f"Gemini ended the answer with {reason}: ask again, or simplify the tools")
    if calls and reason == "STOP":
        return "tool_calls"
    return FINISH_REASONS.get(reason, "content_filter")


def _blocked(answer: Json) -> str:
    reason = (answer.get("promptFeedback") or {}).get("blockReason")
    if reason is None:
        raise BadAnswer("Gemini gave no candidate and no reason: ask again")
    return f"Gemini blocked the prompt: {reason}."


def _answer_id(answer: Json) -> str:
    return f"chatcmpl-{answer.get('responseId') or uuid.uuid4().hex}"
