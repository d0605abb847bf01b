"""What can go wrong between two wires. Who is to blame decides which error it is.

RaymillError
├── Invalid
│   └── Untranslatable   the client asked for what the other wire cannot say
├── BadAnswer            what the provider sent is not what its API says
│   └── BadStream        (in sse) its stream is malformed, or ended too early
└── ProviderError        the provider itself reports an error inside an answer
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import msgspec

from raymill.policies.errors import Invalid, RaymillError

P = ParamSpec("P")
R = TypeVar("R")

STATUS_BY_TYPE = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""Of the Anthropic Messages API, whose error events carry no status."""

NO_REASON = "the provider told no reason"


STUMBLES = (AttributeError, IndexError, KeyError, TypeError, ValueError, RecursionError, msgspec.MsgspecError)


class Untranslatable(Invalid):
    """The other wire has no word for what `param` asks; nothing was dropped silently."""

    code = "untranslatable"


class BadAnswer(RaymillError):
    """The provider's answer is not what its API says. Another try, or another target, may help."""

    code = "bad_answer"


class ProviderError(RaymillError):
    """An error that the provider reports inside a stream, or in an answer with status 200."""

    def __init__(self, message: str, *, status: int, code: str) -> None:
        super().__init__(message)
        self.status = status
        """As an HTTP status; 502 when the provider gave none."""
        self.code = code


def provider_error(body: Any, status: int = 502) -> ProviderError:
    """The error that a provider's JSON tells, on whichever wire.

    Args:
        body: {"error": {"message", "type", "code"}} (OpenAI), {"type": "error", "error": {"type", "message"}}
            (Anthropic), {"error": {"code", "message", "status"}} (Gemini, also in a list), or anything.
        status: The HTTP status of the answer; used where the body tells none.
    """
    if isinstance(body, list) and body:
        body = body[0]
    error = body.get("error", body) if isinstance(body, dict) else body
    if not isinstance(error, dict):
        return ProviderError(str(error)[:500] or NO_REASON, status=status, code="provider_error")
    code = error.get("status") or error.get("type") or error.get("code") or "provider_error"
    number = error.get("code")
    if not isinstance(number, int) or not 400 <= number < 600:
        number = STATUS_BY_TYPE.get(str(code), status)
    message = error.get("message") or NO_REASON
    return ProviderError(str(message)[:2000], status=number, code=str(code))


def reads_answer(function: Callable[P, R]) -> Callable[P, R]:
    """What `function` stumbles over in a provider's answer becomes a BadAnswer.

    Answers come from outside, and checking every field before it is read would cost more than the reading.
    """

    @functools.wraps(function)
    def read(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except STUMBLES as error:
            raise BadAnswer(
                f"the provider's answer is not what its API says ({type(error).__name__}: {error}): ask again"
            ) from error

    return read
