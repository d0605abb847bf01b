"""Copies of artifacts on a node: bounded in bytes, the least recently used go first, none that a process holds.

    <root>/trees/<kind>/<name>/<address>/<digest>    a whole artifact
          /files/<sha256>                            one file of one
          /locks/<key>                               held shared by whoever uses the entry; its text is the entry's bytes
          /fetching/<key>                            held by the one process that brings the entry
          /drafts/<key>                              being brought, and `going-<key>`: being removed
          /room                                      held by whoever makes room

The locks are the kernel's: they end with the process that held them, however that ends. An entry appears by a rename, so
what a killed process left is in `drafts` alone. Knows nothing of where the bytes come from.

Keys are paths below the root, with `+` for `/` where they name a file; sizes are bytes.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TextIO

from raymill.policies.errors import Invalid, Unavailable
from raymill.registry.artifacts import flush

TREES, FILES = "trees", "files"
GOING = "going-"

_kept: dict[Path, ExitStack] = {}
"""What this process holds until it ends."""


class Cache:
    """A folder of copies, for all processes that name it.

    Args:
        limit_bytes: what the entries take at the most, together.
    """

    def __init__(self, root: Path, limit_bytes: int) -> None:
        self.root = root
        self._limit_bytes = limit_bytes

    @contextmanager
    def hold(self, key: str, size_bytes: Callable[[], int], bring: Callable[[Path], None]) -> Iterator[Path]:
        """The entry `key`, brought unless it is there, and kept as long as it is held.

        Args:
            size_bytes: how many it will take.
            bring: puts it at the path that it is given, whole and checked.

        Raises:
            Invalid: it is larger than the whole cache may be.
            Unavailable: the rest of the cache is in use.
        """
        path = self.root / key
        with self._locked("locks", key, fcntl.LOCK_SH) as mine:
            if not path.exists():
                with self._locked("fetching", key, fcntl.LOCK_EX, gone_after=True):
                    if not path.exists():
                        self._take_room(key, mine, size_bytes())
                        self._bring(key, bring)
            os.utime(mine.fileno())
            yield path

    def keep(self, key: str, size_bytes: Callable[[], int], bring: Callable[[Path], None]) -> Path:
        """As `hold`, until this process ends."""
        path = self.root / key
        if path not in _kept:
            stack = ExitStack()
            stack.enter_context(self.hold(key, size_bytes, bring))
            _kept[path] = stack
        return path

    def again(self, key: str, bring: Callable[[Path], None]) -> None:
        """Bring an entry anew, whoever holds it: what lies there is not what it should be."""
        with self._locked("fetching", key, fcntl.LOCK_EX, gone_after=True):
            self._away(self.root / key)
            self._bring(key, bring)

    def add(self, key: str, size_bytes: int, directory: Path) -> bool:
        """Take over what lies at `directory`, on the same disk, as an entry. Returns whether there was room."""

        def move(draft: Path) -> None:
            directory.rename(draft)

        try:
            with self.hold(key, lambda: size_bytes, move):
                return not directory.exists()
        except (Invalid, Unavailable, OSError):  # it is brought when somebody needs it
            return False

    def entries(self) -> dict[str, int]:
        """Key -> bytes, the least recently used first."""
        found = [(path.stat().st_mtime_ns, path) for path in (self.root / "locks").glob("*")]
        return {path.name.replace("+", "/"): int(path.read_text() or 0) for _, path in sorted(found)}

    def _bring(self, key: str, bring: Callable[[Path], None]) -> None:
        path, draft = self.root / key, self._draft(key)
        _remove(draft)  # of a process that was killed
        draft.parent.mkdir(parents=True, exist_ok=True)
        try:
            bring(draft)
            path.parent.mkdir(parents=True, exist_ok=True)
            draft.rename(path)
        except BaseException:
            _remove(draft)
            raise
        flush(path.parent)

    def _take_room(self, key: str, mine: TextIO, size_bytes: int) -> None:
        """Have room for an entry, and say that it is taken."""
        if size_bytes > self._limit_bytes:
            raise Invalid(
                f"an artifact of {size_bytes:,} bytes does not fit into {self.root}, which holds {self._limit_bytes:,}: "
                "raise RAYMILL_CACHE_BYTES"
            )
        with self._locked("", "room", fcntl.LOCK_EX):
            for path in (self.root / "drafts").glob(f"{GOING}*"):
                with suppress(FileNotFoundError):  # whoever removes it is alive
                    _remove(path)
            entries = self.entries()
            entries.pop(key, None)
            over = sum(entries.values()) + size_bytes - self._limit_bytes
            for each, taken in entries.items():
                if over <= 0:
                    break
                if self._gave_way(each):
                    over -= taken
            if over > 0:
                raise Unavailable(
                    f"{self.root} lacks {over:,} bytes of room, and what is there is in use: raise RAYMILL_CACHE_BYTES, "
                    "or let fewer jobs and models run here"
                )
            mine.truncate(0)
            mine.write(str(size_bytes))
            mine.flush()

    def _gave_way(self, key: str) -> bool:
        """Whether nobody holds an entry, and it is gone now. For the holder of `room`."""
        lock, path = self.root / "locks" / _flat(key), self.root / key
        with lock.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            # What others keep beside a tree goes with it.
            for each in (path, self._draft(key), *path.parent.glob(f".{path.name}.*")):
                self._away(each)
            lock.unlink()
        return True

    def _away(self, path: Path) -> None:
        """Remove what need not be there; from the first moment on nobody finds half of it."""
        going = self._draft(f"{GOING}{os.getpid()}-{threading.get_ident()}-{path.name}")
        going.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            path.rename(going)
            _remove(going)

    def _draft(self, key: str) -> Path:
        return self.root / "drafts" / _flat(key)

    @contextmanager
    def _locked(self, folder: str, key: str, how: int, *, gone_after: bool = False) -> Iterator[TextIO]:
        """A lock by its file. One that was removed while we waited for it is not the one that others take."""
        path = self.root / folder / _flat(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            with path.open("a+") as file:  # NFS takes a shared lock only where one may read
                fcntl.flock(file, how)
                if not _is(path, file):
                    continue
                try:
                    yield file
                finally:
                    if gone_after:
                        path.unlink()
                return


def _is(path: Path, file: TextIO) -> bool:
    try:
        return path.stat().st_ino == os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return False


def _flat(key: str) -> str:
    return key.replace("/", "+")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
