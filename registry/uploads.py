"""Files that clients send in pieces, resumable from any replica of the control plane.

A row says what is to come; the length of a file on disk says how much of it has. Replicas share one home on
one machine, so any of them can go on where another one was ended. What is whole is kept by its content:

    <folder>/parts/<id>                what has arrived of an unfinished upload
    <folder>/files/<sha256>/<name>     whole, and compared with what was announced

Sizes and offsets are bytes.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from raymill.policies.errors import Conflict, Denied, Invalid, NotFound, Unavailable
from raymill.registry import audit
from raymill.registry.artifacts import sha256_file
from raymill.registry.audit import Actor
from raymill.registry.database import clock
from raymill.registry.files import flush_folder, locked
from raymill.registry.tables import Upload, new_id

FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ +()-]{0,199}")
SHA256 = re.compile(r"[0-9a-f]{64}")
SPARE_BYTES = 256 << 20
"""Of the disk that an upload leaves alone: Postgres and the logs need some."""

UNFINISHED_FOR = dt.timedelta(days=1)
FINISHED_FOR = dt.timedelta(days=7)
"""By then a job has read it, and its rows lie in an artifact."""

BUSY_S = 5.0


class TooLarge(Invalid):
    code = "too_large"


class DiskFull(Unavailable):
    code = "disk_full"


class WrongOffset(Conflict):
    """The bytes do not begin where the file ends; `offset` is where that is."""

    code = "wrong_offset"

    def __init__(self, offset: int, got: int) -> None:
        super().__init__(f"the bytes begin at {got}, {offset} have arrived: go on from {offset}")
        self.offset = offset


def begin(
    session: Session, folder: Path, actor: Actor, *, name: str, size_bytes: int, sha256: str, max_bytes: int
) -> Upload:
    """Announce a file. The same file announced again is the same upload, with what has arrived of it.

    Raises:
        Invalid: the name, size or digest is none.
        TooLarge: the file is larger than `max_bytes`.
        DiskFull: it would not fit.
    """
    if not FILE_NAME.fullmatch(name):
        raise Invalid(f"name is {name[:80]!r}: give a plain file name, such as train.jsonl", param="name")
    if not SHA256.fullmatch(sha256):
        raise Invalid(f"sha256 is {sha256[:80]!r}: give 64 hex digits in lower case", param="sha256")
    if size_bytes < 1:
        raise Invalid(f"{name} is empty: give a file with at least one row", param="size_bytes")
    if size_bytes > max_bytes:
        raise TooLarge(
            f"{name} has {size_bytes:,} bytes, at most {max_bytes:,} are taken: split it, raise "
            "RAYMILL_MAX_UPLOAD_BYTES, or copy it to the service's machine and give its path there",
            param="size_bytes",
        )
    row = session.scalar(
        select(Upload)
        .where(Upload.sha256 == sha256, Upload.name == name, Upload.created_by == actor.name)
        .where(Upload.completed_at.is_(None))
        .limit(1)
    )
    row = row or Upload(id=new_id(), name=name, size_bytes=size_bytes, sha256=sha256, created_by=actor.name)
    whole = _whole(folder, sha256)
    if whole is not None and whole.stat().st_size == size_bytes:
        _also_called(whole, path_of(folder, row))
        row.completed_at = clock(session)
    else:
        make_room(folder, size_bytes - arrived(folder, row))
    session.add(row)
    session.flush()
    session.refresh(row)
    return row


def find(session: Session, upload_id: uuid.UUID, actor: Actor, *, any_account: bool = False) -> Upload:
    """
    Raises:
        NotFound: there is none, or it was thrown away.
        Denied: it is another account's.
    """
    row = session.get(Upload, upload_id)
    if row is None:
        raise NotFound(f"no upload {upload_id}: unfinished ones are thrown away after a day; begin it again")
    if row.created_by != actor.name and not any_account:
        raise Denied(f"upload {upload_id} is {row.created_by}'s: send the file yourself")
    return row


def path_of(folder: Path, row: Upload) -> Path:
    """Where the whole file lies, once it does."""
    return folder / "files" / row.sha256 / row.name


def part_of(folder: Path, row: Upload) -> Path:
    return folder / "parts" / str(row.id)


def arrived(folder: Path, row: Upload) -> int:
    """How many bytes are there."""
    if row.completed_at is not None:
        return row.size_bytes
    try:
        return part_of(folder, row).stat().st_size
    except FileNotFoundError:
        return 0


@contextlib.contextmanager
def writing(folder: Path, row: Upload) -> Iterator[None]:
    """One connection at a time. The kernel gives the lock back when its holder dies.

    Raises:
        Conflict: another connection is at it.
    """
    parts = folder / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    lock = parts / f"{row.id}.lock"
    try:
        with locked(lock, timeout_s=BUSY_S):
            yield
    except Unavailable as error:
        if str(lock) not in str(error):
            raise
        raise Conflict(f"another connection sends upload {row.id}: wait until it ends, then go on") from None


def make_room(folder: Path, size_bytes: int) -> None:
    """Raise DiskFull unless `size_bytes` more fit."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free - SPARE_BYTES
    if size_bytes > free:
        raise DiskFull(
            f"{size_bytes:,} bytes are to come, the service's disk has room for {max(0, free):,}: "
            "free some of it, or move RAYMILL_HOME to a larger one"
        )


def finish(session: Session, folder: Path, row: Upload, actor: Actor) -> None:
    """All bytes are there: compare them with what was announced. Under `writing`.

    Raises:
        Invalid: they differ; nothing is left of the upload.
    """
    if row.completed_at is not None:
        return
    part = part_of(folder, row)
    digest = sha256_file(part)
    if digest != row.sha256:
        part.unlink()
        raise Invalid(
            f"{row.name} arrived with sha256 {digest[:12]}, {row.sha256[:12]} was announced: send it again",
            param="sha256",
        )
    target = path_of(folder, row)
    target.parent.mkdir(parents=True, exist_ok=True)
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    part.replace(target)
    flush_folder(target.parent)
    row.completed_at = clock(session)
    audit.record(session, actor, "upload.complete", f"upload/{row.id}", name=row.name, sha256=row.sha256)


def touch(session: Session, upload_id: uuid.UUID) -> None:
    session.execute(update(Upload).where(Upload.id == upload_id).values(touched_at=func.clock_timestamp()))


def abandon(session: Session, folder: Path, row: Upload) -> None:
    """Throw an unfinished upload away; a whole file stays until it is swept."""
    if row.completed_at is None:
        _forget(folder, row)
    session.delete(row)


def sweep(session: Session, folder: Path) -> int:
    """Throw away what was left unfinished a day ago, and whole files of a week ago. Returns how many."""
    now = clock(session)
    unfinished = select(Upload).where(Upload.completed_at.is_(None), Upload.touched_at < now - UNFINISHED_FOR)
    finished = select(Upload).where(Upload.completed_at < now - FINISHED_FOR)
    swept = [*session.scalars(unfinished), *session.scalars(finished)]
    for row in swept:
        session.delete(row)
    session.flush()
    for row in swept:
        _forget(folder, row)
        kept = session.scalar(select(Upload.id).where(Upload.sha256 == row.sha256).limit(1))
        if row.completed_at is not None and kept is None:
            shutil.rmtree(path_of(folder, row).parent, ignore_errors=True)
    return len(swept)


def _forget(folder: Path, row: Upload) -> None:
    part_of(folder, row).unlink(missing_ok=True)
    (folder / "parts" / f"{row.id}.lock").unlink(missing_ok=True)


def _whole(folder: Path, sha256: str) -> Path | None:
    """A file of that content, under whatever name."""
    found = folder / "files" / sha256
    return next(iter(sorted(found.iterdir())), None) if found.is_dir() else None


def _also_called(whole: Path, name: Path) -> None:
    if not name.exists():
        name.hardlink_to(whole)
