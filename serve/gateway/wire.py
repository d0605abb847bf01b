"""The wires at the edge: reading a request, and saying what is wrong with it in the client's own shape.

OpenAI:     {"error": {"type", "code", "message", "param", "request_id"}}
Anthropic:  {"type": "error", "error": {"type", "message"}, "request_id"}

Unknown fields of a request pass through: the upstream decides about them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

import msgspec

from raymill.policies.errors import RaymillError
from raymill.serve.llm.answer import Body, Failure

Operation: TypeAlias = Literal["chat", "completions", "embeddings", "responses", "messages"]
MAX_BODY_BYTES = 32 * 2**20

OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
TEXT_FIELD: dict[Operation, str] = {
    "chat": "messages",
    "completions": "prompt",
    "embeddings": "input",
    "responses": "input",
    "messages": "messages",
}

_decode = msgspec.json.Decoder().decode
encode = msgspec.json.Encoder().encode


class Refused(RaymillError):
    """A request that ends here, with an HTTP status."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.headers: Mapping[str, str] = headers or {}

    @classmethod
    def by_engine(cls, failure: Failure) -> Refused:
        return cls(failure.status, failure.code, failure.message, param=failure.param)


@dataclass(slots=True)
class Ask:
    """A well-formed request."""

    operation: Operation
    body: Body
    """As the client sent it; a preset's defaults are merged in."""

    model: str
    """The name that was asked for."""

    stream: bool
    size_bytes: int
    passed: bytes = b""
    """Header lines that go to an upstream of the same wire."""

    @property
    def wants_usage(self) -> bool:
        """Whether the client asked for the usage chunk of a stream."""
        options = self.body.get("stream_options")
        return isinstance(options, dict) and bool(options.get("include_usage"))


def error_body(refused: Refused, request_id: str, operation: Operation = "chat") -> bytes:
    """The error as JSON. The type follows from the status, as the clients' packages expect."""
    status = refused.status
    if operation == "messages":
        kind = ANTHROPIC_TYPES.get(status) or ("invalid_request_error" if status < 500 else "api_error")
        error: dict[str, Any] = {"type": kind, "message": str(refused)}
        return encode({"type": "error", "error": error, "request_id": request_id})
    kind = OPENAI_TYPES.get(status) or ("invalid_request_error" if status < 500 else "server_error")
    error = {
        "type": kind,
        "code": refused.code,
        "message": str(refused),
        "param": refused.param,
        "request_id": request_id,
    }
    return encode({"error": error})


def parse_object(raw: bytes) -> dict[str, Any]:
    """The body as a dict.

    Raises:
        Refused: 400, it is no JSON object.
    """
    try:
        body = _decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(400, "malformed_json", f"the body is not JSON: {error}: send a JSON object") from None
    if not isinstance(body, dict):
        raise Refused(400, "malformed_json", f"the body is a JSON {_kind(body)}: send an object")
    return cast(dict[str, Any], body)


def parse(raw: bytes, operation: Operation, *, counting: bool = False) -> Ask:
    """The request, with the few fields checked that the gateway itself reads.

    Args:
        counting: only to count its tokens, so it needs no limit for the answer.

    Raises:
        Refused: 400, naming the field.
    """
    ask = checked(parse_object(raw), operation, len(raw))
    if operation == "messages" and not counting and not _is_count(ask.body.get("max_tokens")):
        raise _wrong("max_tokens", ask.body.get("max_tokens"), "say how many tokens the answer may have")
    return ask


def checked(body: dict[str, Any], operation: Operation, size_bytes: int) -> Ask:
    """As `parse`, of a body that is decoded already."""
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise _wrong("model", model, "name a model, such as one that GET /v1/models lists")
    field = TEXT_FIELD[operation]
    text = body.get(field)
    if field == "messages":
        if not isinstance(text, list) or not text or not all(isinstance(each, dict) for each in text):
            raise _wrong("messages", text, "send a list of at least one message object")
    elif not isinstance(text, str | list) or not text:
        raise _wrong(field, text, "send text")
    stream = body.get("stream")
    if stream not in (None, True, False):
        raise _wrong("stream", stream, "send true or false")
    if body.get("stream_options") is not None and not stream:
        raise _wrong("stream_options", body["stream_options"], "leave it out, or set stream to true")
    return Ask(operation=operation, body=body, model=model, stream=bool(stream), size_bytes=size_bytes)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _wrong(param: str, value: object, cure: str) -> Refused:
    shown = "missing" if value is None else f"a JSON {_kind(value)} that cannot be used"
    if isinstance(value, str | list) and not value:
        shown = "empty"
    return Refused(400, "invalid_request", f"{param} is {shown}: {cure}", param=param)


def _kind(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    names = {str: "string", int: "number", float: "number", list: "array", dict: "object"}
    return names.get(type(value), "value")
