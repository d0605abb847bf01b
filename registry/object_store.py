"""Artifacts behind a URL (`object_files`), copied to a cache of the node where they are used (`artifact_cache`).

A reader finds a tree by its row alone. So publishing needs no rename: what a killed upload left is seen by nobody, and
`cluster/artifact_sweep.py` deletes it. A copy is made once on a node, and is there once its digest is the registered one.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from raymill.policies.errors import Invalid, NotFound
from raymill.registry.artifact_cache import FILES, TREES, Cache
from raymill.registry.artifacts import (
    CHUNK_BYTES,
    FileDigest,
    Published,
    Tampered,
    check_name,
    compare_files,
    digest_files,
    flush,
    tree_digest,
)
from raymill.registry.object_files import NAME_PARTS, ObjectFiles, at_once


class ObjectStore:
    """Published directories at a URL: what is `Artifacts` of it (`artifact_access`)."""

    def __init__(self, objects: ObjectFiles, cache: Cache) -> None:
        self.objects = objects
        self._cache = cache

    def publish(self, name: str, directory: Path) -> Published:
        """Upload `directory`, and keep it as this node's copy where there is room.

        All of it is uploaded again when it lies there already, so that a sweep does not take it for an old upload.
        """
        check_name(name)
        files = digest_files(directory)
        if not files:
            raise Invalid(f"{name} has no files: nothing of it would be found at {self.objects.url}")
        published = Published(name=name, files=files, digest=tree_digest(files))
        self.objects.put(name, published.digest, directory, files)
        for file in files:
            flush(directory / file.path)
        if not self._cache.add(_key(name, published.digest), published.size_bytes, directory):
            shutil.rmtree(directory)
        return published

    @contextmanager
    def hold(self, name: str, digest: str) -> Iterator[Path]:
        with self._cache.hold(*self._entry(name, digest)) as path:
            yield path

    @contextmanager
    def hold_file(self, name: str, file: FileDigest) -> Iterator[Path]:
        check_name(name)

        def bring(draft: Path) -> None:
            self._bring_file(name, file, draft)

        with self._cache.hold(f"{FILES}/{file.sha256}", lambda: file.size_bytes, bring) as path:
            yield path

    @contextmanager
    def reading(self, name: str, digest: str, path: str) -> Iterator[BinaryIO]:
        with self.objects.reading(name, digest, path) as file:
            yield file

    def holds(self, name: str, files: Sequence[FileDigest]) -> bool:
        wanted = {file.path: file.size_bytes for file in files}
        return self.objects.sizes(name, tree_digest(files)) == wanted

    def verify(self, name: str, files: Sequence[FileDigest]) -> None:
        digest = tree_digest(files)
        paths = sorted(self.objects.sizes(name, digest))
        if not paths:
            raise Tampered(f"{name} is missing from {self.objects.url}: restore it from a backup")

        def read(path: str) -> str:
            found = hashlib.sha256()
            with self.reading(name, digest, path) as file:
                while piece := file.read(CHUNK_BYTES):
                    found.update(piece)
            return found.hexdigest()

        compare_files(name, dict(zip(paths, at_once(read, paths), strict=True)), files)

    def place(self, name: str, digest: str) -> Path:
        return self._cache.root / _key(name, digest)

    def here(self, path: Path) -> Path:
        if (found := self._of_copy(path)) is not None:
            self._cache.keep(*self._entry(*found))
        return path

    def refresh(self, path: Path) -> bool:
        if (found := self._of_copy(path)) is None:
            return False
        key, _, bring = self._entry(*found)
        self._cache.again(key, bring)
        return True

    def _entry(self, name: str, digest: str) -> tuple[str, Callable[[], int], Callable[[Path], None]]:
        """Key in the cache, size, and how it comes there."""
        return (
            _key(check_name(name), digest),
            lambda: sum(self._sizes(name, digest).values()),
            lambda draft: self._bring(name, digest, draft),
        )

    def _sizes(self, name: str, digest: str) -> dict[str, int]:
        if not (sizes := self.objects.sizes(name, digest)):
            raise self._is_gone(name)
        return sizes

    def _bring(self, name: str, digest: str, draft: Path) -> None:
        def get(path: str) -> FileDigest:
            return self.objects.get(name, digest, path, draft / path)

        found = tree_digest(at_once(get, sorted(self._sizes(name, digest))))
        if found != digest:
            raise Tampered(
                f"artifact {name} in {self.objects.url} has digest {found[:12]}, {digest[:12]} was registered: "
                "restore it from a backup or make it again"
            )

    def _bring_file(self, name: str, file: FileDigest, draft: Path) -> None:
        """From whichever tree of that name has it: what a killed upload left may lie beside."""
        digests = self.objects.digests(name)
        if not digests:
            raise self._is_gone(name)
        for digest in digests:
            there = self.objects.sizes(name, digest).get(file.path)
            if there == file.size_bytes and self.objects.get(name, digest, file.path, draft) == file:
                return
        raise Tampered(f"{file.path} in artifact {name} is not what was registered: restore it from a backup")

    def _is_gone(self, name: str) -> NotFound:
        return NotFound(
            f"artifact {name} is not in {self.objects.url}: restore it from a backup, or run the step that makes it again"
        )

    def _of_copy(self, path: Path) -> tuple[str, str] | None:
        """Name and digest of the artifact that `path` is, or lies in; None where it is no copy of one."""
        try:
            parts = path.relative_to(self._cache.root / TREES).parts
        except ValueError:
            return None
        return "/".join(parts[:NAME_PARTS]), parts[NAME_PARTS]


def _key(name: str, digest: str) -> str:
    return f"{TREES}/{name}/{digest}"
