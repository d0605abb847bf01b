"""Secrets at rest: AES-256-GCM envelopes under master keys that lie in a folder beside the database, not in it.

    1 byte    version of the envelope, 1
    8 bytes   id of the master key: first 16 hex digits of its sha256
    12 bytes  random nonce
    n bytes   ciphertext and its tag of 16 bytes

The tag also covers whose secret it is and which one, so that a row copied over another does not open. A
rotation adds a master key and keeps the old ones (promise P8: it never makes a secret unreadable). Knows no
database; what it opens it neither logs nor keeps.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import re
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from raymill.policies.errors import Conflict, Invalid, NotFound
from raymill.registry.artifacts import Tampered
from raymill.registry.files import flush_folder, locked, read_or_empty, write_private

VERSION = b"\x01"
ID_BYTES = 8
NONCE_BYTES = 12
TAG_BYTES = 16
MASTER_KEY_BYTES = 32
HEAD_BYTES = len(VERSION) + ID_BYTES

ID = re.compile(r"[0-9a-f]{16}")

CURRENT_FILE = "current"
LOCK_TIMEOUT_S = 10.0


class SecretBox:
    """A folder of master keys (`<id>.key`, 0600, hex), of which `current` names the one that seals."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.current_file = directory / CURRENT_FILE

    def create_if_missing(self) -> str:
        """Make a master key where there is none. Any number of processes may try at once.

        Returns:
            The id of the master key that seals.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(self.directory / "lock", timeout_s=LOCK_TIMEOUT_S):
            if not self.current_file.exists():
                self._write_new_key()
        return self.current_id()

    def rotate(self) -> str:
        """Seal with a new master key from now on. The old ones stay, so what they sealed still opens.

        Returns:
            The id of the new master key.

        Raises:
            NotFound: there is none yet.
        """
        self.current_id()
        with locked(self.directory / "lock", timeout_s=LOCK_TIMEOUT_S):
            self._write_new_key()
        return self.current_id()

    def current_id(self) -> str:
        """Raises NotFound when there is no master key."""
        key_id = read_or_empty(self.current_file).strip()
        if not key_id:
            raise NotFound(
                f"no master key at {self.current_file}: make one with `raymill up`, "
                "or restore the folder from a backup"
            )
        return key_id

    def seal(self, plaintext: str, *, owner: str, secret_id: str) -> bytes:
        """An envelope under the current master key.

        Args:
            owner, secret_id: whose secret it is and which one; `open` must name the same.

        Raises:
            NotFound: there is no master key.
            Invalid: its file is damaged, or others may read it.
        """
        key_id = self.current_id()
        head = VERSION + bytes.fromhex(key_id)
        nonce = os.urandom(NONCE_BYTES)
        bound = _bound_to(head, owner, secret_id)
        return head + nonce + AESGCM(self._master_key(key_id)).encrypt(nonce, plaintext.encode(), bound)

    def open(self, sealed: bytes, *, owner: str, secret_id: str) -> str:
        """What `seal` was given.

        Raises:
            NotFound: the master key that sealed it is not here.
            Tampered: the envelope was changed, or is of another secret.
            Invalid: it is no envelope, or the master key's file is damaged.
        """
        key_id = master_key_id(sealed)
        head, nonce, ciphertext = sealed[:HEAD_BYTES], sealed[HEAD_BYTES:][:NONCE_BYTES], sealed[_BODY_AT:]
        if not self._file_of(key_id).exists():
            raise NotFound(
                f"secret {secret_id} of {owner} is sealed with master key {key_id}: "
                f"restore {self._file_of(key_id)} from a backup, or set the secret again"
            )
        try:
            opened = AESGCM(self._master_key(key_id)).decrypt(
                nonce, ciphertext, _bound_to(head, owner, secret_id)
            )
        except InvalidTag:
            raise Tampered(
                f"secret {secret_id} of {owner} is not what was sealed with master key {key_id}: "
                "restore its row from a backup, or set the secret again"
            ) from None
        return opened.decode()

    def reseal(self, sealed: bytes, *, owner: str, secret_id: str) -> bytes:
        """The same secret under the current master key; the same bytes when that sealed it. Raises as `open`."""
        if master_key_id(sealed) == self.current_id():
            return sealed
        return self.seal(
            self.open(sealed, owner=owner, secret_id=secret_id), owner=owner, secret_id=secret_id
        )

    def derived(self, purpose: str, key_id: str | None = None) -> tuple[str, bytes]:
        """A key of 32 bytes for `purpose`, by HKDF-SHA256 (RFC 5869) from a master key, by default the current one.

        Returns:
            The id of the master key, and the derived key.

        Raises:
            NotFound: that master key is not here.
            Invalid: its file is damaged, or others may read it.
        """
        key_id = key_id or self.current_id()
        hkdf = HKDF(algorithm=SHA256(), length=MASTER_KEY_BYTES, salt=None, info=purpose.encode())
        return key_id, hkdf.derive(self._master_key(key_id))

    def has(self, key_id: str) -> bool:
        """Whether there is a master key of that id."""
        return ID.fullmatch(key_id) is not None and self._file_of(key_id).exists()

    def created_at(self) -> dict[str, dt.datetime]:
        """Master key -> when its file was made."""
        return {
            file.stem: dt.datetime.fromtimestamp(file.stat().st_mtime, dt.UTC)
            for file in self.directory.glob("*.key")
        }

    def current_since(self) -> float:
        """When the current master key became that, in Unix seconds."""
        return self.current_file.stat().st_mtime

    def delete(self, key_id: str) -> None:
        """Put a master key away for good. What it sealed opens no more. Not for the current one."""
        self._file_of(key_id).unlink()
        flush_folder(self.directory)

    def _file_of(self, key_id: str) -> Path:
        return self.directory / f"{key_id}.key"

    def _master_key(self, key_id: str) -> bytes:
        file = self._file_of(key_id)
        if not file.exists():
            raise NotFound(
                f"no master key at {file}: restore it from a backup, "
                "or go on with a new one by `raymill master-key rotate`"
            )
        mode = file.stat().st_mode & 0o777
        if mode & 0o077:
            raise Invalid(f"{file} has mode {mode:04o}, others may read it: chmod 600, then rotate it")
        try:
            key = bytes.fromhex(read_or_empty(file).strip())
        except ValueError:
            key = b""
        if len(key) != MASTER_KEY_BYTES or _id_of(key) != key_id:
            raise Invalid(f"{file} does not hold the master key {key_id}: restore it from a backup")
        return key

    def _write_new_key(self) -> None:
        key = os.urandom(MASTER_KEY_BYTES)
        file = self._file_of(_id_of(key))
        if file.exists():
            raise Conflict(f"{file} exists already: the machine's random numbers repeat, seal nothing here")
        # The key first: from a crash in between a needless key is left, never a name without its key.
        write_private(file, key.hex())
        write_private(self.current_file, _id_of(key))


_BODY_AT = HEAD_BYTES + NONCE_BYTES


def master_key_id(sealed: bytes) -> str:
    """Which master key sealed it. Raises Invalid when it is no envelope."""
    if not sealed.startswith(VERSION) or len(sealed) < _BODY_AT + TAG_BYTES:
        raise Invalid("a stored secret is no envelope of ours: restore its row, or set the secret again")
    return sealed[len(VERSION) : HEAD_BYTES].hex()


def _id_of(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()[: 2 * ID_BYTES]


def _bound_to(head: bytes, owner: str, secret_id: str) -> bytes:
    # The length keeps ("a", "bc") apart from ("ab", "c").
    return head + f"{len(owner)}:{owner}:{secret_id}".encode()
