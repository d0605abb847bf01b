"""What can go wrong at a target, and what it means: for the key, for the target, and for the client.

what happened                         the key       the target            the client sees
idle, and being started               -             the next              503 engine_waking
408 425 429 5xx 529, reset, timeout   rests (429)   again, then the next  502, 503, 504 or 429 at the end
401 403                               rests         other key, then next  502 at the end
404                                   -             the next              404 at the end
other 4xx                             -             -                     the same status and message
cannot be said on the target's wire   -             the next              400, when no other was asked
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from raymill.cluster.retry_after import retry_after_s
from raymill.policies.errors import RaymillError, Unavailable
from raymill.serve.gateway.catalog import Target
from raymill.serve.gateway.health import REFUSED_KEY_S
from raymill.serve.gateway.http_client import ConnectFailed, HttpError, TimedOut
from raymill.serve.gateway.upstream import EngineFailed, Waking
from raymill.serve.gateway.wire import Refused
from raymill.serve.gateway.wires.errors import BadAnswer, ProviderError

AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
KEY_REFUSED = frozenset({401, 403})
WAKING_RETRY_S = 5
MAX_ERROR_CHARS = 500
MISHAPS = (HttpError, TimeoutError, Unavailable, BadAnswer, ProviderError, EngineFailed)
"""What can go wrong with an answer that has not begun, or that had."""


class Failed(Exception):
    """One try at one target."""

    def __init__(
        self,
        refused: Refused,
        *,
        again: bool = False,
        other_key: bool = False,
        final: bool = False,
        unsaid: bool = False,
        after_s: float | None = None,
        key_rest_s: float = 0.0,
        blameless: bool = False,
    ) -> None:
        super().__init__(str(refused))
        self.refused = refused
        self.again = again
        self.other_key = other_key
        self.final = final
        """The client is to blame: no other target would say otherwise."""
        self.unsaid = unsaid
        """The target was not asked: the request cannot be said on its wire."""
        self.after_s = after_s
        self.key_rest_s = key_rest_s
        self.blameless = blameless
        """It says nothing of the target's health."""


def refused_by(target: Target, status: int, headers: Mapping[bytes, bytes], data: bytes) -> Failed:
    """What an HTTP error of a provider means."""
    message = shown(target, f"{target.id} answered {status}: {message_of(data)}")
    after_s = retry_after_s(headers)
    if status in KEY_REFUSED:
        # Not in the provider's words: they often repeat the key.
        refused = Refused(
            502,
            "provider_key_refused",
            f"{target.id} answered {status}, it refuses our key: an administrator has to check it with "
            "`raymill provider test`",
        )
        return Failed(refused, other_key=True, key_rest_s=REFUSED_KEY_S)
    if status == 429:
        wait = {"retry-after": str(max(1, round(after_s)))} if after_s is not None else {}
        refused = Refused(429, "provider_rate_limited", f"{message}: try again later", headers=wait)
        rest_s = after_s if after_s is not None else 1.0
        return Failed(refused, again=True, other_key=True, after_s=after_s, key_rest_s=rest_s)
    if status in AGAIN or status >= 500:
        code = 504 if status in {408, 504} else 502
        return Failed(Refused(code, "provider_error", message), again=True, after_s=after_s)
    if status == 404:
        return Failed(Refused(404, "provider_model_not_found", message, param="model"))
    if status < 400:
        return Failed(Refused(502, "provider_error", f"{message}: redirects are not followed"))
    return Failed(Refused(status, "refused_by_provider", message), final=True)


def _by_status(status: int, text: str) -> Failed:
    """An error that was reported inside an answer."""
    client_fault = 400 <= status < 500 and status not in AGAIN and status not in KEY_REFUSED and status != 404
    if client_fault:
        return Failed(Refused(status, "refused_by_provider", text), final=True)
    return Failed(Refused(429 if status == 429 else 502, "provider_error", text), again=True)


def failed_by(target: Target, error: Exception) -> Failed:
    """What any other mishap means."""
    if isinstance(error, EngineFailed):
        failure = error.failure
        return Failed(Refused.by_engine(failure), again=failure.status >= 500, final=failure.status < 500)
    if isinstance(error, TimedOut | TimeoutError):
        text = str(error) or "it did not answer in time: raise the route's timeouts"
        return Failed(Refused(504, "upstream_timeout", f"{target.id}: {text}"), again=True)
    if isinstance(error, ProviderError):
        return _by_status(error.status, shown(target, f"{target.id} reports: {str(error)[:MAX_ERROR_CHARS]}"))
    if isinstance(error, Waking):
        refused = Refused(503, error.code, str(error), headers={"retry-after": str(WAKING_RETRY_S)})
        return Failed(refused, blameless=True)
    if isinstance(error, Unavailable):
        refused = Refused(503, "engine_unavailable", str(error), headers={"retry-after": "1"})
        return Failed(refused, again=True)
    code = error.code if isinstance(error, RaymillError) else "upstream_error"
    status = 503 if isinstance(error, ConnectFailed) else 502
    return Failed(Refused(status, code, f"{target.id}: {error}"), again=True)


def shown(target: Target, text: str) -> str:
    """A provider's words without our keys, which it may repeat."""
    for secret in target.provider.secrets if target.provider is not None else ():
        text = text.replace(secret.value, "…")
    return text


def message_of(data: bytes) -> str:
    """The words in an error body of whatever shape."""
    try:
        body = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return " ".join(data[:MAX_ERROR_CHARS].decode(errors="replace").split()) or "no explanation"
    if isinstance(body, list) and body:  # Gemini's streams begin with a list
        body = body[0]
    error = body.get("error", body) if isinstance(body, dict) else body
    text = error.get("message") if isinstance(error, dict) else error
    return " ".join(str(text or body).split())[:MAX_ERROR_CHARS]
