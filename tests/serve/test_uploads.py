"""Uploads over HTTP: pieces, resumption by another replica, what is refused, what is thrown away."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import hashlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from httpx2 import Response
from sqlalchemy import func, select, update
from tests.registry.making import ADA, World
from tests.waiting import eventually

from raymill.client import uploading
from raymill.client.retry import Retry
from raymill.client.sdk import AsyncRaymill, Raymill
from raymill.cluster.settings import Settings
from raymill.policies.errors import Conflict
from raymill.registry import uploads
from raymill.registry.tables import Role, Upload
from raymill.serve.api.app import create_app
from raymill.serve.api.context import Parts

API = "/api/v1"
CONTENT = b'{"prompt": "Is it late?", "completion": "no"}\n' * 50
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HALF = len(CONTENT) // 2


def replica(world: World, **settings: Any) -> FastAPI:
    """One more replica of the control plane over the same home and database."""
    return create_app(Parts(settings=Settings(home=world.home, **settings), database=world.database))


@pytest.fixture
def key(world: World) -> str:
    return world.add_key(Role.OPERATOR)


@pytest.fixture
def client(world: World, key: str) -> Iterator[TestClient]:
    with connected(replica(world), key) as found:
        yield found


@contextlib.contextmanager
def connected(app: FastAPI, key: str) -> Iterator[TestClient]:
    with TestClient(app, raise_server_exceptions=False) as found:
        found.headers["authorization"] = f"Bearer {key}"
        yield found


def begin(client: TestClient, **changes: Any) -> Response:
    body = {"name": "train.jsonl", "size_bytes": len(CONTENT), "sha256": SHA256, **changes}
    return client.post(f"{API}/uploads", json=body)


def put(client: TestClient, upload_id: str, offset: int, content: bytes) -> Response:
    return client.put(f"{API}/uploads/{upload_id}", content=content, headers={"upload-offset": str(offset)})


def error_of(response: Response) -> tuple[int, str, str]:
    error = response.json()["error"]
    return response.status_code, error["code"], error["message"]


def folder(world: World) -> Path:
    return world.home / "uploads"


def test_a_file_arrives_in_pieces_and_another_replica_goes_on(
    client: TestClient, world: World, key: str
) -> None:
    begun = begin(client)
    assert (begun.status_code, begun.json()["offset"], begun.json()["complete"]) == (201, 0, False)
    upload_id = begun.json()["id"]
    assert put(client, upload_id, 0, CONTENT[:HALF]).json()["offset"] == HALF
    with connected(replica(world), key) as other:
        told = other.head(f"{API}/uploads/{upload_id}").headers
        assert (told["upload-offset"], told["upload-length"]) == (str(HALF), str(len(CONTENT)))
        done = put(other, upload_id, HALF, CONTENT[HALF:]).json()
    assert (done["offset"], done["complete"]) == (len(CONTENT), True)
    assert (folder(world) / "files" / SHA256 / "train.jsonl").read_bytes() == CONTENT
    assert put(client, upload_id, len(CONTENT), b"").json()["complete"]  # asked again: the answer was lost


def test_the_same_file_is_the_same_upload_and_one_that_is_there_is_not_sent(
    client: TestClient, world: World
) -> None:
    first = begin(client).json()
    put(client, first["id"], 0, CONTENT[:10])
    again = begin(client).json()
    assert (again["id"], again["offset"]) == (first["id"], 10)
    put(client, first["id"], 10, CONTENT[10:])
    other = begin(client, name="other.jsonl").json()
    assert (other["complete"], other["id"] != first["id"]) == (True, True)
    names = sorted(path.name for path in (folder(world) / "files" / SHA256).iterdir())
    assert names == ["other.jsonl", "train.jsonl"]


def test_bytes_that_do_not_begin_where_the_file_ends_are_refused(client: TestClient) -> None:
    upload_id = begin(client).json()["id"]
    put(client, upload_id, 0, CONTENT[:10])
    for offset in (0, 5, 11):
        status, code, message = error_of(put(client, upload_id, offset, b"x"))
        assert (status, code) == (409, "wrong_offset")
        assert message == f"the bytes begin at {offset}, 10 have arrived: go on from 10"


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"name": "../x.jsonl"}, 422, "give a plain file name"),
        ({"name": "a/b.jsonl"}, 422, "give a plain file name"),
        ({"name": ".hidden"}, 422, "give a plain file name"),
        ({"sha256": "A" * 64}, 422, "give 64 hex digits in lower case"),
        ({"size_bytes": 0}, 422, "train.jsonl is empty"),
        (
            {"size_bytes": (20 << 30) + 1},
            413,
            "raise RAYMILL_MAX_UPLOAD_BYTES, or copy it to the service's machine",
        ),
    ],
)
def test_what_cannot_be_taken_is_refused_before_it_is_sent(
    client: TestClient, world: World, changes: dict[str, Any], status: int, words: str
) -> None:
    refused = error_of(begin(client, **changes))
    assert (refused[0], words in refused[2]) == (status, True)
    with world.database.transaction() as session:
        assert session.scalar(select(func.count()).select_from(Upload)) == 0


def test_other_bytes_than_were_announced_leave_nothing(client: TestClient, world: World) -> None:
    upload_id = begin(client).json()["id"]
    status, code, message = error_of(put(client, upload_id, 0, CONTENT[:-1] + b"x"))
    assert (status, code, "was announced: send it again" in message) == (422, "invalid", True)
    assert client.get(f"{API}/uploads/{upload_id}").json()["offset"] == 0
    status, _, message = error_of(put(client, upload_id, 0, CONTENT + b"x"))
    assert (status, "more than the" in message) == (422, True)
    assert not list((folder(world) / "files").glob("*")) if (folder(world) / "files").exists() else True


def test_a_full_disk_is_told_with_the_cure(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "SPARE_BYTES", 1 << 60)
    status, code, message = error_of(begin(client))
    assert (status, code) == (507, "disk_full")
    assert "free some of it, or move RAYMILL_HOME" in message


def test_an_upload_is_its_accounts_and_an_admins(client: TestClient, world: World) -> None:
    upload_id = begin(client).json()["id"]
    with connected(replica(world), world.add_key(Role.APPROVER)) as other:
        assert error_of(put(other, upload_id, 0, CONTENT))[:2] == (403, "denied")
        assert other.delete(f"{API}/uploads/{upload_id}").status_code == 403
    with connected(replica(world), world.add_key(Role.ADMIN)) as admin:
        assert admin.get(f"{API}/uploads/{upload_id}").json()["offset"] == 0
        assert admin.delete(f"{API}/uploads/{upload_id}").status_code == 204
    assert error_of(client.get(f"{API}/uploads/{upload_id}"))[:2] == (404, "not_found")


def test_unfinished_uploads_go_after_a_day_and_whole_files_after_a_week(
    client: TestClient, world: World
) -> None:
    whole = begin(client).json()["id"]
    put(client, whole, 0, CONTENT)
    part = begin(client, sha256="0" * 64).json()["id"]
    put(client, part, 0, b"x")

    def age(days: float) -> int:
        with world.database.transaction() as session:
            moment = func.clock_timestamp() - dt.timedelta(days=days)
            session.execute(update(Upload).where(Upload.id == uuid.UUID(part)).values(touched_at=moment))
            session.execute(update(Upload).where(Upload.id == uuid.UUID(whole)).values(completed_at=moment))
        with world.database.transaction() as session:
            return uploads.sweep(session, folder(world))

    assert age(0.9) == 0
    assert age(1.1) == 1
    assert client.get(f"{API}/uploads/{part}").status_code == 404
    assert not list((folder(world) / "parts").glob(f"{part}*"))
    assert (folder(world) / "files" / SHA256 / "train.jsonl").exists()
    assert age(7.1) == 1
    assert not (folder(world) / "files" / SHA256).exists()


def test_what_came_before_a_connection_broke_stays(world: World, key: str) -> None:
    with connected(replica(world), key) as client, listening(replica(world)) as url:
        upload_id = begin(client).json()["id"]
        with socket.create_connection(("127.0.0.1", urlsplit(url).port or 0)) as raw:
            head = (
                f"PUT {API}/uploads/{upload_id} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
                f"upload-offset: 0\r\ncontent-length: {len(CONTENT)}\r\n\r\n"
            )
            raw.sendall(head.encode() + CONTENT[:HALF])
            # The rest never comes.
            eventually((folder(world) / "parts" / upload_id).exists)
            time.sleep(1)
        eventually(lambda: client.get(f"{API}/uploads/{upload_id}").json()["offset"] == HALF)


def test_the_client_goes_on_by_itself_when_the_service_is_started_again(
    world: World, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploading, "PIECE_BYTES", 64 << 10)
    path = tmp_path / "large.jsonl"
    path.write_bytes(os.urandom(1 << 20))
    seen: list[int] = []
    running = contextlib.ExitStack()
    url = running.enter_context(listening(replica(world)))

    def progress(done: int, total: int) -> None:
        assert total == 1 << 20
        seen.append(done)
        if len(seen) == 5:
            running.close()
            threading.Timer(
                0.3, lambda: running.enter_context(listening(replica(world), urlsplit(url).port or 0))
            ).start()

    with running, Raymill(url, key, retry=Retry(attempts=1, base_s=0.05)) as client:
        sent = client.uploads.send(path, progress=progress)
    assert (sent.complete, seen[-1], seen == sorted(seen)) == (True, 1 << 20, True)
    assert (folder(world) / "files" / sent.sha256 / "large.jsonl").read_bytes() == path.read_bytes()


def test_the_asyncio_client_sends_as_well(world: World, key: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(CONTENT)

    async def send(url: str) -> tuple[bool, str]:
        async with AsyncRaymill(url, key) as client:
            sent = await client.uploads.send(path)
            return (await client.uploads.get(str(sent.id))).complete, sent.sha256

    with listening(replica(world)) as url:
        assert asyncio.run(send(url)) == (True, SHA256)


@contextlib.contextmanager
def listening(app: FastAPI, port: int = 0) -> Iterator[str]:
    """The application on a real port."""
    listener = socket.create_server(("127.0.0.1", port))
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    eventually(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        listener.close()


def test_one_connection_at_a_time_sends_an_upload(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "BUSY_S", 0.1)
    row = Upload(id=uuid.uuid4(), name="a.jsonl", size_bytes=3, sha256=SHA256, created_by=ADA.name)
    with uploads.writing(folder(world), row):
        other = uploads.writing(folder(world), row)
        with pytest.raises(Conflict, match="another connection sends upload"):
            other.__enter__()
    with uploads.writing(folder(world), row):
        pass
