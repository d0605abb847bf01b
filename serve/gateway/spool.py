"""Usage records on disk until they are in Postgres: a replica's own folder, to which it only appends.

    <directory>/<replica id>/lock            held while the replica lives; the kernel frees it
                             00000001.jsonl  segments, one JSON object a line
                             position        how far the ingester has come, see `segments`

One `write` for each record, without a flush to disk: what `write` has taken outlives a killed process, though
not a machine that loses power. A request leaves a record when it goes to an upstream and another when it
ends, so that of a replica killed in between the first one tells. Knows no database. Sizes are bytes.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import fcntl
import logging
import os
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from raymill.policies.errors import Unavailable
from raymill.serve.gateway.limits import Delta

logger = logging.getLogger(__name__)

SEGMENT_BYTES = 4 << 20
MAX_BYTES = 256 << 20
"""About 300,000 records: minutes of full load while Postgres is away."""

LOOK_AGAIN_S = 0.25
LOCK, POSITION = "lock", "position"


class UsageRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One request: exactly the columns of the table `usage`. What it starts with is what a killed replica leaves."""

    id: uuid.UUID
    request_id: str
    at: dt.datetime
    replica_id: uuid.UUID
    key_id: uuid.UUID
    account_id: uuid.UUID
    team_id: uuid.UUID | None = None
    operation: str
    route: str
    provider: str = ""
    model: str = ""
    status: int = 0
    outcome: str = "lost"
    stream: bool = False
    attempts: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False
    cost_micro_usd: int = 0
    priced: bool = False
    latency_ms: float = 0.0
    first_token_ms: float | None = None
    overhead_ms: float = 0.0
    canary_id: uuid.UUID | None = None
    arm: str | None = None


class TraceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Prompt and answer of a request, personal data masked already."""

    prompt: dict[str, Any]
    answer: dict[str, Any]


class Opened(msgspec.Struct, frozen=True, tag="open", tag_field="kind"):
    record: UsageRecord


class Closed(msgspec.Struct, frozen=True, tag="close", tag_field="kind", omit_defaults=True):
    record: UsageRecord
    deltas: Sequence[Delta] = ()
    trace: TraceRecord | None = None


_encode = msgspec.json.Encoder().encode
UNWRITABLE = (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError)
"""What a value that is no JSON raises."""


class Spool:
    """The writer: one in a replica, on its event loop's thread."""

    def __init__(
        self,
        directory: Path,
        replica_id: uuid.UUID,
        max_bytes: int = MAX_BYTES,
        *,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        self.max_bytes = max_bytes
        self.folder = directory / str(replica_id)
        self._segment_bytes = segment_bytes
        self._number = 1
        self._sizes = {1: 0}  # of segments that are not known to be ingested
        self._ingested_bytes = 0  # of the first of them
        self._looked_at = 0.0
        self._unwritten: list[bytes] = []
        # Under a name that the ingester does not look at: a folder without a held lock is a dead replica's.
        draft = directory / f".{replica_id}"
        draft.mkdir(parents=True)
        self._lock = os.open(draft / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._file = _open(draft / segment_name(1))
        draft.rename(self.folder)

    def open_request(self, record: UsageRecord) -> None:
        """A request goes to an upstream: of a replica killed before it ends, `record` is what is kept.

        Raises:
            Unavailable: no more records can be kept, so no more requests can be let in.
        """
        if self.full():
            raise Unavailable(
                f"{self.depth_bytes()} bytes of usage records wait in {self.folder}, which may hold "
                f"{self.max_bytes}: see that Postgres runs and the disk has room"
            )
        try:
            self._append(_encode(Opened(record)) + b"\n")
        except OSError as error:
            raise Unavailable(
                f"usage records cannot be written to {self.folder}: {error.strerror}"
            ) from error

    def close_request(
        self, record: UsageRecord, deltas: Sequence[Delta], trace: TraceRecord | None = None
    ) -> None:
        """A request has ended. Never fails: what the disk does not take waits in memory, while nothing new
        is let in."""
        try:
            line = _encode(Closed(record, deltas, trace)) + b"\n"
        except UNWRITABLE as error:
            if trace is None:
                raise
            logger.warning(
                "The trace of request %s is left out, for it is no JSON: %s", record.request_id, error
            )
            line = _encode(Closed(record, deltas)) + b"\n"
        if self._unwritten:
            self._unwritten.append(line)
            return
        try:
            self._append(line)
        except OSError as error:
            logger.warning("Usage records wait in memory: %s: %s", self.folder, error.strerror)
            self._unwritten.append(line)

    def full(self) -> bool:
        """Whether no new request may be let in."""
        return (bool(self._unwritten) and not self._write_late()) or self.depth_bytes() >= self.max_bytes

    def depth_bytes(self) -> int:
        """Of records that are not in Postgres yet, as known a moment ago."""
        now = time.monotonic()
        if now - self._looked_at > LOOK_AGAIN_S:
            self._looked_at = now
            self._look()
        return sum(self._sizes.values()) - self._ingested_bytes + sum(map(len, self._unwritten))

    def close(self) -> None:
        """The replica ends. The ingester goes on with what is here, and then deletes the folder."""
        self._write_late()
        if self._unwritten:
            logger.error("%d usage records are lost: %s takes no more", len(self._unwritten), self.folder)
        for descriptor in (self._file, self._lock):
            os.close(descriptor)

    def _append(self, line: bytes) -> None:
        size = self._sizes[self._number]
        if size and size + len(line) > self._segment_bytes:
            file = _open(self.folder / segment_name(self._number + 1))
            os.close(self._file)
            self._file, size = file, 0
            self._number += 1
            self._sizes[self._number] = 0
        if os.write(self._file, line) != len(line):
            os.ftruncate(self._file, size)  # half a record, which nobody has read: it has no end of line
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._sizes[self._number] = size + len(line)

    def _write_late(self) -> bool:
        """Whether nothing waits in memory any more."""
        with contextlib.suppress(OSError):
            while self._unwritten:
                self._append(self._unwritten[0])
                del self._unwritten[0]
        return not self._unwritten

    def _look(self) -> None:
        with contextlib.suppress(FileNotFoundError, ValueError), (self.folder / POSITION).open("rb") as file:
            number, offset = map(int, file.readline(64).split())
            self._ingested_bytes = offset
            for done in [known for known in self._sizes if known < number]:
                del self._sizes[done]


def segment_name(number: int) -> str:
    return f"{number:08d}.jsonl"


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
