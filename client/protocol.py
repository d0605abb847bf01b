"""What the two clients share: requests and answers, without a connection.

Turns calls into httpx requests, and answers into typed results or errors.
"""

from __future__ import annotations

import hashlib
import json
import ssl
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, ValidationError

from raymill.client.endpoints import Call
from raymill.client.errors import ApiError, ServerAway, Unreachable, api_error
from raymill.client.retry import RETRIED_STATUSES
from raymill.client.session_auth import SessionAuth
from raymill.client.settings import LOOPBACK, ClientSettings
from raymill.client.types import ErrorEnvelope, JobEvent
from raymill.policies.errors import Invalid, RaymillError, Unavailable

Answer = TypeVar("Answer", bound=BaseModel)

TIMEOUT = httpx.Timeout(60.0, connect=5.0)
STREAM_TIMEOUT = httpx.Timeout(10.0, read=35.0)
"""The service sends a comment every 10 s; three missed ones mean that the connection is dead."""
CHUNK_BYTES = 1 << 20
END = "end"
"""Name of the event that closes a stream whose subject is over."""


def client_options(settings: ClientSettings) -> dict[str, object]:
    """Keyword arguments for `httpx.Client` and `httpx.AsyncClient`."""
    headers = {"Accept": "application/json"}
    if settings.api_key:
        headers["Authorization"] = f"Bearer {settings.api_key}"
    # A proxy from the environment cannot reach this machine's loopback interface.
    trust_env = urlsplit(settings.url).hostname not in LOOPBACK
    auth = SessionAuth(settings.url, settings.session_file) if settings.session_file is not None else None
    return {
        "base_url": settings.url,
        "headers": headers,
        "timeout": TIMEOUT,
        "trust_env": trust_env,
        "auth": auth,
        "verify": True if settings.ca_file is None else _trusting(settings.ca_file),
    }


def _trusting(ca_file: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError as error:
        raise Invalid(
            f"{ca_file} holds no certificate ({error.reason}): it must be PEM", param="RAYMILL_CA_FILE"
        ) from error


def request_of(
    http: httpx.Client | httpx.AsyncClient, call: Call[Answer], idempotency_key: str | None
) -> httpx.Request:
    """The request for `call`. A mutating one carries a key, so that sending it twice does it once."""
    headers = dict(call.headers)
    if call.method != "GET":
        headers["Idempotency-Key"] = idempotency_key or str(uuid.uuid4())
    return http.build_request(
        call.method,
        call.path,
        params=call.params,
        json=call.body.model_dump(mode="json") if call.body is not None else None,
        content=call.content,
        headers=headers,
        timeout=TIMEOUT if call.timeout_s is None else httpx.Timeout(call.timeout_s, connect=5.0),
    )


def stream_request(http: httpx.Client | httpx.AsyncClient, path: str, last_id: str | None) -> httpx.Request:
    headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
    if last_id is not None:
        headers["Last-Event-ID"] = last_id
    return http.build_request("GET", path, headers=headers, timeout=STREAM_TIMEOUT)


def answer_of(call: Call[Answer], response: httpx.Response) -> Answer:
    """The typed result.

    Raises:
        ApiError: the service said no.
        RaymillError: what answered is not this API.
    """
    check(response)
    try:
        return call.returns.model_validate_json(response.content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise RaymillError(
            f"{call.method} {call.path} answered something unexpected ({where}: {first['msg']}): "
            "check that RAYMILL_URL names a Raymill of this version"
        ) from None


def check(response: httpx.Response) -> None:
    """Raise the error that `response` (fully read) holds, if it does."""
    if response.is_success:
        return
    request_id = response.headers.get("x-request-id")
    try:
        body = ErrorEnvelope.model_validate_json(response.content).error
    except ValidationError:
        path = response.request.url.path
        said = f"{response.request.method} {path} answered {response.status_code} {response.reason_phrase}".rstrip()
        if response.status_code >= 500:
            # Not the service's own words: what stands before it answers so while a part starts.
            raise ServerAway(said, status=response.status_code, request_id=request_id) from None
        raise api_error(response.status_code, said, request_id=request_id) from None
    raise api_error(
        response.status_code,
        one_line(body.message),
        code=body.code,
        param=body.param,
        request_id=body.request_id or request_id,
    )


def one_line(text: str) -> str:
    return " ".join(text.split())


@contextmanager
def checked_file(target: Path, sha256: str) -> Iterator[Callable[[bytes], object]]:
    """Where to write the pieces of a file, which bears its name once it is whole.

    Raises:
        RaymillError: the bytes are others than `sha256` says.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    digest = hashlib.sha256()

    def write(chunk: bytes) -> None:
        digest.update(chunk)
        file.write(chunk)

    try:
        with partial.open("wb") as file:
            yield write
        if digest.hexdigest() != sha256:
            raise RaymillError(
                f"{target.name} arrived with sha256 {digest.hexdigest()[:12]}, {sha256[:12]} was registered: try again"
            )
        partial.rename(target)
    finally:
        partial.unlink(missing_ok=True)


def is_retried(error: RaymillError, call: Call[Answer]) -> bool:
    """Whether the same request may succeed in a moment, and may be sent twice."""
    match error:
        case ApiError():
            return call.repeatable and error.status in RETRIED_STATUSES
        case Unreachable():
            return call.repeatable or not error.arrived
    return False


def unreachable(url: str, error: httpx.TransportError) -> RaymillError:
    """What the user should know of a connection that failed. A certificate that is not taken is no outage."""
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        told = one_line(str(error)).partition("certificate verify failed: ")[2] or str(error)
        return Invalid(
            f"the certificate of {url} is not taken ({told}): set RAYMILL_CA_FILE to its authority's, or use a name "
            "that it is for",
            param="RAYMILL_CA_FILE",
        )
    if isinstance(error, httpx.ReadTimeout):
        # Not tried again at once: the service has the request, and is slow.
        return Unavailable(f"{url} did not answer in time: look at it with `raymill status`")
    reason = one_line(str(error)) or type(error).__name__
    return Unreachable(
        f"no answer from {url} ({reason}): start the service with `raymill up`, or set RAYMILL_URL",
        arrived=not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout),
    )


def lost_stream(url: str) -> Unreachable:
    """The stream ended although its subject has not."""
    return Unreachable(
        f"{url} closed the event stream too early: look at the service with `raymill status`", arrived=True
    )


def event_of(data: str) -> JobEvent:
    return JobEvent.model_validate_json(data)


def chat_delta(data: str) -> str | None:
    """The text that a chunk of `/v1/chat/completions` adds; None when the stream is over.

    Raises:
        ApiError: the engine failed in the middle of the answer.
    """
    if data == "[DONE]":
        return None
    chunk = json.loads(data)
    if "error" in chunk:
        error = chunk["error"]
        raise ServerAway(one_line(str(error.get("message", error))), status=502, code="upstream")
    choices = chunk.get("choices") or [{}]
    return str(choices[0].get("delta", {}).get("content") or "")
