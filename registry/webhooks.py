"""Signatures of webhooks, in and out: `x-raymill-signature: t=<unix>,v1=<hex hmac-sha256 of "t.body">`.

The time is signed too, so that a request someone recorded is good for a few minutes only. Knows no database and
no HTTP client. Times are whole seconds since 1970.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time

from raymill.policies.errors import Denied

SIGNATURE_HEADER = "x-raymill-signature"
DELIVERY_HEADER = "x-raymill-delivery"
EVENT_HEADER = "x-raymill-event"

TOLERANCE_S = 300
MAX_BODY_BYTES = 256 << 10
MAX_HEADER_CHARS = 1000

_TIME = re.compile(r"[0-9]{1,12}")


class WrongSignature(Denied):
    """Whoever sent it does not have the secret, or it is too old."""

    code = "wrong_signature"


def new_secret() -> str:
    """256 random bits; the prefix lets scanners of repositories know it."""
    return f"rmwh-{secrets.token_urlsafe(32)}"


def sign(secret: str, body: bytes, at: int | None = None) -> str:
    """The header's value. `at` is now unless a test says otherwise."""
    moment = int(time.time()) if at is None else at
    return f"t={moment},v1={_mac(secret, body, moment)}"


def check(secret: str, header: str, body: bytes, *, now: float | None = None) -> None:
    """Whether `header` signs `body`. Several `v1` are allowed, so that a sender can change its secret.

    Raises:
        WrongSignature: it does not, or its time is more than five minutes from ours.
    """
    parts = [part.strip().partition("=") for part in header[:MAX_HEADER_CHARS].split(",")]
    times = [value for name, _, value in parts if name == "t" and _TIME.fullmatch(value)]
    given = [value for name, _, value in parts if name == "v1"]
    if len(times) != 1 or not given:
        raise WrongSignature(
            f"{SIGNATURE_HEADER} is missing or malformed: send t=<unix time>,v1=<hex hmac-sha256 of t.body>"
        )
    moment = int(times[0])
    expected = _mac(secret, body, moment).encode()
    # All of them are compared, and each in constant time: how long it takes says nothing of the secret.
    fits = [hmac.compare_digest(expected, value.encode(errors="replace")) for value in given]
    if not any(fits):
        raise WrongSignature("the signature is not of this body and secret: sign the bytes that are sent")
    if abs((time.time() if now is None else now) - moment) > TOLERANCE_S:
        raise WrongSignature(f"signed at {moment}, which is over {TOLERANCE_S} s off: set the sender's clock")


def _mac(secret: str, body: bytes, moment: int) -> str:
    return hmac.new(secret.encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
