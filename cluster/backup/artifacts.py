"""Files of artifacts, into a backup and out of it. Content decides: nothing is believed that was not read.

What an earlier backup has is linked, not copied, so each backup is whole by itself and costs what is new; deleting one
takes nothing from the others. Links are never made to the store itself: a fault there would be one in the backup.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from raymill.cluster.backup.manifest import ArtifactFiles, Backup
from raymill.policies.errors import NotFound
from raymill.registry.artifact_access import Artifacts
from raymill.registry.artifacts import (
    CHUNK_BYTES,
    DIGEST_THREADS,
    FileDigest,
    Tampered,
    sha256_file,
    tree_digest,
)

FOLDER = "artifacts"


class Pool:
    """Files of earlier backups by their digest. Their bytes are read again before they are linked."""

    def __init__(self, earlier: Iterable[Backup]) -> None:
        self._known: dict[str, Path] = {}
        for backup in earlier:
            for each in backup.manifest.artifacts:
                for file in each.files:
                    self._known[file.sha256] = backup.path / FOLDER / each.name / file.path

    def lacks(self, artifacts: Iterable[ArtifactFiles]) -> int:
        """Bytes that must be copied."""
        sizes = {file.sha256: file.size_bytes for each in artifacts for file in each.files}
        return sum(size for sha256, size in sizes.items() if sha256 not in self._known)

    def link(self, file: FileDigest, target: Path) -> bool:
        """Whether an earlier backup has it whole, and a link to it could be made."""
        source = self._known.get(file.sha256)
        if source is None:
            return False
        with contextlib.suppress(OSError):
            if sha256_file(source) == file.sha256:
                os.link(source, target)
                return True
        return False

    def add(self, file: FileDigest, path: Path) -> None:
        self._known[file.sha256] = path


def take(
    artifacts: tuple[ArtifactFiles, ...], store: Artifacts, target: Path, pool: Pool
) -> tuple[int, tuple[ArtifactFiles, ...], tuple[str, ...]]:
    """Bring `artifacts` into the backup at `target`.

    Returns:
        How many bytes were copied, which artifacts are there, and the names of those that are damaged or gone.
    """
    copied, there, lost = 0, [], []
    for each in artifacts:
        folder = target / FOLDER / each.name
        try:
            for file in each.files:
                path = folder / file.path
                path.parent.mkdir(parents=True, exist_ok=True)
                if not pool.link(file, path):
                    _copy_from(store, each, file, path)
                    copied += file.size_bytes
                    pool.add(file, path)
        except (Tampered, NotFound):
            shutil.rmtree(folder)
            lost.append(each.name)
        else:
            there.append(each)
    return copied, tuple(there), tuple(lost)


def _copy_from(store: Artifacts, artifact: ArtifactFiles, file: FileDigest, target: Path) -> None:
    """Raises Tampered and NotFound, and Unavailable where the store is not reached: then there is no backup."""
    with store.reading(artifact.name, tree_digest(artifact.files), file.path) as reading:
        _copy(reading, target, file, f"{artifact.name}/{file.path}", flush=True)


def put_all(files: Iterable[tuple[Path, FileDigest]], target: Path, *, link: bool = False) -> None:
    """Bring files of a backup to `target / file.path`, several at once.

    Args:
        link: hard links where the file system makes them, for a copy that nobody writes to. Their bytes are read
            all the same.

    Raises:
        Tampered: one is not what was backed up; names it.
    """

    def put(one: tuple[Path, FileDigest]) -> None:
        source, file = one
        path = target / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        if link and _linked(source, path):
            check(source, file)
        else:
            copy_checked(source, path, file)

    with ThreadPoolExecutor(DIGEST_THREADS) as threads:
        try:
            for _ in threads.map(put, files):
                pass
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise


def _linked(source: Path, path: Path) -> bool:
    try:
        os.link(source, path)
    except OSError:
        return False
    return True


def check(path: Path, file: FileDigest) -> None:
    """
    Raises:
        Tampered: `path` does not hold what `file` says; names it.
    """
    if not path.is_file():
        raise Tampered(f"{path} is missing: take another backup, or restore an older one")
    found = sha256_file(path)
    if found != file.sha256:
        raise _damaged(str(path), file, found)


def copy_checked(source: Path, target: Path, file: FileDigest, *, flush: bool = False) -> None:
    """Copy one file and hash what passes by.

    Args:
        flush: it is on disk when this returns.

    Raises:
        Tampered: it is missing or not what `file` says.
    """
    try:
        reading = source.open("rb")
    except FileNotFoundError:
        raise Tampered(f"{source} is missing: take another backup, or restore an older one") from None
    with reading:
        _copy(reading, target, file, str(source), flush=flush)


def _copy(reading: BinaryIO, target: Path, file: FileDigest, label: str, *, flush: bool) -> None:
    digest = hashlib.sha256()
    target.unlink(missing_ok=True)  # it may be a link to what must not be written to
    with target.open("xb") as writing:
        while piece := reading.read(CHUNK_BYTES):
            digest.update(piece)
            writing.write(piece)
        if flush:
            writing.flush()
            os.fsync(writing.fileno())
    if digest.hexdigest() != file.sha256:
        target.unlink()
        raise _damaged(label, file, digest.hexdigest())


def _damaged(label: str, file: FileDigest, found: str) -> Tampered:
    return Tampered(
        f"{label} is damaged: it has sha256 {found[:12]}, {file.sha256[:12]} was backed up; "
        "take another backup, or restore an older one"
    )
