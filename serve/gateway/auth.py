"""Who is calling: `Authorization: Bearer rm-…`, looked up by digest in the snapshot."""

from __future__ import annotations

from raymill.serve.gateway.snapshot import ApiKey, Snapshot, digest_of
from raymill.serve.gateway.wire import Refused

PREFIX = b"bearer "


def authenticate(authorization: bytes | None, snapshot: Snapshot) -> ApiKey:
    """The key that the header carries.

    Raises:
        Refused: 401; the message never repeats what was sent.
    """
    if not authorization:
        raise _unknown("no API key was sent: set the header Authorization: Bearer rm-…")
    if authorization[: len(PREFIX)].lower() != PREFIX:
        raise _unknown("the Authorization header is no bearer token: send Authorization: Bearer rm-…")
    token = authorization[len(PREFIX) :].strip().decode("latin-1")
    key = snapshot.keys.get(digest_of(token))
    if key is None:
        raise _unknown("this API key is unknown or was revoked: make one with `raymill key create`")
    return key


def _unknown(message: str) -> Refused:
    refused = Refused(401, "invalid_api_key", message)
    refused.headers = {"www-authenticate": "Bearer"}
    return refused
