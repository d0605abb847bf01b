"""Making chat answers: the parts that answers from every other wire have in common.

Source: OpenAI API reference, Chat Completions (the chat completion object, the chunk object).
"""

from __future__ import annotations

import time

from raymill.serve.gateway.wires.shape import Json
from raymill.serve.gateway.wires.sse import BadStream


class Chunks:
    """Makes the chunks of one streamed answer."""

    def __init__(self, answer_id: str, model: str) -> None:
        self._head: Json = {
            "id": answer_id,
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model,
        }

    def delta(self, delta: Json, finish_reason: str | None = None, index: int = 0) -> Json:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._head | {"choices": [choice]}

    def usage(self, usage: Json) -> Json:
        """The last chunk: no choice, only what it cost."""
        return self._head | {"choices": [], "usage": usage}


def chat_answer(answer_id: str, model: str, choices: list[Json], usage: Json | None) -> Json:
    """A whole answer."""
    answer: Json = {
        "id": answer_id,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": choices,
    }
    if usage is not None:
        answer["usage"] = usage
    return answer


def chat_usage(
    *,
    prompt: int,
    cached: int,
    completion: int,
    reasoning: int | None = None,
    cache_written: int | None = None,
) -> Json:
    """Tokens as OpenAI counts them: `prompt` holds the cached ones, `completion` the reasoning."""
    prompt_details = {"cached_tokens": cached}
    if cache_written is not None:
        prompt_details["cache_write_tokens"] = cache_written
    usage: Json = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": prompt_details,
    }
    if reasoning is not None:
        usage["completion_tokens_details"] = {"reasoning_tokens": reasoning}
    return usage


def tool_call(call_id: str, name: str, arguments: str) -> Json:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def reasoning_of(message: Json) -> str:
    """The reasoning that some servers hand out beside the answer (DeepSeek, vLLM, OpenRouter)."""
    text = message.get("reasoning_content") or message.get("reasoning")
    return text if isinstance(text, str) else ""


class CallCursor:
    """Which tool call of a stream is being written: other wires close one before they open the next."""

    def __init__(self) -> None:
        self.number = -1
        """Of the call, by the provider's index; -1 while none is open."""
        self._id: str | None = None
        self._seen: set[int] = set()

    def begins(self, call: Json) -> bool:
        """Whether this delta of a tool call begins a new call.

        Raises:
            BadStream: it goes on with a call that was left already.
        """
        call_id = call.get("id")
        number = call.get("index")
        if number is None:
            # Some servers leave the index out: then a new id is a new call.
            same = self.number >= 0 and call_id in (None, self._id)
            number = self.number if same else len(self._seen)
        if number == self.number:
            return False
        if number in self._seen:
            raise BadStream("the provider mixes the arguments of several tool calls: ask again")
        self._seen.add(number)
        self.number, self._id = number, call_id
        return True

    def leave(self) -> None:
        """Something else begins."""
        self.number = -1
