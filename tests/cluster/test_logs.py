"""Log lines: for people by default, JSON with request, job and trace id where that is asked for, in every part."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from tests.registry.making import World, claim_one
from tests.serve.control_app import app_of

from raymill.cluster import logs
from raymill.cluster.attempt import open_attempt
from raymill.cluster.context import JobContext, Outcome
from raymill.cluster.kinds import Kind
from raymill.cluster.settings import Settings
from raymill.registry.tables import Role
from raymill.serve.api.context import Parts

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def json_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """This process logs as a replica of `part` does; what it had is put back."""
    monkeypatch.setenv(logs.VARIABLE, "json")
    root, ours = logging.getLogger(), logging.getLogger("raymill")
    before = (root.handlers[:], root.level, ours.level)
    root.handlers[:] = []
    logs.set_up_replica("part", tmp_path / "logs")
    yield tmp_path / "logs" / "part.log"
    for handler in root.handlers:
        handler.close()
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_by_default_lines_are_for_people_and_a_wrong_format_is_refused(tmp_path: Path) -> None:
    code = "from raymill.cluster import logs; import logging; logs.set_up('engine'); logging.info('ready: %d', 3)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert re.fullmatch(r"\S+ \S+ INFO root: ready: 3\n", done.stderr)
    with pytest.raises(ValueError, match="log_format"):
        Settings.model_validate({"home": tmp_path, "log_format": "xml"})


def fail(_: JobContext) -> Outcome:
    raise KeyError("no such row")


KINDS = {"broken": Kind(queue="short", work=f"{__name__}:fail")}


def test_a_request_and_an_attempt_tell_whose_lines_they_are(
    world: World, json_log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYMILL_KINDS", __name__)
    settings = Settings(home=world.home)
    headers = {"authorization": f"Bearer {world.add_key(Role.OPERATOR)}", "x-request-id": "req-7"}
    with TestClient(app_of(Parts(settings=settings, database=world.database))) as client:
        assert client.post("/api/v1/jobs", json={"kind": "broken"}, headers=headers).status_code == 201
    job = claim_one(world.database)
    open_attempt(world.database, settings, job.id, job.epoch).run()
    logging.getLogger("raymill").info("after it")
    asked, failed, after = (line for line in lines(json_log) if line["logger"].startswith("raymill"))
    assert asked["message"].startswith("POST /api/v1/jobs 201 in ")
    assert (asked["request_id"], asked["part"], asked["level"]) == ("req-7", "part", "info")
    assert (failed["job_id"], failed["level"]) == (str(job.id), "error")
    assert failed["error"].endswith("KeyError: 'no such row'")
    assert "job_id" not in after
