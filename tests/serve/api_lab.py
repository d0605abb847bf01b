"""What tests of the control plane over HTTP share: clients, the shape of errors, a recipe."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from httpx2 import Response
from sqlalchemy import func, select
from tests.registry.making import HELDOUT, World

from raymill.registry.tables import Account, AuditEvent, Job, Pipeline, Role

API = "/api/v1"
NOBODY = str(uuid.UUID(int=1))


@pytest.fixture
def stranger(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def admin(stranger: TestClient, world: World) -> TestClient:
    """A client with an admin's key; `as_` gives it another one's."""
    stranger.headers["authorization"] = f"Bearer {world.add_key(Role.ADMIN)}"
    return stranger


def error_of(response: Response) -> dict[str, Any]:
    """The error's body, after its shape was checked."""
    body: dict[str, Any] = response.json()["error"]
    assert sorted(body) == ["code", "message", "param", "request_id", "type"]
    assert body["request_id"] == response.headers["x-request-id"]
    assert body["message"]
    return body


def recipe(tmp_path: Path, **changes: object) -> dict[str, Any]:
    for name in ("corpus.txt", "train.jsonl", "test.jsonl"):
        (tmp_path / name).write_text("x\n")
    found: dict[str, Any] = {
        "model": "triage",
        "base": {"pretrain": {"text": str(tmp_path / "corpus.txt")}},
        "dataset": {"train": str(tmp_path / "train.jsonl"), "test": str(tmp_path / "test.jsonl")},
        "evaluate": {"tasks": [HELDOUT]},
        "quantize": ["Q8_0"],
        "promote": {"to": "production", "require": {HELDOUT: {"at_least": 0.9}}},
        "serve": {"engine": "llama_cpp", "quantization": "Q8_0"},
    }
    return {**found, **changes}


def count(world: World, table: type[Pipeline | Job | AuditEvent | Account]) -> int:
    with world.database.transaction() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0
