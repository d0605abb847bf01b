"""The keys that sign: a folder with the one of today and the public halves of all that ever signed.

Ed25519, or ECDSA on P-256. The id of a key is the sha256, hex, of its public half in DER, so that
`openssl pkey -pubin -in KEY.pub -outform DER | sha256sum` prints it. Knows no database.

    signing.key      the private half of today's key, 0600
    vault.json       in place of that, where the private half lies in Vault (`registry/signing_vault.py`)
    <id>.pub         a public half; it stays when the private one is replaced
    <id>.revoked     JSON: at, by, reason. What that key signed counts no more
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from securesystemslib.signer import CryptoSigner, Signer, SSlibKey

from raymill.policies.errors import Conflict, Invalid, NotFound
from raymill.registry.files import flush_folder, locked, write_private
from raymill.registry.signing_vault import Vault, VaultSigner

PRIVATE_FILE = "signing.key"
VAULT_FILE = "vault.json"
LOCK_TIMEOUT_S = 10.0

Algorithm = Literal["ed25519", "ecdsa-p256"]
PrivateKey = Ed25519PrivateKey | ec.EllipticCurvePrivateKey
PublicKey = Ed25519PublicKey | ec.EllipticCurvePublicKey


@dataclass(frozen=True, kw_only=True)
class KnownKey:
    """A key that signs here, or did."""

    id: str
    algorithm: Algorithm
    state: Literal["signing", "retired", "revoked"]
    """What a retired key signed stays valid."""

    created_at: dt.datetime
    public_key: str
    """PEM."""

    reason: str | None = None
    """Why it was revoked, when and by whom."""


class KeyRing:
    """The folder. Any number of processes may use it at once."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.private_file = directory / PRIVATE_FILE
        self.vault_file = directory / VAULT_FILE

    def create_if_missing(self, algorithm: Algorithm = "ed25519") -> str:
        """Make a signing key where there is none. Any number of processes may try at once.

        Returns:
            The id of the signing key.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(self.directory / "lock", timeout_s=LOCK_TIMEOUT_S):
            if not self.private_file.exists() and not self.vault_file.exists():
                self._write_new_key(algorithm)
        return self.key_id()

    def rotate(self, algorithm: Algorithm = "ed25519") -> str:
        """Replace the signing key. What the old one signed stays valid. A key in Vault keeps its algorithm.

        Returns:
            The id of the new signing key.

        Raises:
            NotFound: there is none yet.
        """
        self.key_id()
        with locked(self.directory / "lock", timeout_s=LOCK_TIMEOUT_S):
            self._replace(algorithm)
        return self.key_id()

    def revoke(self, key_id: str, *, reason: str, by: str) -> KnownKey:
        """Have a key, named by its id or the beginning of it, count no more. Today's key is replaced first.

        Raises:
            NotFound: there is no such key.
            Invalid: more than one begins like that.
        """
        found = [key for key in self.known() if key.id.startswith(key_id)]
        if not found or not key_id:
            raise NotFound(f"no signing key {key_id!r}: `raymill signing list` shows the ones there are")
        if len(found) > 1:
            raise Invalid(f"{len(found)} signing keys begin with {key_id}: give more of the id")
        key = found[0]
        said = {"at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"), "by": by, "reason": reason}
        with locked(self.directory / "lock", timeout_s=LOCK_TIMEOUT_S):
            if self.key_id() == key.id:
                self._replace(key.algorithm)
            if key.state != "revoked":
                write_private(self.directory / f"{key.id}.revoked", json.dumps(said))
        return next(each for each in self.known() if each.id == key.id)

    def key_id(self) -> str:
        """The id of the signing key, as `signer`."""
        key_id: str = self.signer().public_key.keyid
        return key_id

    def signer(self) -> Signer:
        """Signs with the key of today.

        Raises:
            NotFound: there is none.
            Invalid: the file holds no key of ours, or others may read it.
            Unavailable: the key lies in Vault, which does not answer.
        """
        if self.vault_file.exists():
            vault = Vault.read(self.vault_file)
            number, pem = vault.newest()
            self._keep_public(_public(pem))
            return VaultSigner(vault, number, public_key(pem))
        private = self._private_key()
        return CryptoSigner(private, _sslib_key(private.public_key()))

    def known(self) -> tuple[KnownKey, ...]:
        """Every key that ever signed here, the oldest first."""
        today, revoked = self.key_id(), self.revoked()
        found = []
        for path in self.directory.glob("*.pub"):
            pem = path.read_text()
            public = _public(pem)
            key_id = key_id_of(public)
            found.append(
                KnownKey(
                    id=key_id,
                    algorithm="ed25519" if isinstance(public, Ed25519PublicKey) else "ecdsa-p256",
                    state="revoked" if key_id in revoked else "signing" if key_id == today else "retired",
                    created_at=dt.datetime.fromtimestamp(path.stat().st_mtime, dt.UTC),
                    public_key=pem,
                    reason=revoked.get(key_id),
                )
            )
        return tuple(sorted(found, key=lambda key: (key.created_at, key.id)))

    def public_keys(self) -> tuple[str, ...]:
        """PEM of every key whose signatures count, sorted by file name."""
        revoked = self.revoked()
        paths = sorted(self.directory.glob("*.pub"))
        return tuple(
            pem for pem in (path.read_text() for path in paths) if public_key(pem).keyid not in revoked
        )

    def revoked(self) -> dict[str, str]:
        """Id of each key that was revoked -> why, when and by whom."""
        return {path.stem: _why(path) for path in sorted(self.directory.glob("*.revoked"))}

    def _private_key(self) -> PrivateKey:
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
        if isinstance(key, Ed25519PrivateKey):
            return key
        if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
            return key
        raise Invalid(f"{self.private_file} holds no Ed25519 or P-256 key: restore it from a backup")

    def _replace(self, algorithm: Algorithm) -> None:
        if self.vault_file.exists():
            Vault.read(self.vault_file).rotate()
            self.signer()  # which keeps the new public half
        else:
            self._write_new_key(algorithm)

    def _keep_public(self, public: PublicKey) -> None:
        file = self.directory / f"{key_id_of(public)}.pub"
        if not file.exists():
            pem = public.public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            write_private(file, pem.decode().strip())
            file.chmod(0o644)
            flush_folder(self.directory)

    def _write_new_key(self, algorithm: Algorithm) -> None:
        private: PrivateKey = (
            Ed25519PrivateKey.generate()
            if algorithm == "ed25519"
            else ec.generate_private_key(ec.SECP256R1())
        )
        public = private.public_key()
        public_file = self.directory / f"{key_id_of(public)}.pub"
        if public_file.exists():
            raise Conflict(
                f"{public_file} exists already: the machine's random numbers repeat, do not sign with them"
            )
        # The public half first: from a crash in between a needless .pub is left, never an unverifiable signature.
        self._keep_public(public)
        private_pem = private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        write_private(self.private_file, private_pem.decode().strip())


def key_id_of(public: PublicKey) -> str:
    """sha256, hex, of the public key in DER."""
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def public_key(pem: str) -> SSlibKey:
    """What verifies signatures by the key of that public half.

    Raises:
        Invalid: it is none.
    """
    return _sslib_key(_public(pem))


def _sslib_key(public: PublicKey) -> SSlibKey:
    return SSlibKey.from_crypto(public, keyid=key_id_of(public))


def _public(pem: str) -> PublicKey:
    try:
        public = serialization.load_pem_public_key(pem.encode())
    except ValueError as error:
        raise Invalid(
            "a trusted key is no PEM public key: look at the .pub files in the key folder"
        ) from error
    if isinstance(public, Ed25519PublicKey):
        return public
    if isinstance(public, ec.EllipticCurvePublicKey) and isinstance(public.curve, ec.SECP256R1):
        return public
    raise Invalid("a trusted key is no Ed25519 or P-256 key: remove its .pub file from the key folder")


def _why(path: Path) -> str:
    """A note that is damaged revokes all the same."""
    try:
        note = json.loads(path.read_text())
        return f"{note['reason']}; {note['at']} by {note['by']}"
    except (ValueError, KeyError, TypeError):
        return f"{path.name} is damaged"
