"""Who is calling: `Authorization: Bearer rm-…`, or Anthropic's `x-api-key`, looked up by digest in the snapshot."""

from __future__ import annotations

import time
from collections.abc import Mapping

from raymill.serve.gateway.snapshot import Caller, Snapshot, digest_of
from raymill.serve.gateway.wire import Refused

PREFIX = b"bearer "


def authenticate(headers: Mapping[bytes, bytes], snapshot: Snapshot) -> Caller:
    """The caller behind the key that the headers carry.

    Raises:
        Refused: 401; the message never repeats what was sent.
    """
    authorization = headers.get(b"authorization")
    if authorization:
        if authorization[: len(PREFIX)].lower() != PREFIX:
            raise _unknown("the Authorization header is no bearer token: send Authorization: Bearer rm-…")
        token = authorization[len(PREFIX) :].strip()
    else:
        token = headers.get(b"x-api-key", b"").strip()
        if not token:
            raise _unknown("no API key was sent: set the header Authorization: Bearer rm-…")
    caller = snapshot.keys.get(digest_of(token.decode("latin-1")))
    if caller is None or (caller.expires_at is not None and caller.expires_at <= time.time()):
        raise _unknown(
            "this API key is unknown, was revoked or has expired: make one with `raymill key create`"
        )
    return caller


def _unknown(message: str) -> Refused:
    return Refused(401, "invalid_api_key", message, headers={"www-authenticate": "Bearer"})
