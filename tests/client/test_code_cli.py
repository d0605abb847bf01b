"""`raymill code` as a user runs it, and the clients' calls behind it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from raymill.client.cli.main import run
from raymill.client.sdk import AsyncRaymill, Raymill

if TYPE_CHECKING:
    from tests.client.conftest import Reply, Service

    Replies = type[Reply]

MOMENT = "2026-01-02T03:04:05Z"
ID = "11111111-1111-1111-1111-111111111111"
CODE = "/code/v1"
ONE: dict[str, Any] = {
    "id": ID,
    "state": "succeeded",
    "step": None,
    "error": None,
    "language": "python",
    "files": ["app.py"],
    "size_bytes": 6,
    "comment": "",
    "created_by": "ann",
    "created_at": MOMENT,
    "finished_at": MOMENT,
}
FINDING = {
    "id": "0a1b2c3d",
    "title": "A shell runs a command",
    "cwe": "CWE-78",
    "severity": "high",
    "file": "app.py",
    "line_start": 5,
    "line_end": 5,
    "evidence": "os.system(x)",
    "confidence": "high",
    "sources": ["bandit", "model"],
    "outcome": "resolved",
}
MEASURED = {"resolved": 1, "remaining": 0, "new": 0, "unchecked": 0}
DETAIL: dict[str, Any] = {
    **ONE,
    "pipeline_id": ID,
    "steps": [
        {"step": "forensic", "state": "succeeded", "attempt": 1, "job_id": ID, "error": None, "model": "m"}
    ],
    "findings": [FINDING],
    "looked_at": [],
    "summary": "x",
    "dossier": "# Forensic analysis\n",
    "rebuilt": None,
    "diff": None,
    "quality": {"measured": MEASURED, "rating": 90, "rating_at_most": 100, "model": {}},
}
VERSION = {
    "step": "forensic",
    "version": 2,
    "active": True,
    "canary_share": 0.0,
    "config": {"model": "smart", "fallback": None},
    "note": "",
    "created_by": "ann",
    "created_at": MOMENT,
}


@pytest.fixture
def called(
    service: Service, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Any:
    """Runs `raymill code ...`; gives exit code, output and complaints."""
    assert home.is_dir()
    monkeypatch.setenv("RAYMILL_URL", service.url)
    monkeypatch.setenv("RAYMILL_API_KEY", "rk-test")

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["raymill", "code", *arguments])
        code = run(["code", *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def test_files_are_submitted_under_their_names_and_waited_for(
    called: Any, service: Service, reply: Replies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "app.py").write_text("x = 1\n")
    (tmp_path / "tests.py").write_text("def check(f): ...\n")
    service.on("POST", f"{CODE}/submissions", reply(status=202, data=ONE))
    service.on(
        "GET", f"{CODE}/submissions/{ID}", reply(data={**DETAIL, "state": "running"}), reply(data=DETAIL)
    )
    code, said, _ = called(
        "submit", "app.py", "--tests", "tests.py", "--entry-point", "f", "--idempotency-key", "k1", "--wait"
    )
    assert code == 0
    sent = service.seen[0]
    assert sent.headers["idempotency-key"] == "k1"
    assert sent.body["files"] == [{"name": "app.py", "text": "x = 1\n", "language": None}]
    assert sent.body["tests"] == {"code": "def check(f): ...\n", "entry_point": "f", "file": None}
    assert "0a1b2c3d  CWE-78  high      app.py:5  resolved" in said
    assert "1 resolved, 0 remaining, 0 new, 0 unchecked; rating 90 of 100" in said


def test_a_submission_that_failed_ends_with_1_and_bad_input_with_2(
    called: Any, service: Service, reply: Replies, tmp_path: Path
) -> None:
    path = tmp_path / "latin.py"
    path.write_bytes("x = 'ü'\n".encode("latin-1"))
    assert called("submit", str(path))[0] == 2
    assert "iconv" in called("submit", str(path))[2]
    path.write_text("x = 1\n")
    service.on("POST", f"{CODE}/submissions", reply(status=202, data=ONE))
    service.on("GET", f"{CODE}/submissions/{ID}", reply(data={**DETAIL, "state": "failed", "quality": None}))
    assert called("submit", str(path), "--wait")[0] == 1
    assert service.seen[0].body["files"][0]["name"] == "latin.py"
    code, _, complaint = called("show", ID, "--diff")
    assert (code, "has none yet" in complaint) == (2, True)
    assert called("show", ID, "--dossier")[1] == "# Forensic analysis\n"
    assert called("set", "forensics", "--model", "m")[0] == 2


def test_steps_are_set_and_rolled_back(called: Any, service: Service, reply: Replies) -> None:
    service.on("PUT", f"{CODE}/steps/forensic", reply(data=VERSION))
    service.on("POST", f"{CODE}/steps/forensic/use", reply(data={**VERSION, "version": 1}))
    service.on("GET", f"{CODE}/steps/forensic/versions", reply(data={"data": [VERSION], "next_cursor": None}))
    assert called("set", "forensic", "--model", "smart", "--param", "temperature=0.2")[1] == (
        "forensic is at version 2\n"
    )
    assert service.seen[0].body["params"] == {"temperature": 0.2}
    assert called("rollback", "forensic", "1")[1] == "forensic is at version 1\n"
    assert "yes" in called("versions", "forensic")[1]


def test_a_version_is_tried_on_a_share_and_compared(called: Any, service: Service, reply: Replies) -> None:
    counts = {"submissions": 9, "succeeded": 8, "findings": 10, "resolved": 7, "remaining": 3, "new": 0}
    tried = {
        "version": 2,
        "active": False,
        "canary_share": 0.25,
        **counts,
        "resolved_share": 0.7,
        "parse_share": 1.0,
    }
    service.on("PUT", f"{CODE}/steps/rebuild/canary", reply(data={"data": [tried], "next_cursor": None}))
    said = called("canary", "rebuild", "--version", "2", "--share", "0.25")[1]
    assert said.splitlines()[1].split() == ["2", "for", "25%", "9", "8", "10", "0.7", "0", "1"]
    assert called("canary", "rebuild", "--stop")[0] == 0
    assert [seen.body for seen in service.seen] == [
        {"version": 2, "share": 0.25},
        {"version": None, "share": 0.1},
    ]
    assert called("canary", "rebuild", "--stop", "--version", "2")[0] == 2


def test_both_clients_have_the_same_calls(service: Service, client: Raymill, reply: Replies) -> None:
    service.on("GET", f"{CODE}/submissions", reply(data={"data": [ONE], "next_cursor": None}))
    service.on("GET", f"{CODE}/submissions/{ID}", reply(data=DETAIL))
    service.on("POST", f"{CODE}/submissions/{ID}/cancel", reply(data=DETAIL))

    async def awaited() -> tuple[Any, ...]:
        async with AsyncRaymill(service.url, "rk-test") as other:
            listed = [each async for each in other.code.list(state="succeeded")]
            return listed, await other.code.wait(ID), await other.code.cancel(ID)

    listed = list(client.code.list(state="succeeded"))
    assert (listed, client.code.wait(ID), client.code.cancel(ID)) == asyncio.run(awaited())
    assert service.seen[0].query["state"] == "succeeded"
