"""What the rest of the code asks of artifacts, whether they lie in a folder or behind a URL.

Directories that are given out are read, never written to. Knows no database: digests and files are those of an artifact's
row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

from raymill.registry.artifacts import FileDigest, Published, Tampered

T = TypeVar("T")


class Artifacts(Protocol):
    """Where published directories lie: a folder, or a URL with a cache on each node.

    `digest` is the artifact's own (`Published.digest`), as its row says.
    """

    def publish(self, name: str, directory: Path) -> Published:
        """Take `directory` over, as a whole or not at all. No reader looks there before the row is committed."""
        ...

    def hold(self, name: str, digest: str) -> AbstractContextManager[Path]:
        """The artifact as a local directory, which stays there as long as it is held.

        Raises:
            NotFound: nothing of that digest was published under `name`.
            Tampered: what lies there has another digest.
        """
        ...

    def hold_file(self, name: str, file: FileDigest) -> AbstractContextManager[Path]:
        """One of its files, without the others. Raises as `hold`."""
        ...

    def reading(self, name: str, digest: str, path: str) -> AbstractContextManager[BinaryIO]:
        """One of its files, read from where it lies: no copy is made. Raises NotFound."""
        ...

    def holds(self, name: str, files: Sequence[FileDigest]) -> bool:
        """Whether files of these sizes are there. Their bytes are checked where they are used."""
        ...

    def verify(self, name: str, files: Sequence[FileDigest]) -> None:
        """Read every byte where it lies, and compare. Raises as `verify_files`."""
        ...

    def place(self, name: str, digest: str) -> Path:
        """Where `hold` puts it on any node; it need not be there."""
        ...

    def here(self, path: Path) -> Path:
        """`path`, which another process got from `hold` or `place`, with its artifact on this node until the process
        ends. A path of anything else is given back as it is. Raises as `hold`."""
        ...

    def refresh(self, path: Path) -> bool:
        """Copy the artifact at `path` anew; False where `path` is no copy. Raises as `hold`."""
        ...


def checked(store: Artifacts, path: Path, check: Callable[[], T]) -> T:
    """What `check` finds of the artifact at `path`. A copy that it refuses is made anew, once: it may be the disk's fault.

    Raises:
        Tampered: what lies in the store itself is refused.
    """
    try:
        return check()
    except Tampered:
        if not store.refresh(path):
            raise
        return check()
