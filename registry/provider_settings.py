"""What the gateway must know of a provider to speak to it, and the presets that ship as data.

A quirk is a field here and a value in `providers.toml`, never a branch in the code. Light: pydantic and the
standard library alone. Secrets do not belong in settings; they are keys of the provider.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import tomllib
from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias
from urllib.parse import urlencode, urlsplit

from pydantic import BaseModel, ConfigDict, field_validator

from raymill.policies.errors import Invalid

JsonObject = dict[str, Any]

OURS = "raymill"
"""As a provider's name: the versions that this service serves itself. No provider may be called so."""

AuthStyle: TypeAlias = Literal["bearer", "x-api-key", "api-key", "x-goog-api-key", "none"]
WireName: TypeAlias = Literal["openai", "anthropic", "gemini"]
PathName: TypeAlias = Literal[
    "chat",
    "chat_stream",
    "completions",
    "embeddings",
    "responses",
    "messages",
    "count_tokens",
    "models",
    "check",
]

PATH = re.compile(r"/[A-Za-z0-9._~:@{}/-]*")
HEADER_NAME = re.compile(r"[A-Za-z0-9-]{1,64}")
PRINTABLE = re.compile(r"[\x20-\x7e]{0,500}")
LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
SECRETIVE = re.compile(r"key|token|secret|password|authorization|cookie|signature", re.IGNORECASE)
OWN_HEADERS = frozenset(
    {"host", "content-length", "content-type", "transfer-encoding", "connection", "accept"}
)
MAX_URL_CHARS = 300


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ProviderSettings(Section):
    """How one provider is spoken to. Everything else about it is its wire, its base_url and its keys."""

    auth: AuthStyle = "bearer"
    """How a key is sent: `Authorization: Bearer KEY`, or a header of this name that holds the key alone."""

    needs_key: bool = True
    """Whether it refuses a request without a key."""

    paths: dict[PathName, str] = {}
    """Operation -> path behind base_url; one that is left out is not offered. `{model}` stands for the model.
    `check` is a GET that only a good key may make, where `models` is open to everyone."""

    query: dict[str, str] = {}
    """Sent with every request, such as api-version."""

    headers: dict[str, str] = {}
    """Sent with every request, such as anthropic-version."""

    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the longest answer is called in a chat request. The other spelling is renamed to it."""

    stream_usage: bool = True
    """Whether it takes `stream_options.include_usage`. Those that do not tell the usage unasked, or never."""

    drop: tuple[str, ...] = ()
    """Fields of a request that it refuses: left out instead."""

    @cached_property
    def query_string(self) -> str:
        """`?a=b`, or empty."""
        return f"?{urlencode(self.query)}" if self.query else ""

    @field_validator("paths")
    @classmethod
    def _paths_stay_on_the_host(cls, paths: dict[str, str]) -> dict[str, str]:
        for name, path in paths.items():
            if not PATH.fullmatch(path) or ".." in path:
                raise ValueError(f"path {name} is {path!r}: write it as /chat/completions, without a query")
        return paths

    @field_validator("headers", "query")
    @classmethod
    def _names_hold_no_secret(cls, values: dict[str, str]) -> dict[str, str]:
        for name, value in values.items():
            if SECRETIVE.search(name):
                raise ValueError(f"{name} looks like a secret, which settings show: set it as a key instead")
            if not HEADER_NAME.fullmatch(name) or name.lower() in OWN_HEADERS:
                raise ValueError(f"{name!r} cannot be set here: remove it")
            if not PRINTABLE.fullmatch(value):
                raise ValueError(f"the value of {name} must be at most 500 printable ASCII characters")
        return values


class ProviderPreset(Section):
    """A known provider, as data."""

    wire: WireName
    base_url: str | None = None
    """None where everybody has an address of their own."""

    settings: ProviderSettings


@cache
def presets() -> Mapping[str, ProviderPreset]:
    """Every preset of `providers.toml`, by name."""
    text = Path(__file__).with_name("providers.toml").read_text(encoding="utf-8")
    return {name: _preset(entry) for name, entry in tomllib.loads(text).items()}


def _preset(entry: JsonObject) -> ProviderPreset:
    """An entry of the file: wire and base_url stand beside the settings there."""
    settings = {name: value for name, value in entry.items() if name not in {"wire", "base_url"}}
    return ProviderPreset.model_validate(
        {"wire": entry["wire"], "base_url": entry.get("base_url"), "settings": settings}
    )


def checked_base_url(url: str) -> str:
    """`url` without a slash at its end.

    Raises:
        Invalid: it is no http or https address, or holds a password, a query or a fragment, or names a
            link-local address, where a cloud's machines keep their own credentials and no provider lives.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        parts, host = urlsplit(""), ""
    if parts.username is not None or parts.password is not None:
        raise Invalid(
            "base_url holds a user or a password: remove them, and set the secret as a key", param="base_url"
        )
    if parts.scheme not in {"http", "https"} or not _is_host(host) or not _is_plain(url):
        raise Invalid(f"{url[:100]!r} is no address: write it as https://host/path", param="base_url")
    if parts.query or parts.fragment or "?" in url or "#" in url:
        raise Invalid(f"{url!r} holds more than an address: put queries into settings", param="base_url")
    if _is_link_local(host):
        raise Invalid(f"{host} is a link-local address: name the provider's own", param="base_url")
    return url.rstrip("/")


def _is_plain(url: str) -> bool:
    return len(url) <= MAX_URL_CHARS and url.isascii() and not re.search(r"[\s\x00-\x1f\x7f\\]", url)


def _is_host(host: str) -> bool:
    """An IP address or a name that can be looked up."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return len(host) <= 253 and all(LABEL.fullmatch(label) for label in host.split("."))
    return True


def _is_link_local(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        try:
            address = ipaddress.IPv4Address(socket.inet_aton(host))  # 0xa9fea9fe is one too
        except OSError:
            return False
    mapped = getattr(address, "ipv4_mapped", None)
    return address.is_link_local or (mapped is not None and mapped.is_link_local)


def merge_patch(target: JsonObject, patch: JsonObject) -> JsonObject:
    """JSON Merge Patch (RFC 7396): objects are merged, null removes, everything else replaces."""
    merged = dict(target)
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, dict):
            below = merged.get(name)
            merged[name] = merge_patch(below if isinstance(below, dict) else {}, value)
        else:
            merged[name] = value
    return merged
