"""Files that a request names, paths on the service's machine or uploads, and the rows of registered sets."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

from sqlalchemy.orm import Session

from raymill.client.dataset_types import UPLOAD, DatasetRow
from raymill.client.types import Page
from raymill.policies.errors import Conflict, Invalid, NotFound
from raymill.registry import uploads
from raymill.registry.tables import JsonObject, Role, Upload
from raymill.serve.api.access import reaches
from raymill.serve.api.context import Caller
from raymill.train.dataset_config import files_of

NO_CURSOR = "cursor {!r} is none of ours: use next_cursor as it came"

Digests = dict[str, str]
"""Path -> sha256, of files whose content is known already."""


def located(opened: Session, folder: Path, who: Caller, asked: JsonObject) -> tuple[JsonObject, Digests]:
    """`asked`, in which uploads are paths, and what is known of their content.

    Raises:
        Invalid: there is no such file.
        NotFound, Denied, Conflict: no such upload, another account's, or not all of it has arrived.
    """
    digests: Digests = {}

    def place(key: str, value: str) -> str:
        if not value.startswith(UPLOAD):
            path = Path(value)
            if not path.is_absolute() or not path.is_file():
                raise Invalid(
                    f"{key}: no such file on the server: {path}; give an absolute path, or upload it",
                    param=key,
                )
            return value
        row = _upload(opened, folder, who, key, value.removeprefix(UPLOAD))
        digests[str(uploads.path_of(folder, row))] = row.sha256
        return str(uploads.path_of(folder, row))

    train = files_of(asked["train"])
    config = {**asked, "train": [place("train", each) for each in train]}
    if asked.get("test") is not None:
        config["test"] = place("test", asked["test"])
    if isinstance(asked["train"], str):
        config["train"] = config["train"][0]
    return config, digests


def _upload(opened: Session, folder: Path, who: Caller, key: str, text: str) -> Upload:
    try:
        upload_id = uuid.UUID(text)
    except ValueError:
        raise Invalid(
            f"{key}: {text[:80]!r} is no id of an upload: use the id it began with", param=key
        ) from None
    row = uploads.find(opened, upload_id, who.actor, any_account=reaches(who.role, Role.ADMIN))
    if row.completed_at is None:
        there = uploads.arrived(folder, row)
        raise Conflict(f"upload {upload_id} has {there:,} of {row.size_bytes:,} bytes: send the rest first")
    return row


def read_rows(artifact: Path, name: str, part: str, limit: int, cursor: str | None) -> Page[DatasetRow]:
    """A page of a part's rows. The cursor says where in the file the next one begins, so that no page reads the ones
    before it.

    Raises:
        NotFound: the set has no such part, or its files are gone.
        Invalid: `cursor` is none of ours.
    """
    path = artifact / f"{part}.jsonl"
    if not path.is_file():
        raise NotFound(f"{name} has no {part} rows here: ask for the other part, or add it again")
    at, number = (0, 0) if cursor is None else _place(cursor, path.stat().st_size)
    found: list[DatasetRow] = []
    with path.open("rb") as file:
        file.seek(max(0, at - 1))
        if at and file.read(1) != b"\n":
            raise Invalid(NO_CURSOR.format(cursor[:40] if cursor else ""), param="cursor")
        while len(found) < limit and (line := file.readline()):
            number += 1
            found.append(DatasetRow(number=number, row=json.loads(line)))
        more = bool(file.peek(1))
        at = file.tell()
    return Page(data=found, next_cursor=f"{at}.{number}" if more else None)


def _place(cursor: str, size_bytes: int) -> tuple[int, int]:
    at, _, number = cursor.partition(".")
    if not (at.isdecimal() and number.isdecimal() and int(at) <= size_bytes):
        raise Invalid(NO_CURSOR.format(cursor[:40]), param="cursor")
    return int(at), int(number)
