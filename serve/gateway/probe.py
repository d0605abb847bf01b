"""Asks a provider whether it answers, and which models it has. Called by the control plane, not by requests.

One small seam to the outside: a blocking client, one deadline for all, no redirects, no proxy, as the gateway
itself. What goes wrong out there is a finding and not an error. Times are seconds unless a name says
milliseconds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, assert_never

import httpx

from raymill.registry.provider_settings import ProviderSettings, WireName

TIMEOUT_S = 10.0
MAX_ANSWER_BYTES = 16 << 20
MAX_PAGES = 20
PAGE_MODELS = 1000
MAX_MESSAGE_CHARS = 300


@dataclass(frozen=True, kw_only=True)
class Probed:
    """Whom to ask, and with which key."""

    wire: WireName
    base_url: str
    settings: ProviderSettings
    secret: str | None = field(default=None, repr=False)


class Finding(NamedTuple):
    """What came of it."""

    ok: bool
    status: int | None
    """HTTP status; None when there was no answer."""

    latency_ms: float
    message: str
    """Why it is not ok, in one line. Never holds the secret."""

    models: tuple[str, ...] = ()


def check(probed: Probed, *, timeout_s: float = TIMEOUT_S) -> Finding:
    """One GET that needs the key: of the models, or of what the provider has for this."""
    path = probed.settings.paths.get("check")
    if path is None:
        return list_models(probed, timeout_s=timeout_s)

    def work(visit: _Visit) -> tuple[str, ...]:
        visit.get(path)
        return ()

    return _visited(probed, work, timeout_s)


def list_models(probed: Probed, *, timeout_s: float = TIMEOUT_S) -> Finding:
    """Every model that the provider says it has, as its wire lists them."""
    path = probed.settings.paths.get("models")
    if path is None:
        return Finding(False, None, 0.0, "its settings name no list of models: set paths.models")
    return _visited(probed, lambda visit: _models(visit, probed.wire, path), timeout_s)


class _Unsatisfying(Exception):
    """A finding on its way, not an error of ours."""

    def __init__(self, status: int | None, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Visit:
    """One conversation with a provider, within one deadline."""

    def __init__(self, client: httpx.Client, probed: Probed, timeout_s: float) -> None:
        self._client = client
        self._probed = probed
        self._timeout_s = timeout_s
        self._deadline_s = time.monotonic() + timeout_s
        self.status: int | None = None

    def get(self, path: str, **query: str) -> Any:
        """The JSON at `path`. Raises _Unsatisfying when there is none."""
        probed = self._probed
        try:
            with self._client.stream(
                "GET",
                probed.base_url + path,
                params={**probed.settings.query, **query},
                headers=_headers(probed),
                timeout=max(0.01, self._deadline_s - time.monotonic()),
            ) as response:
                self.status = response.status_code
                body = self._read(response)
        except httpx.TimeoutException:
            raise self._too_slow() from None
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:  # the last: a name that is none
            reason = " ".join(str(error).split()) or type(error).__name__
            raise _Unsatisfying(None, f"no answer ({reason}): check base_url, and that it is up") from None
        if not 200 <= response.status_code < 300:
            raise _Unsatisfying(self.status, _complaint(response, body))
        try:
            return json.loads(body)
        except ValueError:
            raise _Unsatisfying(self.status, "its answer is no JSON: check base_url") from None

    def _read(self, response: httpx.Response) -> bytes:
        body = bytearray()
        for piece in response.iter_bytes():
            body += piece
            if len(body) > MAX_ANSWER_BYTES:
                raise _Unsatisfying(
                    self.status, f"its answer is over {MAX_ANSWER_BYTES} bytes: check base_url"
                )
            if time.monotonic() > self._deadline_s:
                raise self._too_slow()
        return bytes(body)

    def _too_slow(self) -> _Unsatisfying:
        return _Unsatisfying(
            self.status, f"not answered within {self._timeout_s:g} s: check base_url, and that it is up"
        )


def _visited(probed: Probed, work: Callable[[_Visit], tuple[str, ...]], timeout_s: float) -> Finding:
    started_s = time.monotonic()
    ok, message = True, ""
    models: tuple[str, ...] = ()
    # No proxy from the environment, which the gateway does not use either.
    with httpx.Client(trust_env=False, follow_redirects=False) as client:
        visit = _Visit(client, probed, timeout_s)
        try:
            models = work(visit)
            status = visit.status
        except _Unsatisfying as found:
            ok, status, message = False, found.status, _shown(str(found), probed.secret)
    return Finding(ok, status, (time.monotonic() - started_s) * 1000, message, models)


def _headers(probed: Probed) -> dict[str, str]:
    headers = {"accept": "application/json", "user-agent": "raymill", **probed.settings.headers}
    style = probed.settings.auth
    if probed.secret is not None and style == "bearer":
        headers["authorization"] = f"Bearer {probed.secret}"
    elif probed.secret is not None and style != "none":
        headers[style] = probed.secret
    return headers


def _models(visit: _Visit, wire: WireName, path: str) -> tuple[str, ...]:
    match wire:
        case "openai":
            answer = visit.get(path)
            # Most wrap the list; Together and GitHub do not.
            return _names(visit, answer.get("data") if isinstance(answer, dict) else answer, "id")
        case "anthropic":
            return _pages(visit, path, _ANTHROPIC)
        case "gemini":
            return tuple(name.removeprefix("models/") for name in _pages(visit, path, _GEMINI))
        case _:
            assert_never(wire)


class _Paging(NamedTuple):
    """How a wire lists models in pages."""

    items: str
    name: str
    size: str
    cursor: str
    next: Callable[[dict[str, Any]], object]
    """What the cursor of the next page is; something false after the last one."""


_ANTHROPIC = _Paging(
    "data", "id", "limit", "after_id", lambda page: page.get("has_more") and page.get("last_id")
)
_GEMINI = _Paging("models", "name", "pageSize", "pageToken", lambda page: page.get("nextPageToken"))


def _pages(visit: _Visit, path: str, paging: _Paging) -> tuple[str, ...]:
    found: list[str] = []
    query = {paging.size: str(PAGE_MODELS)}
    for _ in range(MAX_PAGES):
        page = visit.get(path, **query)
        if not isinstance(page, dict):
            raise _no_list(visit)
        found += _names(visit, page.get(paging.items), paging.name)
        cursor = paging.next(page)
        if not isinstance(cursor, str) or not cursor:
            break
        query[paging.cursor] = cursor
    return tuple(found)


def _names(visit: _Visit, items: object, key: str) -> tuple[str, ...]:
    if not isinstance(items, list):
        raise _no_list(visit)
    names = (item.get(key) for item in items if isinstance(item, dict))
    return tuple(name for name in names if isinstance(name, str) and name)


def _no_list(visit: _Visit) -> _Unsatisfying:
    return _Unsatisfying(visit.status, "its answer is no list of models: check base_url and paths.models")


def _complaint(response: httpx.Response, body: bytes) -> str:
    """What a refusal says in words, wherever the provider puts them."""
    status = response.status_code
    if 300 <= status < 400:
        return f"it answers {status}, a redirect: check base_url"
    try:
        said = json.loads(body)
    except ValueError:
        said = None
    said = said[0] if isinstance(said, list) and said else said
    for key in ("error", "message", "detail"):
        if isinstance(said, dict) and key in said:
            said = said[key]
    words = said if isinstance(said, str) else response.reason_phrase
    cure = ": check its key" if status in {401, 403} else ""
    return f"it answers {status} ({' '.join(words.split())}){cure}"


def _shown(message: str, secret: str | None) -> str:
    """`message` as it may be kept: short, and without the key, which some providers repeat."""
    if secret:
        message = message.replace(secret, "…")
    return message[:MAX_MESSAGE_CHARS]
