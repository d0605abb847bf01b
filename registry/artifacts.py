"""Artifacts: directories that never change once they are published.

An artifact is named `<kind>/<name>/<address>`; the address is made of what made it. Here they lie in a folder, where a
publish is one rename, so that a reader sees all of it or nothing; `object_store.py` keeps them behind a URL, and
`artifact_access.py` says what both can do.
Knows no database: the row is written by the caller, in the transaction that ends the job.

Sizes are bytes; digests are sha256 in hex.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from raymill.policies.errors import Invalid, NotFound

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}(/[a-z0-9][a-z0-9._-]{0,63}){2}")
CHUNK_BYTES = 1 << 20
DIGEST_THREADS = min(8, os.cpu_count() or 1)
"""Files that are digested at once; hashing lets go of Python's lock."""


class Tampered(Invalid):
    """The bytes are not the ones that were published."""

    code = "tampered"


@dataclass(frozen=True, kw_only=True)
class FileDigest:
    path: str
    """Relative to the artifact, with `/`."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Published:
    """A directory in the store, and what its bytes were when it was put there."""

    name: str
    files: tuple[FileDigest, ...]
    digest: str
    """sha256 over the sorted lines `<sha256>  <path>`, one for each file."""

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


def digests_of(rows: Sequence[Mapping[str, Any]]) -> tuple[FileDigest, ...]:
    """Files as an artifact's row has them."""
    return tuple(FileDigest(**row) for row in rows)


def sha256_file(path: Path) -> str:
    """sha256 of one file, hex, read in pieces of 1 MiB."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_known(path: Path) -> str:
    """As `sha256_file`, but a file that has the same size, times and place as at an earlier call is not read again.

    For plans, which are made again at each edit of a form; the step itself reads the bytes. Callers that ask for the same
    file at once wait for the first.
    """
    found = path.stat()
    with _READING[found.st_ino % len(_READING)]:
        return _sha256_at(
            str(path), found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
        )


_READING = tuple(threading.Lock() for _ in range(16))


@lru_cache(maxsize=4096)
def _sha256_at(path: str, *_: int) -> str:
    return sha256_file(Path(path))


def digest_files(directory: Path) -> tuple[FileDigest, ...]:
    """Every regular file under `directory`, sorted by path. A symbolic link is refused: it is no content.

    Raises:
        Invalid: a symbolic link lies in the directory.
    """
    paths: list[Path] = []
    for path in sorted(directory.rglob("*")):
        if path.is_symlink():
            relative = path.relative_to(directory).as_posix()
            raise Invalid(f"{relative} is a symbolic link: copy the file it points to instead")
        if path.is_file():
            paths.append(path)
    with ThreadPoolExecutor(DIGEST_THREADS) as threads:
        digests = threads.map(sha256_file, paths)
        return tuple(
            FileDigest(
                path=path.relative_to(directory).as_posix(), size_bytes=path.stat().st_size, sha256=digest
            )
            for path, digest in zip(paths, digests, strict=True)
        )


def tree_digest(files: Sequence[FileDigest]) -> str:
    """One digest for a set of files: sha256 over sorted `<sha256>  <path>` lines, as sha256sum prints."""
    lines = "".join(f"{file.sha256}  {file.path}\n" for file in sorted(files, key=lambda file: file.path))
    return hashlib.sha256(lines.encode()).hexdigest()


def verify_files(directory: Path, expected: Sequence[FileDigest]) -> None:
    """Compare the bytes in `directory` with `expected`.

    Raises:
        Tampered: a file differs, is missing, or was added; the message says which.
    """
    if not directory.is_dir():
        raise Tampered(f"{directory.name} is missing from the artifact store: restore it from a backup")
    compare_files(directory.name, {file.path: file.sha256 for file in digest_files(directory)}, expected)


def compare_files(label: str, actual: Mapping[str, str], expected: Sequence[FileDigest]) -> None:
    """Compare what was read, path -> sha256, with `expected`. Raises as `verify_files`; `label` names the artifact."""
    for file in expected:
        if file.path not in actual:
            raise Tampered(f"{file.path} is missing from artifact {label}: restore it from a backup")
        if actual[file.path] != file.sha256:
            raise Tampered(
                f"{file.path} in artifact {label} has sha256 {actual[file.path][:12]}, "
                f"{file.sha256[:12]} was signed: restore it from a backup or train again"
            )
    for path in sorted(actual.keys() - {file.path for file in expected}):
        raise Tampered(f"{path} was added to artifact {label} after it was signed: remove it")


def check_name(name: str) -> str:
    """`name`, if it is of the form kind/name/address. Raises Invalid."""
    if not NAME.fullmatch(name):
        raise Invalid(f"{name!r} is no artifact name: it must look like model/support-triage/0a1b2c3d4e5f")
    return name


class ArtifactStore:
    """A directory of published directories, the same on every node: what is `Artifacts` of it (`artifact_access`)."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, name: str) -> Path:
        """Local directory of artifact `name`; it need not exist.

        Raises:
            Invalid: `name` is not of the form kind/name/address.
        """
        return self.root / check_name(name)

    def existing(self, name: str) -> Path:
        """As `path`, but it must be there.

        Raises:
            NotFound: nothing was published under `name`.
        """
        path = self.path(name)
        if not path.is_dir():
            raise NotFound(f"artifact {name} is not in {self.root}: run the step that makes it again")
        return path

    @contextmanager
    def hold(self, name: str, digest: str) -> Iterator[Path]:  # noqa: ARG002 (what differs shows where it is verified)
        yield self.existing(name)

    @contextmanager
    def hold_file(self, name: str, file: FileDigest) -> Iterator[Path]:
        yield self.existing(name) / file.path

    @contextmanager
    def reading(self, name: str, digest: str, path: str) -> Iterator[BinaryIO]:  # noqa: ARG002 (as above)
        try:
            file = (self.path(name) / path).open("rb")
        except FileNotFoundError:
            raise NotFound(f"{self.path(name) / path} is missing") from None
        with file:
            yield file

    def holds(self, name: str, files: Sequence[FileDigest]) -> bool:
        directory = self.path(name)
        return all(
            (directory / file.path).is_file() and (directory / file.path).stat().st_size == file.size_bytes
            for file in files
        )

    def verify(self, name: str, files: Sequence[FileDigest]) -> None:
        verify_files(self.path(name), files)

    def place(self, name: str, digest: str) -> Path:  # noqa: ARG002 (as above)
        return self.path(name)

    def here(self, path: Path) -> Path:
        return path

    def refresh(self, path: Path) -> bool:  # noqa: ARG002 (as above)
        return False

    def publish(self, name: str, directory: Path) -> Published:
        """Move `directory` into the store under `name`. Must lie on the same file system as the store.

        The same address published again (an earlier attempt died before its row was written) replaces
        what lies there, which no row tells of. Files are flushed to disk before the rename.
        """
        target = self.path(name)
        files = digest_files(directory)
        for file in files:
            flush(directory / file.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            existing = digest_files(target)
            if tree_digest(existing) == tree_digest(files):
                shutil.rmtree(directory)
                return Published(name=name, files=existing, digest=tree_digest(existing))
            shutil.rmtree(target)
        directory.rename(target)
        flush(target.parent)
        return Published(name=name, files=files, digest=tree_digest(files))


def flush(path: Path) -> None:
    """Put a file, or the names in a folder, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def canonical_json(value: object) -> bytes:
    """JSON with sorted keys and no spaces: the same value always gives the same bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def address_of(kind: str, config: object, input_digests: dict[str, str]) -> str:
    """First 12 hex digits of sha256 over what makes an artifact: its kind, config and inputs."""
    made_of = {"kind": kind, "config": config, "inputs": input_digests}
    return hashlib.sha256(canonical_json(made_of)).hexdigest()[:12]
