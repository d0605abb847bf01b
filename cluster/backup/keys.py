"""Keys in a backup: public halves as they are, everything else sealed with a passphrase, or not at all.

A copy of the database beside the master keys would open every secret in it, so they never lie there in clear. The seal
is AES-256-GCM under a key from Argon2id (RFC 9106, its second choice of parameters: 64 MiB, three passes, four lanes):

    8 bytes   RMKEYS1 and a zero
    16 bytes  salt
    12 bytes  nonce
    n bytes   ciphertext of a JSON object, path -> content in base64, and its tag
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from raymill.policies.errors import Invalid
from raymill.registry.files import flush_folder

MAGIC = b"RMKEYS1\0"
SALT_BYTES, NONCE_BYTES = 16, 12
MIN_CHARS = 12

PUBLIC = (".pub", ".revoked")
OWN_TO_A_RUN = {"lock", "ray.token"}
"""Made anew by each service."""


def copy_public(keys_dir: Path, target: Path) -> None:
    """Public halves of keys that sign or signed, and which were revoked: what verifies needs no more."""
    for path in sorted((keys_dir / "signing").glob("*")):
        if path.suffix in PUBLIC:
            (target / "signing").mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target / "signing" / path.name)


def seal(keys_dir: Path, passphrase: str) -> bytes:
    """All keys of a service that are not public. Raises Invalid: the passphrase is too short."""
    if len(passphrase) < MIN_CHARS:
        raise Invalid(
            f"RAYMILL_BACKUP_PASSPHRASE has {len(passphrase)} characters: give at least {MIN_CHARS}"
        )
    found = {
        path.relative_to(keys_dir).as_posix(): path.read_bytes()
        for path in sorted(keys_dir.rglob("*"))
        if path.is_file() and path.suffix not in PUBLIC and path.name not in OWN_TO_A_RUN
    }
    salt, nonce = os.urandom(SALT_BYTES), os.urandom(NONCE_BYTES)
    sealed = AESGCM(_key(passphrase, salt)).encrypt(nonce, msgspec.json.encode(found), MAGIC)
    return MAGIC + salt + nonce + sealed


def open_sealed(sealed: bytes, passphrase: str) -> dict[str, bytes]:
    """Path below the folder of keys -> content. Raises Invalid: another passphrase, or no such file."""
    salt, nonce, body = (
        sealed[len(MAGIC) :][:SALT_BYTES],
        sealed[len(MAGIC) + SALT_BYTES :][:NONCE_BYTES],
        sealed[len(MAGIC) + SALT_BYTES + NONCE_BYTES :],
    )
    try:
        opened = AESGCM(_key(passphrase, salt)).decrypt(nonce, body, MAGIC)
    except (InvalidTag, ValueError) as error:
        raise Invalid(
            "the sealed keys do not open: RAYMILL_BACKUP_PASSPHRASE must be the one that they were sealed with"
        ) from error
    return msgspec.json.decode(opened, type=dict[str, bytes])


def write_all(found: dict[str, bytes], keys_dir: Path) -> None:
    """Readable by their owner alone."""
    for name, content in found.items():
        path = keys_dir / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        flush_folder(path.parent)


def _key(passphrase: str, salt: bytes) -> bytes:
    return Argon2id(salt=salt, length=32, iterations=3, lanes=4, memory_cost=64 << 10).derive(
        passphrase.encode()
    )
