"""Uploads: announce a file, send it in pieces, go on after a broken connection or a replica's end.

    POST /uploads                {"name", "size_bytes", "sha256"}          -> id, offset
    HEAD /uploads/{id}                                                     -> Upload-Offset, Upload-Length
    PUT  /uploads/{id}           Upload-Offset: N, then bytes from there   -> offset; whole with the last ones

What arrived before a connection broke stays. The last bytes are answered once the file's digest was compared;
an empty piece at the end asks for that again.
"""

from __future__ import annotations

import asyncio
import errno
import uuid
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, BinaryIO

from fastapi import APIRouter, Header, Request, Response
from sqlalchemy.orm import Session
from starlette.requests import ClientDisconnect

from raymill.client import dataset_types as types
from raymill.policies.errors import Invalid, Unavailable
from raymill.registry import uploads
from raymill.registry.tables import Role, Upload
from raymill.serve.api.access import reaches
from raymill.serve.api.context import Caller, Parts, PartsDep, SessionDep, Who
from raymill.serve.api.threads import ThreadRoute, in_thread

router = APIRouter(prefix="/uploads", tags=["uploads"], route_class=ThreadRoute)

WRITE_BYTES = 1 << 20
SILENT_S = 60.0
"""A connection that sends nothing for so long is let go, so that its client can go on with another one."""


@router.post("", status_code=201)
def begin(body: types.UploadRequest, who: Who, opened: SessionDep, found: PartsDep) -> types.Upload:
    """Announce a file. One that was announced before goes on; one that is here already is whole at once."""
    row = uploads.begin(
        opened,
        found.settings.uploads_dir,
        who.actor,
        name=body.name,
        size_bytes=body.size_bytes,
        sha256=body.sha256,
        max_bytes=found.settings.max_upload_bytes,
    )
    return _wire(found, row)


@router.get("/{upload_id}")
def get(upload_id: uuid.UUID, who: Who, opened: SessionDep, found: PartsDep) -> types.Upload:
    """How much has arrived."""
    return _wire(found, _find(opened, upload_id, who))


@router.head("/{upload_id}")
def head(upload_id: uuid.UUID, who: Who, opened: SessionDep, found: PartsDep) -> Response:
    """The same in headers: Upload-Offset, Upload-Length."""
    row = _find(opened, upload_id, who)
    offset = uploads.arrived(found.settings.uploads_dir, row)
    return Response(headers={"Upload-Offset": str(offset), "Upload-Length": str(row.size_bytes)})


@router.delete("/{upload_id}", status_code=204)
def abandon(upload_id: uuid.UUID, who: Who, opened: SessionDep, found: PartsDep) -> None:
    """Throw it away."""
    uploads.abandon(opened, found.settings.uploads_dir, _find(opened, upload_id, who))


@router.put("/{upload_id}")
async def receive(
    upload_id: uuid.UUID,
    request: Request,
    who: Who,
    opened: SessionDep,
    found: PartsDep,
    upload_offset: Annotated[int, Header(ge=0)],
) -> types.Upload:
    """Take the bytes from `Upload-Offset` on; 409 tells where to go on when that is not where the file ends."""
    # The caller's transaction ends here: a slow client must not hold a database connection.
    await in_thread(opened.commit)
    folder = found.settings.uploads_dir
    with ExitStack() as stack:
        row = await in_thread(_take, found, upload_id, who, stack)
        offset = uploads.arrived(folder, row)
        if upload_offset != offset:
            raise uploads.WrongOffset(offset, upload_offset)
        if row.completed_at is None:
            await _write(request, uploads.part_of(folder, row), offset, row.size_bytes)
        return await in_thread(_arrived, found, upload_id, who)


def _take(found: Parts, upload_id: uuid.UUID, who: Caller, stack: ExitStack) -> Upload:
    """The row, once nobody else writes to its file."""
    with found.database.transaction() as session:
        row = _find(session, upload_id, who)
    stack.enter_context(uploads.writing(found.settings.uploads_dir, row))
    with found.database.transaction() as session:  # it may have been finished meanwhile
        return _find(session, upload_id, who)


async def _write(request: Request, path: Path, offset: int, size_bytes: int) -> None:
    """Append the body. What came before an error stays.

    Raises:
        Invalid: more came than was announced.
        DiskFull: the disk is.
        Unavailable: the client fell silent.
    """
    body = aiter(request.stream())
    buffer = bytearray()
    with await in_thread(path.open, "ab") as file:
        try:
            while (chunk := await _next(body)) is not None:
                if offset + len(chunk) > size_bytes:
                    raise Invalid(
                        f"more than the {size_bytes:,} bytes that were announced: begin the upload again",
                        param="size_bytes",
                    )
                offset += len(chunk)
                buffer += chunk
                if len(buffer) >= WRITE_BYTES:
                    await in_thread(_append, file, buffer)
        finally:
            await in_thread(_append, file, buffer)


async def _next(body: AsyncIterator[bytes]) -> bytes | None:
    try:
        async with asyncio.timeout(SILENT_S):
            return await anext(body)
    except StopAsyncIteration:
        return None
    except ClientDisconnect:
        raise Unavailable("the connection broke off: go on with another one") from None
    except TimeoutError:
        raise Unavailable(f"nothing came for {SILENT_S:.0f} s: go on with another connection") from None


def _append(file: BinaryIO, buffer: bytearray) -> None:
    try:
        file.write(buffer)
        file.flush()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise uploads.DiskFull(
                "the service's disk is full: free some of it, then send the rest; what arrived is kept"
            ) from error
        raise
    finally:
        buffer.clear()


def _arrived(found: Parts, upload_id: uuid.UUID, who: Caller) -> types.Upload:
    folder = found.settings.uploads_dir
    with found.database.transaction() as session:
        row = _find(session, upload_id, who)
        uploads.touch(session, upload_id)
        if uploads.arrived(folder, row) == row.size_bytes:
            uploads.finish(session, folder, row, who.actor)
        session.flush()
        return _wire(found, row)


def _find(session: Session, upload_id: uuid.UUID, who: Caller) -> Upload:
    return uploads.find(session, upload_id, who.actor, any_account=reaches(who.role, Role.ADMIN))


def _wire(found: Parts, row: Upload) -> types.Upload:
    return types.Upload(
        id=row.id,
        name=row.name,
        size_bytes=row.size_bytes,
        sha256=row.sha256,
        offset=uploads.arrived(found.settings.uploads_dir, row),
        complete=row.completed_at is not None,
        created_by=row.created_by,
        created_at=row.created_at,
    )
