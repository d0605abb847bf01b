"""`raymill train`, run as a user runs it, and the same calls of both clients."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.client.test_cli import JOB, MOMENT, PIPELINE

from raymill.client.sdk import AsyncRaymill, Raymill
from raymill.policies.errors import RaymillError

if TYPE_CHECKING:
    from tests.client.conftest import Reply, Service
    from tests.client.test_cli import Command

    Replies = type[Reply]

OTHER = "33333333-3333-3333-3333-333333333333"
POINTS = [{"step": step, "loss": 5.0 - step, "lr": 0.1} for step in range(1, 5)]


def run(run_id: str = JOB, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "id": run_id, "pipeline_id": PIPELINE, "name": "tiny", "kind": "train", "method": "sft",
        "state": "succeeded", "step": 4, "steps": 4, "metrics": {"final_loss": 1.0, "tokens_per_s": 8500.0},
        "version": 2, "artifact": "model/tiny/0a", "adapter": None, "error": None, "created_at": MOMENT,
        "started_at": MOMENT, "finished_at": MOMENT,
    }  # fmt: skip
    return {**found, **more}


def curves(run_id: str = JOB) -> dict[str, Any]:
    return {"id": run_id, "name": "tiny", "points": POINTS}


@pytest.fixture
def runs(service: Service, reply: Replies) -> Service:
    """Two runs, of which one goes on."""
    going = run(OTHER, state="running", step=3, steps=10, metrics={"loss": 2.0}, version=None)
    service.on("GET", "/api/v1/runs", reply(data={"data": [going, run()], "next_cursor": None}))
    for each in (JOB, OTHER):
        service.on("GET", f"/api/v1/runs/{each}/points", reply(data=curves(each)))
    detail = {**run(), "config": {"epochs": 3}, "base": {"artifact": "base/tiny/0b"}, "dataset": None}
    service.on("GET", f"/api/v1/runs/{JOB}", reply(data=detail))
    return service


def test_list_shows_how_far_runs_are(raymill: Command, runs: Service) -> None:  # noqa: ARG001
    lines = raymill("train", "list").stdout.splitlines()
    assert lines[1].split()[:6] == ["33333333", "tiny", "sft", "running", "3/10", "2"]
    assert lines[2].split()[:8] == ["22222222", "tiny", "sft", "succeeded", "4/4", "1", "8,500", "2"]
    assert json.loads(raymill("train", "list", "--json").stdout)[1]["id"] == JOB


def test_a_run_is_named_by_the_end_of_its_id(raymill: Command, runs: Service) -> None:  # noqa: ARG001
    shown = raymill("train", "show", "22222222").stdout
    assert "config epochs" in shown
    assert "base/tiny/0b" in shown
    assert "⠁" in shown or "⡀" in shown or "⢀" in shown
    nobody = raymill("train", "show", "abc")
    assert (nobody.returncode, nobody.stdout) == (2, "")
    assert "none of the newest 200 runs ends so" in nobody.stderr


def test_compare_shows_settings_and_curves_side_by_side(
    raymill: Command,
    runs: Service,
    reply: Replies,
) -> None:
    found = {
        "runs": [run(), run(OTHER)], "config": {"epochs": [3, 5]}, "metrics": {"final_loss": [1.0, 0.5]},
        "curves": [POINTS, POINTS],
    }  # fmt: skip
    runs.on("GET", "/api/v1/runs/compare", reply(data=found))
    shown = raymill("train", "compare", JOB, OTHER).stdout
    assert "config epochs  3" in shown
    assert shown.count("loss of tiny") == 2
    assert runs.seen[-1].query["ids"] == f"{JOB},{OTHER}"


def test_a_plot_is_text_or_a_picture(
    raymill: Command,
    runs: Service,
    reply: Replies,
    tmp_path: Path,
) -> None:
    text = raymill("train", "plot", JOB, OTHER, "--metric", "loss,lr").stdout
    assert [text.count(title) for title in ("loss of tiny", "lr of tiny")] == [2, 2]
    assert "4 ┤" in text
    runs.on("GET", f"/api/v1/runs/{JOB}/plot", reply(chunks=("<svg/>",)))
    picture = tmp_path / "run.svg"
    assert raymill("train", "plot", JOB, OTHER, "--out", str(picture), "-m", "loss,lr").returncode == 0
    assert picture.read_text() == "<svg/>"
    assert runs.seen[-1].query == {"with": OTHER, "metric": "loss,lr", "format": "svg"}
    wrong = raymill("train", "plot", JOB, "--out", "run.pdf")
    assert (wrong.returncode, wrong.stderr) == (
        2,
        "error: --out is run.pdf, a picture is .png or .svg: change its ending\n",
    )


def offer(service: Service, reply: Replies, content: str, path: str = "config.json") -> None:
    file = {"path": path, "size_bytes": len(content), "sha256": hashlib.sha256(b"{}").hexdigest()}
    made = {"form": "hf", "type": None, "artifact": "model/tiny/0a", "files": [file], "job_id": None}
    service.on("POST", f"/api/v1/runs/{JOB}/exports", reply(data=made))
    service.on("GET", f"/api/v1/runs/{JOB}/file", reply(chunks=(content,)))
    service.on("GET", f"/api/v1/runs/{JOB}/card", reply(chunks=("# tiny\n",)))


def test_an_export_is_checked_and_has_its_card(
    raymill: Command,
    runs: Service,
    reply: Replies,
    tmp_path: Path,
) -> None:
    offer(runs, reply, "{}")
    done = raymill("train", "export", JOB, "--as", "hf", "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert {path.name: path.read_text() for path in (tmp_path / "out").iterdir()} == {
        "config.json": "{}",
        "README.md": "# tiny\n",
    }
    offer(runs, reply, "{ }")
    damaged = raymill("train", "export", JOB, "--out", str(tmp_path / "damaged"))
    assert damaged.returncode == 1
    assert "was registered: try again" in damaged.stderr
    assert not list((tmp_path / "damaged").iterdir())
    offer(runs, reply, "{}", path="../../evil")
    assert "do not trust it" in raymill("train", "export", JOB, "--out", str(tmp_path / "x")).stderr
    assert raymill("train", "export", JOB, "--as", "zip", "--out", "x").returncode == 2


def test_both_clients_read_runs_and_fetch_files(
    runs: Service, reply: Replies, tmp_path: Path, client: Raymill
) -> None:
    offer(runs, reply, "{}")
    assert [each.state for each in client.runs.list()] == ["running", "succeeded"]
    found = client.runs.export(JOB, "hf")
    client.runs.download(JOB, found, found.files[0], tmp_path / "one")
    assert client.runs.card(JOB) == "# tiny\n"

    async def the_same() -> None:
        async with AsyncRaymill(runs.url, "rk-test") as connected:
            assert [each.state async for each in connected.runs.list()] == ["running", "succeeded"]
            assert (await connected.runs.points(JOB)).points == POINTS
            again = await connected.runs.export(JOB, "hf")
            await connected.runs.download(JOB, again, again.files[0], tmp_path / "two")
            assert await connected.runs.card(JOB) == "# tiny\n"
            wrong = again.files[0].model_copy(update={"sha256": "0" * 64})
            with pytest.raises(RaymillError, match="was registered"):
                await connected.runs.download(JOB, again, wrong, tmp_path / "three")

    asyncio.run(the_same())
    assert (tmp_path / "one").read_text() == (tmp_path / "two").read_text() == "{}"
    assert not (tmp_path / "three").exists()
