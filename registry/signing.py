"""Signed manifests: what a version consists of, byte for byte, in a form that other tools verify too.

An in-toto Statement v1 (the files and their sha256, and what is claimed of them) in a DSSE envelope,
signed with Ed25519. The id of a key is the sha256, hex, of its public half in DER, so that
`openssl pkey -pubin -in KEY.pub -outform DER | sha256sum` prints it. Knows no database.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import FormatError, UnverifiedSignatureError
from securesystemslib.signer import CryptoSigner, SSlibKey

from raymill.policies.errors import Conflict, Invalid, NotFound
from raymill.registry.artifacts import FileDigest, Tampered, canonical_json, verify_files
from raymill.registry.files import flush_folder, locked, write_private

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://raymill.dev/version/v1"

PRIVATE_FILE = "signing.key"
LOCK_TIMEOUT_S = 10.0

JsonObject = dict[str, Any]


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
    signer: CryptoSigner, subjects: Sequence[FileDigest], predicate: Mapping[str, Any], name: str
) -> JsonObject:
    """The DSSE envelope, as JSON, over `subjects` and `predicate`. The same input gives the same envelope.

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
    envelope = Envelope(canonical_json(statement), PAYLOAD_TYPE, {})
    envelope.sign(signer)
    signed: JsonObject = envelope.to_dict()
    return signed


def verify_envelope(envelope: Mapping[str, Any], public_keys: Sequence[str]) -> Statement:
    """Check who signed, then read what was signed. Nothing in the payload is believed before that.

    Args:
        public_keys: PEM; a signature by any of them counts, a wrong one by any of them does not.

    Raises:
        Invalid: it is no envelope of ours, or none of the keys signed it.
        Tampered: a signature does not fit the payload.
    """
    parsed = _parse(envelope)
    keys = {key.keyid: key for key in map(_trusted_key, public_keys)}
    known = [key_id for key_id in parsed.signatures if key_id in keys]
    if not known:
        signers = ", ".join(key_id[:12] for key_id in parsed.signatures) or "nobody"
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
    return _statement(parsed.payload, known[0])


def verify_directory(
    directory: Path, envelope: Mapping[str, Any], public_keys: Sequence[str], *, name: str | None = None
) -> Statement:
    """Check the signature, then that `directory` holds exactly the signed bytes: none changed, none added.

    Args:
        name: when given, the manifest must be of this artifact and not of another one.

    Raises:
        Invalid: as `verify_envelope`, or the manifest speaks of something else.
        Tampered: the signature or a file is not what was signed.
    """
    statement = verify_envelope(envelope, public_keys)
    if name is not None and statement.name != name:
        raise Invalid(f"the manifest is of {statement.name}, not of {name}: promote {name} again")
    verify_files(directory, statement.subjects)
    return statement


def key_id_of(public: Ed25519PublicKey) -> str:
    """sha256, hex, of the public key in DER."""
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


class KeyRing:
    """A folder with the signing key of today (`signing.key`, 0600) and every public key ever (`<id>.pub`).

    A public key stays when its private half is replaced, so what it signed can still be verified.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.private_file = directory / PRIVATE_FILE

    def create_if_missing(self) -> str:
        """Make a signing key where there is none. Any number of processes may try at once.

        Returns:
            The id of the signing key.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(self.directory / "lock", timeout_s=LOCK_TIMEOUT_S):
            if not self.private_file.exists():
                self._write_new_key()
        return self.key_id()

    def rotate(self) -> str:
        """Replace the signing key. What the old one signed stays valid.

        Returns:
            The id of the new signing key.

        Raises:
            NotFound: there is none yet.
        """
        self.key_id()
        with locked(self.directory / "lock", timeout_s=LOCK_TIMEOUT_S):
            self._write_new_key()
        return self.key_id()

    def key_id(self) -> str:
        """The id of the signing key, as `signer`."""
        return key_id_of(self._private_key().public_key())

    def signer(self) -> CryptoSigner:
        """Signs with the key of today.

        Raises:
            NotFound: there is none.
            Invalid: the file is no Ed25519 key, or others may read it.
        """
        private = self._private_key()
        return CryptoSigner(private, _sslib_key(private.public_key()))

    def public_keys(self) -> tuple[str, ...]:
        """PEM of every key that ever signed here, sorted by file name."""
        return tuple(path.read_text() for path in sorted(self.directory.glob("*.pub")))

    def _private_key(self) -> Ed25519PrivateKey:
        if not self.private_file.exists():
            raise NotFound(f"no signing key at {self.private_file}: make one with `raymill up`")
        mode = self.private_file.stat().st_mode & 0o777
        if mode & 0o077:
            raise Invalid(
                f"{self.private_file} has mode {mode:04o}, others may read it: chmod 600, then rotate it"
            )
        try:
            key = serialization.load_pem_private_key(self.private_file.read_bytes(), password=None)
        except (ValueError, TypeError) as error:
            raise Invalid(f"{self.private_file} holds no private key: restore it from a backup") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise Invalid(f"{self.private_file} holds no Ed25519 key: restore it from a backup")
        return key

    def _write_new_key(self) -> None:
        private = Ed25519PrivateKey.generate()
        public = private.public_key()
        public_file = self.directory / f"{key_id_of(public)}.pub"
        if public_file.exists():
            raise Conflict(
                f"{public_file} exists already: the machine's random numbers repeat, do not sign with them"
            )
        # The public half first: from a crash in between a needless .pub is left, never an unverifiable signature.
        pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        write_private(public_file, pem.decode().strip())
        public_file.chmod(0o644)
        flush_folder(self.directory)
        private_pem = private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        write_private(self.private_file, private_pem.decode().strip())


def _sslib_key(public: Ed25519PublicKey) -> SSlibKey:
    return SSlibKey.from_crypto(public, keyid=key_id_of(public))


def _trusted_key(pem: str) -> SSlibKey:
    try:
        public = serialization.load_pem_public_key(pem.encode())
    except ValueError as error:
        raise Invalid(
            "a trusted key is no PEM public key: look at the .pub files in the key folder"
        ) from error
    if not isinstance(public, Ed25519PublicKey):
        raise Invalid("a trusted key is no Ed25519 key: remove its .pub file from the key folder")
    return _sslib_key(public)


def _parse(envelope: Mapping[str, Any]) -> Envelope:
    payload_type = envelope.get("payloadType")
    if payload_type != PAYLOAD_TYPE:
        raise Invalid(
            f"the manifest's payloadType is {payload_type!r}, only {PAYLOAD_TYPE} is read: promote again"
        )
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
