"""Small files of record: written whole or not at all, secrets readable by their owner alone."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from raymill.policies.errors import Unavailable


def read_or_empty(path: Path) -> str:
    """The text of a file, empty when there is none."""
    try:
        return path.read_text(errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except PermissionError as error:
        raise Unavailable(f"{path} belongs to another user: run as that user, or set RAYMILL_HOME") from error


def write_private(path: Path, text: str) -> None:
    """Readable by its owner alone, on disk, and whole or not there at all."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{text}\n")
        file.flush()
        os.fsync(descriptor)
    fresh.replace(path)
    flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Put the names in `folder` on disk, so that a rename in it outlasts a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Like mkdir -p. Folders made here may be entered by all, whatever the umask; others stay as is."""
    for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        missing.mkdir(exist_ok=True)
        missing.chmod(0o755)


def make_private(folder: Path) -> None:
    """A folder that no other user may enter, also where its name is known beforehand and others may make it.

    Raises:
        Unavailable: it is somebody else's, or no folder.
    """
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    about = folder.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid():
        raise Unavailable(f"{folder} belongs to another user, or is no folder: remove it, or set TMPDIR")
    folder.chmod(0o700)


@contextlib.contextmanager
def locked(path: Path, *, timeout_s: float, poll_s: float = 0.05) -> Iterator[None]:
    """One process at a time; the kernel frees the lock when its holder dies. The empty file stays.

    Raises:
        Unavailable: somebody else held it for `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Unavailable(
                        f"another process has held {path} for {timeout_s:.0f} s: see what it does, or end it"
                    ) from None
                time.sleep(poll_s)
        yield
