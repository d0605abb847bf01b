"""Where the service is, and with which key to speak to it. Standard library only.

Asked in this order: arguments, `RAYMILL_URL`, `RAYMILL_API_KEY` and `RAYMILL_CA_FILE`, then what `raymill up` left in its
home: `service.json` (`{"url": …}`) and `keys/admin.key`. Before that key comes the login of `raymill login`; no other
machine is sent it.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from raymill.client.session_file import SessionFile
from raymill.policies.errors import Invalid
from raymill.registry.home import default_home

DEFAULT_URL = "http://127.0.0.1:8000"
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True, kw_only=True)
class ClientSettings:
    """How to reach the service."""

    url: str
    """Without a trailing slash."""

    api_key: str | None = field(repr=False)
    """None: no key was found; the service will then refuse."""

    session_file: SessionFile | None = field(default=None, repr=False)
    """Where the login for this service lies; None: there is none, or a key was given."""

    ca_file: Path | None = None
    """The authority whose certificates are taken, and no other; None: those that everybody takes."""


def load_settings(
    url: str | None = None, api_key: str | None = None, *, home: Path | None = None
) -> ClientSettings:
    """Fill what was not given from the environment, then from the service's home.

    Raises:
        Invalid: the URL is none, a file of the home cannot be read, or the authority's is not there.
    """
    home = home or default_home()
    found = url or os.environ.get("RAYMILL_URL") or _url_of(home / "service.json") or DEFAULT_URL
    if not found.startswith(("http://", "https://")):
        raise Invalid(f"service address {found!r} is no URL: write it as {DEFAULT_URL}", param="RAYMILL_URL")
    found = found.rstrip("/")
    key = api_key or os.environ.get("RAYMILL_API_KEY")
    file = SessionFile(home)
    ca = os.environ.get("RAYMILL_CA_FILE")
    ca_file = Path(ca) if ca else None
    if ca_file is not None and not ca_file.is_file():
        raise Invalid(
            f"{ca_file} is no file: name the authority's certificate (PEM)", param="RAYMILL_CA_FILE"
        )
    if key is None and file.get(found) is not None:
        return ClientSettings(url=found, api_key=None, session_file=file, ca_file=ca_file)
    if key is None and (urlsplit(found).hostname in LOOPBACK or _is_own(found, home)):
        key = _read(home / "keys" / "admin.key")
    return ClientSettings(url=found, api_key=key, ca_file=ca_file)


def _is_own(url: str, home: Path) -> bool:
    with suppress(Invalid):
        return url == _url_of(home / "service.json")
    return False


def _read(path: Path) -> str | None:
    """The file's text, None when there is no such file or it is another user's."""
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None


def _url_of(path: Path) -> str | None:
    text = _read(path)
    if text is None:
        return None
    try:
        url = json.loads(text)["url"]
    except (ValueError, KeyError, TypeError):
        raise Invalid(
            f'{path} is damaged: it should hold {{"url": "{DEFAULT_URL}"}}; set RAYMILL_URL'
        ) from None
    return str(url)
