"""Reading a replica's spool: closed records in batches, and which requests were open when it died.

`position` says how far the records are in Postgres: the segment's number and the offset in it, then a line
for each request that is open there. It is written after the commit, so a crash in between repeats a batch,
never skips one. Knows no database. Sizes are bytes.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from raymill.serve.gateway.spool import LOCK, POSITION, Closed, Opened, UsageRecord, segment_name

logger = logging.getLogger(__name__)

MAX_RECORDS = 2000
MAX_BATCH_BYTES = 4 << 20
REFUSED = "refused.jsonl"
"""Beside the replicas' folders: lines that are no records, kept for people."""

_decode: Callable[[bytes], Opened | Closed] = msgspec.json.Decoder(Opened | Closed).decode
_decode_open = msgspec.json.Decoder(Opened).decode
_encode = msgspec.json.Encoder().encode


class Position(NamedTuple):
    segment: int
    offset: int


class Batch(NamedTuple):
    closed: list[Closed]
    open: dict[uuid.UUID, UsageRecord]
    """Requests that are open after the batch."""

    end: Position
    size_bytes: int


class SpoolReader:
    """Reads one replica's folder. One at a time in the world: the ingester's lock sees to that."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.replica_id = uuid.UUID(folder.name)
        self.open: dict[uuid.UUID, UsageRecord] = {}
        self.position = self._recall()
        self._lock: int | None = None

    def is_dead(self) -> bool:
        """Whether the replica has ended, so that nothing more is written here."""
        if self._lock is None:
            descriptor = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return False
            self._lock = descriptor
        return True

    def read(self) -> Batch:
        """What follows the position; no more than a batch. Empty at the end."""
        closed: list[Closed] = []
        open_ = dict(self.open)
        end, size_bytes = self.position, 0
        for line, end in self._lines():  # noqa: B007 (the last one is where the batch ends)
            size_bytes += len(line)
            entry = self._entry(line)
            if isinstance(entry, Opened):
                open_[entry.record.id] = entry.record
            elif entry is not None:
                open_.pop(entry.record.id, None)
                closed.append(entry)
            if len(closed) >= MAX_RECORDS or size_bytes >= MAX_BATCH_BYTES:
                break
        return Batch(closed, open_, end, size_bytes)

    def remember(self, batch: Batch) -> None:
        """The batch is in Postgres."""
        lines = [b"%d %d\n" % batch.end]
        lines += [_encode(Opened(record)) + b"\n" for record in batch.open.values()]
        fresh = self.folder / f"{POSITION}.new"
        fresh.write_bytes(b"".join(lines))
        fresh.replace(self.folder / POSITION)
        self.position, self.open = batch.end, batch.open
        for number in self._segments():
            if number < batch.end.segment:
                (self.folder / segment_name(number)).unlink()

    def delete(self) -> None:
        """All of it is in Postgres, and the replica is dead."""
        shutil.rmtree(self.folder)
        self.close()

    def close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _lines(self) -> Iterator[tuple[bytes, Position]]:
        """Whole lines after the position, each with the position after it."""
        number, offset = self.position
        while True:
            # Looked for before reading: once there is a next segment, or no writer, this one is complete.
            complete = self._exists(number + 1) or self._lock is not None
            with contextlib.suppress(FileNotFoundError), self._path(number).open("rb") as file:
                file.seek(offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        if not complete:
                            return
                        logger.warning("Left out half a record at the end of %s", self._path(number))
                    offset += len(line)
                    yield line, Position(number, offset)
            if not self._exists(number + 1):
                return
            if complete:
                number, offset = number + 1, 0
                yield b"", Position(number, offset)

    def _entry(self, line: bytes) -> Opened | Closed | None:
        if not line.endswith(b"\n"):
            return None
        try:
            return _decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            logger.error(
                "Left out a line of %s that is no record, kept in %s: %s", self.folder, REFUSED, error
            )
            keep_refused(self.folder.parent, line)
            return None

    def _recall(self) -> Position:
        with contextlib.suppress(FileNotFoundError, ValueError, msgspec.MsgspecError):
            head, *lines = (self.folder / POSITION).read_bytes().splitlines()
            number, offset = map(int, head.split())
            records = [_decode_open(line).record for line in lines]
            self.open = {record.id: record for record in records}
            return Position(number, offset)
        return Position(min(self._segments(), default=1), 0)

    def _segments(self) -> list[int]:
        return sorted(int(path.stem) for path in self.folder.glob("*.jsonl"))

    def _exists(self, number: int) -> bool:
        return self._path(number).exists()

    def _path(self, number: int) -> Path:
        return self.folder / segment_name(number)


def is_spool(path: Path) -> bool:
    """Whether this is a replica's folder, and not a draft of one or something else."""
    try:
        uuid.UUID(path.name)
    except ValueError:
        return False
    return path.is_dir()


def keep_refused(directory: Path, line: bytes) -> None:
    """Keep what could not be stored, so that a person may look at it."""
    with (directory / REFUSED).open("ab") as file:
        file.write(line.rstrip(b"\n") + b"\n")
