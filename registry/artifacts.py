"""Artifacts on disk: directories that never change once they are published.

An artifact is named `<kind>/<name>/<address>`; the address is made of what made it. A publish is one
rename, so a reader sees all of it or nothing. Knows no database: the row is written by the caller, in
the transaction that ends the job.

Sizes are bytes; digests are sha256 in hex.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

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


def sha256_file(path: Path) -> str:
    """sha256 of one file, hex, read in pieces of 1 MiB."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def tree_digest(files: tuple[FileDigest, ...]) -> str:
    """One digest for a set of files: sha256 over sorted `<sha256>  <path>` lines, as sha256sum prints."""
    lines = "".join(f"{file.sha256}  {file.path}\n" for file in sorted(files, key=lambda file: file.path))
    return hashlib.sha256(lines.encode()).hexdigest()


def verify_files(directory: Path, expected: tuple[FileDigest, ...]) -> None:
    """Compare the bytes in `directory` with `expected`.

    Raises:
        Tampered: a file differs, is missing, or was added; the message says which.
    """
    if not directory.is_dir():
        raise Tampered(f"{directory.name} is missing from the artifact store: restore it from a backup")
    actual = {file.path: file for file in digest_files(directory)}
    wanted = {file.path: file for file in expected}
    for path, file in wanted.items():
        if path not in actual:
            raise Tampered(f"{path} is missing from artifact {directory.name}: restore it from a backup")
        if actual[path].sha256 != file.sha256:
            raise Tampered(
                f"{path} in artifact {directory.name} has sha256 {actual[path].sha256[:12]}, "
                f"{file.sha256[:12]} was signed: restore it from a backup or train again"
            )
    for path in actual.keys() - wanted.keys():
        raise Tampered(f"{path} was added to artifact {directory.name} after it was signed: remove it")


class ArtifactStore:
    """A directory of published directories."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, name: str) -> Path:
        """Local directory of artifact `name`; it need not exist.

        Raises:
            Invalid: `name` is not of the form kind/name/address.
        """
        if not NAME.fullmatch(name):
            raise Invalid(
                f"{name!r} is no artifact name: it must look like model/support-triage/0a1b2c3d4e5f"
            )
        return self.root / name

    def existing(self, name: str) -> Path:
        """As `path`, but it must be there.

        Raises:
            NotFound: nothing was published under `name`.
        """
        path = self.path(name)
        if not path.is_dir():
            raise NotFound(f"artifact {name} is not in {self.root}: run the step that makes it again")
        return path

    def publish(self, name: str, directory: Path) -> Published:
        """Move `directory` into the store under `name`. Must lie on the same file system as the store.

        The same address published again (an earlier attempt died before its row was written) replaces
        what lies there, which no row tells of. Files are flushed to disk before the rename.
        """
        target = self.path(name)
        files = digest_files(directory)
        for file in files:
            _flush(directory / file.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            existing = digest_files(target)
            if tree_digest(existing) == tree_digest(files):
                shutil.rmtree(directory)
                return Published(name=name, files=existing, digest=tree_digest(existing))
            shutil.rmtree(target)
        directory.rename(target)
        _flush(target.parent)
        return Published(name=name, files=files, digest=tree_digest(files))


def _flush(path: Path) -> None:
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
