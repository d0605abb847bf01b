"""Sending a file in pieces, as a plan that knows no connection: it yields what to do next.

A step is a call, whose answer or error is handed back, or a pause in seconds. Whatever breaks, the service is asked
how much has arrived, and the rest is sent: the same file sent again by another process goes on as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

from raymill.client import dataset_endpoints as endpoints
from raymill.client.dataset_types import Upload, UploadRequest
from raymill.client.endpoints import Call
from raymill.client.retry import Outage, Retry
from raymill.policies.errors import Conflict, Invalid, RaymillError, Unavailable

PIECE_BYTES = 8 << 20
"""A broken connection costs at most this, and what the service has of it is kept."""

Progress = Callable[[int, int], None]
"""(bytes that have arrived, bytes in all)."""

Step = Call[Upload] | float
Steps = Generator[Call[Upload] | float, Upload | None, Upload]


def upload_steps(path: Path, retry: Retry, progress: Progress | None = None) -> Steps:
    """The steps that send `path`.

    Raises:
        Invalid: it cannot be read, or changed meanwhile.
        ApiError, Unavailable: as the service said, or when it was away for longer than the retry's patience.
    """
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
            body = UploadRequest(name=path.name, size_bytes=size, sha256=sha256)
            now = yield from _answer(endpoints.begin_upload(body), Outage(retry))
            outage = Outage(retry)
            while not now.complete:
                if progress is not None:
                    progress(now.offset, size)
                file.seek(now.offset)
                piece = file.read(min(PIECE_BYTES, size - now.offset))
                if not piece and now.offset < size:
                    raise Invalid(f"{path} became shorter while it was sent: send it again")
                try:
                    answer = yield endpoints.send_piece(now.id, now.offset, piece)
                except Unavailable as error:
                    if getattr(error, "code", "") == "disk_full":
                        raise
                    yield outage.pause_s(error)
                except Conflict as error:  # something else sends it, or more has arrived than was heard of
                    yield outage.pause_s(Unavailable(str(error)))
                else:
                    outage.over()
                    assert answer is not None, "a call is answered"
                    now = answer
                    continue
                now = yield from _answer(endpoints.upload(now.id), outage)
    except OSError as error:
        raise Invalid(
            f"{path} cannot be read ({error.strerror}): check the path and its permissions"
        ) from None
    if progress is not None:
        progress(size, size)
    return now


def _answer(call: Call[Upload], outage: Outage) -> Steps:
    """The answer to `call`, however long the service is away."""
    while True:
        try:
            answer = yield call
        except Unavailable as error:
            if getattr(error, "code", "") == "disk_full":
                raise
            yield outage.pause_s(error)
        else:
            assert answer is not None, "a call is answered"
            return answer


@dataclass(frozen=True)
class Sent:
    """All of it is there."""

    upload: Upload


def advance(steps: Steps, heard: Upload | RaymillError | None = None) -> Step | Sent:
    """Hand back an answer or an error, and get what to do next. Reads and hashes: it may block."""
    try:
        return steps.throw(heard) if isinstance(heard, RaymillError) else steps.send(heard)
    except StopIteration as end:
        return Sent(end.value)
