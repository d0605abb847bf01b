"""Signed manifests: what a version consists of, byte for byte, in a form that other tools verify too.

An in-toto Statement v1 (the files and their sha256, and what is claimed of them) in a DSSE envelope, signed with
Ed25519 or ECDSA on P-256. Keys lie in `registry/signing_keys.py`. Knows no database.
"""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import FormatError, UnverifiedSignatureError
from securesystemslib.signer import Signer

from raymill.policies.errors import Invalid
from raymill.registry.artifacts import FileDigest, Tampered, canonical_json, verify_files
from raymill.registry.signing_keys import public_key

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://raymill.dev/version/v1"

JsonObject = dict[str, Any]


class Unsigned(Invalid):
    """Nobody vouches for it."""

    code = "unsigned"


class Revoked(Invalid):
    """Only a key that is no longer trusted vouches for it."""

    code = "key_revoked"


@dataclass(frozen=True, kw_only=True)
class Statement:
    """What was signed, after the signature was found good."""

    name: str
    """What the files are, such as `model/support-triage/0a1b2c3d4e5f`."""

    subjects: tuple[FileDigest, ...]
    predicate: JsonObject
    """What is claimed of them: run, scores, decision. Holds `name` too."""

    key_id: str


def sign_statement(
    signer: Signer, subjects: Sequence[FileDigest], predicate: Mapping[str, Any], name: str
) -> JsonObject:
    """The DSSE envelope, as JSON, over `subjects` and `predicate`. With Ed25519 the same input gives the same
    envelope; ECDSA draws a number for each signature.

    Raises:
        Invalid: there is no file to sign, the same path twice, or a claim that is not JSON.
    """
    if not subjects:
        raise Invalid(f"{name} has no files: nothing can be signed")
    if len({file.path for file in subjects}) != len(subjects):
        raise Invalid(f"{name} names the same file twice: sign each path once")
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [
            {
                "name": file.path,
                "digest": {"sha256": file.sha256},
                "annotations": {"size_bytes": file.size_bytes},
            }
            for file in sorted(subjects, key=lambda file: file.path)
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": {**predicate, "name": name},
    }
    try:
        json.dumps(statement, allow_nan=False)
    except (ValueError, TypeError) as error:
        raise Invalid(
            f"what is claimed of {name} is not JSON ({error}): sign finite numbers and text"
        ) from error
    return sign_payload(signer, canonical_json(statement), PAYLOAD_TYPE)


def sign_payload(signer: Signer, payload: bytes, payload_type: str) -> JsonObject:
    """The DSSE envelope, as JSON, around `payload`."""
    envelope = Envelope(payload, payload_type, {})
    envelope.sign(signer)
    signed: JsonObject = envelope.to_dict()
    return signed


def verify_envelope(
    envelope: Mapping[str, Any],
    public_keys: Sequence[str],
    *,
    name: str | None = None,
    revoked: Mapping[str, str] | None = None,
) -> Statement:
    """Check who signed, then read what was signed. Nothing in the payload is believed before that.

    Args:
        public_keys: PEM; a signature by any of them counts, a wrong one by any of them does not.
        name: when given, the manifest must be of this artifact and not of another one.
        revoked: key id -> why; keys that no longer count, so that the message can say so.

    Raises:
        Unsigned: there is no signature.
        Revoked: keys that were revoked signed it, and no other one did.
        Invalid: it is no envelope of ours, none of the keys signed it, or it speaks of something else.
        Tampered: a signature does not fit the payload.
    """
    payload, key_id = open_envelope(envelope, PAYLOAD_TYPE, public_keys, revoked=revoked)
    statement = _statement(payload, key_id)
    if name is not None and statement.name != name:
        raise Invalid(f"the manifest is of {statement.name}, not of {name}: promote {name} again")
    return statement


def open_envelope(
    envelope: Mapping[str, Any],
    payload_type: str,
    public_keys: Sequence[str],
    *,
    revoked: Mapping[str, str] | None = None,
) -> tuple[bytes, str]:
    """The payload, and the id of a key that signed it. Arguments and errors are those of `verify_envelope`."""
    parsed = _parse(envelope, payload_type)
    keys = {key.keyid: key for key in map(public_key, public_keys) if key.keyid not in (revoked or {})}
    if not parsed.signatures:
        raise Unsigned("the manifest carries no signature: promote the version again")
    known = [key_id for key_id in parsed.signatures if key_id in keys]
    if not known:
        for key_id in parsed.signatures:
            if key_id in (revoked or {}):
                raise Revoked(
                    f"the manifest is signed by key {key_id[:12]}, which was revoked ({(revoked or {})[key_id]}): "
                    "promote the version again, it is then signed with the key of today"
                )
        signers = ", ".join(key_id[:12] for key_id in parsed.signatures)
        raise Invalid(
            f"the manifest is signed by {signers}, none of the {len(keys)} known keys: "
            "put the signer's .pub file into the key folder if you trust it"
        )
    for key_id in known:
        try:
            keys[key_id].verify_signature(parsed.signatures[key_id], parsed.pae())
        except UnverifiedSignatureError as error:
            raise Tampered(
                f"the signature by key {key_id[:12]} does not fit the manifest: it was changed after it was "
                "signed, so restore it from a backup or promote again"
            ) from error
    return parsed.payload, known[0]


def verify_directory(
    directory: Path,
    envelope: Mapping[str, Any] | None,
    public_keys: Sequence[str],
    *,
    name: str | None = None,
    revoked: Mapping[str, str] | None = None,
) -> Statement:
    """Check the signature, then that `directory` holds exactly the signed bytes: none changed, none added.

    Args:
        envelope: None where none was ever made.
        name: when given, the manifest must be of this artifact and not of another one.

    Raises:
        Unsigned, Revoked, Invalid: as `verify_envelope`.
        Tampered: the signature or a file is not what was signed.
    """
    if envelope is None:
        raise Unsigned(f"{name or directory.name} carries no signature: promote the version again")
    statement = verify_envelope(envelope, public_keys, name=name, revoked=revoked)
    verify_files(directory, statement.subjects)
    return statement


def _parse(envelope: Mapping[str, Any], payload_type: str) -> Envelope:
    found = envelope.get("payloadType")
    if found != payload_type:
        raise Invalid(f"the manifest's payloadType is {found!r}, only {payload_type} is read: promote again")
    try:
        base64.b64decode(envelope["payload"], validate=True)
        # A copy, because from_dict rewrites the signatures of what it is given.
        return Envelope.from_dict(copy.deepcopy(dict(envelope)))
    except (KeyError, ValueError, TypeError, AttributeError, FormatError) as error:
        raise Invalid(f"the manifest is no DSSE envelope ({error}): promote the version again") from error


def _statement(payload: bytes, key_id: str) -> Statement:
    try:
        statement = json.loads(payload)
        types = (statement["_type"], statement["predicateType"])
        predicate = statement["predicate"]
        subjects = tuple(
            FileDigest(
                path=subject["name"],
                size_bytes=subject["annotations"]["size_bytes"],
                sha256=subject["digest"]["sha256"],
            )
            for subject in statement["subject"]
        )
        name = predicate["name"]
    except (ValueError, KeyError, TypeError) as error:
        raise Invalid(f"the signed manifest lacks {error}: sign it with this version of Raymill") from error
    if types != (STATEMENT_TYPE, PREDICATE_TYPE):
        raise Invalid(f"the manifest is a {types[1]} in a {types[0]}: only {PREDICATE_TYPE} is read")
    for subject in subjects:
        path = PurePosixPath(subject.path)
        if path.is_absolute() or ".." in path.parts:
            raise Invalid(f"the manifest names {subject.path}, which lies outside of an artifact: sign again")
    return Statement(name=name, subjects=subjects, predicate=predicate, key_id=key_id)
