"""The OpenAI wire at the edge: reading a request, and saying what is wrong with it.

Errors have one shape: {"error": {"type", "code", "message", "param", "request_id"}}. Unknown fields of a
request pass through: the engine decides about them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Literal, TypeAlias, cast

from raymill.policies.errors import RaymillError
from raymill.serve.llm.answer import Body, Failure, encode

Operation: TypeAlias = Literal["chat", "completions"]
MAX_BODY_BYTES = 10 * 2**20

TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class Refused(RaymillError):
    """A request that ends here, with an HTTP status."""

    def __init__(self, status: int, code: str, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.headers: Mapping[str, str] = {}

    @classmethod
    def by_engine(cls, failure: Failure) -> Refused:
        return cls(failure.status, failure.code, failure.message, param=failure.param)


def error_body(refused: Refused, request_id: str) -> bytes:
    """The error as JSON. The type follows from the status, as the OpenAI packages expect."""
    status = refused.status
    kind = TYPES.get(status) or ("invalid_request_error" if status < 500 else "server_error")
    return encode(
        {
            "error": {
                "type": kind,
                "code": refused.code,
                "message": str(refused),
                "param": refused.param,
                "request_id": request_id,
            }
        }
    )


def parse(raw: bytes, operation: Operation) -> Body:
    """The request as a dict, with the few fields checked that the gateway itself reads.

    Raises:
        Refused: 400, naming the field.
    """
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "malformed_json", f"the body is not JSON: {error}: send a JSON object") from None
    if not isinstance(body, dict):
        raise Refused(400, "malformed_json", f"the body is a JSON {_kind(body)}: send an object")
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise _wrong("model", model, "name a model, such as one that GET /v1/models lists")
    if operation == "chat":
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
            raise _wrong("messages", messages, "send a list of at least one message object")
    elif not isinstance(body.get("prompt"), str | list) or not body["prompt"]:
        raise _wrong("prompt", body.get("prompt"), "send text")
    if body.get("stream") not in (None, True, False):
        raise _wrong("stream", body["stream"], "send true or false")
    if body.get("stream_options") is not None and not body.get("stream"):
        raise _wrong("stream_options", body["stream_options"], "leave it out, or set stream to true")
    return cast(Body, body)


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
