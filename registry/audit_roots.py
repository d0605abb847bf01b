"""Roots of the audit log, signed and kept as files: what the log was, told where the database cannot reach.

A root is a DSSE envelope whose payload is canonical JSON (`registry/audit_chain.py` says what of). Kept on another
machine's disk, it gives away whoever cuts the log off or writes all of it anew, the owner of the database included.
Offline it takes the log, the root and the public key: this module knows no database.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from securesystemslib.signer import Signer

from raymill.policies.errors import Invalid
from raymill.registry.artifacts import canonical_json
from raymill.registry.audit_chain import Chain, Root
from raymill.registry.files import write_private
from raymill.registry.signing import Revoked, open_envelope, sign_payload

PAYLOAD_TYPE = "application/vnd.raymill.audit-root+json"

JsonObject = dict[str, Any]


def root_of(chain: Chain) -> Root:
    """Of the log as far as `chain` has taken it."""
    now = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")
    return Root(rows=chain.tree.size, root=chain.tree.root().hex(), head=chain.head.hex(), at=now)


def sign_root(signer: Signer, root: Root) -> JsonObject:
    """The DSSE envelope, as JSON."""
    return sign_payload(signer, canonical_json(asdict(root)), PAYLOAD_TYPE)


def verify_root(
    envelope: Mapping[str, Any], public_keys: Sequence[str], *, revoked: Mapping[str, str] | None = None
) -> Root:
    """What was signed; raises as `signing.verify_envelope`."""
    payload, _ = open_envelope(envelope, PAYLOAD_TYPE, public_keys, revoked=revoked)
    try:
        return Root(**json.loads(payload))
    except (ValueError, TypeError) as error:
        raise Invalid(f"this is no root of an audit log ({error}): export it again") from error


def read_root(path: Path, public_keys: Sequence[str], *, revoked: Mapping[str, str] | None = None) -> Root:
    """From a file. Raises Invalid as well where it is not there or no JSON."""
    try:
        envelope = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise Invalid(f"{path} holds no signed root ({error}): `raymill audit export` writes one") from error
    if not isinstance(envelope, dict):
        raise Invalid(f"{path} holds no signed root: `raymill audit export` writes one")
    return verify_root(envelope, public_keys, revoked=revoked)


def keep(folder: Path, root: Root, envelope: JsonObject) -> Path:
    """Write a root beside the earlier ones, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    moment = dt.datetime.fromisoformat(root.at)
    path = folder / f"{moment:%Y%m%dT%H%M%S}-{root.rows:012d}.json"
    write_private(path, json.dumps(envelope))
    return path


def kept(folder: Path, public_keys: Sequence[str], revoked: Mapping[str, str]) -> tuple[Root, ...]:
    """The roots in a folder, the oldest first. Those that only a revoked key signed prove nothing and are passed over."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            found.append(read_root(path, public_keys, revoked=revoked))
        except Revoked:
            continue
    return tuple(found)


def newest(folder: Path, public_keys: Sequence[str], revoked: Mapping[str, str]) -> Root | None:
    """The last of them, without a look at the others; their names are in the order of their times."""
    for path in sorted(folder.glob("*.json"), reverse=True):
        try:
            return read_root(path, public_keys, revoked=revoked)
        except Revoked:
            continue
    return None
