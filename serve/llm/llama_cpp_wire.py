"""The OpenAI wire for llama.cpp: reading a request, shaping an answer.

What is not understood is refused by name, so nobody takes an ignored parameter for an applied one; unless
leaving it out changes no token.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from raymill.serve.llm.answer import Body, Failure

SAMPLING = {
    # As vLLM and OpenAI default, not as llama-cpp-python does (0.2, 0.95, 40, 0.05).
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
WITHOUT_EFFECT = {"model", "messages", "prompt", "stream", "stream_options", "user", "metadata", "store", "n"}
READ = {"max_tokens", "max_completion_tokens", "stop", "seed", "response_format"} | set(SAMPLING)


class Model(Protocol):
    """What reading a request needs of the model."""

    max_model_len: int

    def chat_tokens(self, messages: list[dict[str, Any]]) -> list[int]: ...
    def text_tokens(self, text: str) -> list[int]: ...


@dataclass(frozen=True, kw_only=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int

    def wire(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }


@dataclass(frozen=True, kw_only=True)
class Step:
    """A piece of the answer, and the usage up to it."""

    text: str
    finish_reason: str | None
    usage: Usage


@dataclass(frozen=True, kw_only=True)
class Call:
    """A request, understood."""

    prompt: list[int]
    max_tokens: int
    stop: list[str]
    seed: int | None
    sampling: dict[str, float]
    json_schema: dict[str, Any] | None
    """None is free text; {} is any JSON object."""

    include_usage: bool


class Wire(Protocol):
    """One of the two shapes of the OpenAI wire."""

    def prompt(self, body: Body, model: Model) -> list[int]: ...
    def default_max_tokens(self, room: int) -> int: ...
    def whole(self, text: str, finish_reason: str, usage: Usage) -> dict[str, Any]: ...
    def opening(self) -> dict[str, Any] | None: ...
    def piece(self, text: str, finish_reason: str | None) -> dict[str, Any]: ...
    def usage(self, usage: Usage) -> dict[str, Any]: ...


class ChatWire:
    def __init__(self, model: str) -> None:
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    def prompt(self, body: Body, model: Model) -> list[int]:
        messages: Any = body["messages"]
        return model.chat_tokens([_flat(message) for message in messages])

    def default_max_tokens(self, room: int) -> int:
        return room

    def whole(self, text: str, finish_reason: str, usage: Usage) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
        return self._head | {"object": "chat.completion", "choices": [choice], "usage": usage.wire()}

    def opening(self) -> dict[str, Any] | None:
        return self._chunk({"role": "assistant", "content": ""}, None)

    def piece(self, text: str, finish_reason: str | None) -> dict[str, Any]:
        return self._chunk({"content": text} if text else {}, finish_reason)

    def usage(self, usage: Usage) -> dict[str, Any]:
        return self._head | {"object": "chat.completion.chunk", "choices": [], "usage": usage.wire()}

    def _chunk(self, delta: dict[str, str], finish_reason: str | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._head | {"object": "chat.completion.chunk", "choices": [choice]}


class TextWire:
    def __init__(self, model: str) -> None:
        self._head = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
        }

    def prompt(self, body: Body, model: Model) -> list[int]:
        prompt: Any = body["prompt"]
        if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str):
            prompt = prompt[0]
        if isinstance(prompt, list) and all(type(token) is int for token in prompt):
            return prompt
        if not isinstance(prompt, str):
            raise ValueError("prompt holds several prompts: send one in each request")
        return model.text_tokens(prompt)

    def default_max_tokens(self, room: int) -> int:
        return min(16, room)  # as the OpenAI wire says

    def whole(self, text: str, finish_reason: str, usage: Usage) -> dict[str, Any]:
        return self.piece(text, finish_reason) | {"usage": usage.wire()}

    def opening(self) -> dict[str, Any] | None:
        return None

    def piece(self, text: str, finish_reason: str | None) -> dict[str, Any]:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}
        return self._head | {"choices": [choice]}

    def usage(self, usage: Usage) -> dict[str, Any]:
        return self._head | {"choices": [], "usage": usage.wire()}


def read_call(body: Body, wire: Wire, model: Model) -> Call | Failure:
    """Understand the request, or say which field cannot be served."""
    unknown = [
        name for name, value in body.items() if value is not None and name not in READ | WITHOUT_EFFECT
    ]
    if unknown:
        message = f"{unknown[0]} is not supported by engine llama_cpp: leave it out or serve by vllm"
        return Failure(400, "unsupported_parameter", message, unknown[0])
    try:
        _single(body)
        prompt = wire.prompt(body, model)
        room = model.max_model_len - len(prompt)
        if room < 1:
            raise ValueError(
                f"prompt is {len(prompt)} tokens, the model holds {model.max_model_len}: shorten it"
            )
        asked = body.get("max_completion_tokens") or body.get("max_tokens")
        max_tokens = wire.default_max_tokens(room) if asked is None else _integer("max_tokens", asked, 1)
        if max_tokens > room:
            raise ValueError(
                f"max_tokens {max_tokens} and a prompt of {len(prompt)} tokens are more than the "
                f"{model.max_model_len} the model holds: ask for at most {room}"
            )
        return Call(
            prompt=prompt,
            max_tokens=max_tokens,
            stop=_stop(body.get("stop")),
            seed=None if body.get("seed") is None else _integer("seed", body["seed"], 0),
            sampling={name: _number(name, body.get(name), default) for name, default in SAMPLING.items()},
            json_schema=_schema(body.get("response_format")),
            include_usage=_include_usage(body.get("stream_options")),
        )
    except ValueError as error:
        return Failure(400, "invalid_request", str(error), str(error).split(" ", 1)[0])


def _single(body: Body) -> None:
    if body.get("n") not in (None, 1):
        raise ValueError(f"n is {body['n']!r}: engine llama_cpp gives one answer at a time, use 1")


def _flat(message: dict[str, Any]) -> dict[str, Any]:
    """Content given as parts becomes text, as templates expect."""
    content = message.get("content")
    if not isinstance(content, list):
        return message
    if not all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        raise ValueError("messages hold a part that is not text: engine llama_cpp reads text only")
    return message | {"content": "".join(str(part.get("text", "")) for part in content)}


def _number(name: str, value: object, default: float) -> float:
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} is {value!r}: send a number")
    return value


def _integer(name: str, value: object, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} is {value!r}: send a whole number of at least {least}")
    return value


def _stop(value: object) -> list[str]:
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        raise ValueError(f"stop is {value!r}: send a text or a list of texts")
    return stops


def _include_usage(options: object) -> bool:
    return isinstance(options, dict) and bool(options.get("include_usage"))


def _schema(response_format: Any) -> dict[str, Any] | None:
    if response_format is None:
        return None
    shapes: dict[str, Callable[[], dict[str, Any] | None]] = {
        "text": lambda: None,
        "json_object": dict,
        "json_schema": lambda: dict(response_format["json_schema"]["schema"]),
    }
    kind = response_format.get("type") if isinstance(response_format, dict) else None
    if kind not in shapes:
        raise ValueError(f"response_format type is {kind!r}: use one of {', '.join(shapes)}")
    try:
        return shapes[kind]()
    except (KeyError, TypeError):
        raise ValueError("response_format json_schema has no schema: send json_schema.schema") from None
