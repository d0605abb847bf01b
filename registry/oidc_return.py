"""Where a browser may come back to from an identity provider: a command that listens on its machine, or the console.

The provider goes by its own list of addresses, exactly; what is asked here keeps a login that one kind of client began from
being finished by the other.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import SplitResult, urlsplit

from raymill.policies.errors import Invalid

COMMAND = "/callback"
CONSOLE = "/console/signed-in"
"""How the paths of both end; a proxy may put another before the console's."""


LOCALHOST = "localhost"


def check_command(redirect_uri: str) -> None:
    """Raises Invalid: it is no `http://127.0.0.1:PORT/callback`, on the machine that logs in (RFC 8252, section 7.3)."""
    parts = _parts(redirect_uri)
    here = parts.hostname != LOCALHOST and is_loopback(
        parts.hostname
    )  # RFC 8252, section 8.3: an address, no name
    if parts.scheme != "http" or not (here and _plain(parts)) or parts.path != COMMAND:
        raise Invalid(
            f"redirect_uri is {redirect_uri[:80]!r}: give http://127.0.0.1:PORT/callback",
            param="redirect_uri",
        )


def check_console(redirect_uri: str, origin: str | None) -> None:
    """Raises Invalid: it is not the console's of `origin`, from which the page asks, or that speaks no TLS and is not this machine's."""
    parts = _parts(redirect_uri)
    safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname))
    if (
        not (safe and _plain(parts) and parts.path.endswith(CONSOLE))
        or f"{parts.scheme}://{parts.netloc}" != origin
    ):
        raise Invalid(
            f"redirect_uri is {redirect_uri[:80]!r}, asked from {origin}: give ORIGIN{CONSOLE}, with https unless it is "
            "this machine",
            param="redirect_uri",
        )


def is_loopback(host: str | None) -> bool:
    """An address of this machine, or `localhost`."""
    if host == LOCALHOST:
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def leads_to(redirect_uri: str, path: str) -> bool:
    """Whether the browser comes back to a path that ends so."""
    return _parts(redirect_uri).path.endswith(path)


def _plain(parts: SplitResult) -> bool:
    return not (parts.query or parts.fragment or parts.username or parts.password)


def _parts(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:  # brackets that do not match
        return urlsplit("")
