"""`raymill tune` as a user runs it, and the clients' calls behind it."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from raymill.client.sdk import AsyncRaymill, Raymill

if TYPE_CHECKING:
    from tests.client.conftest import Reply, Service

    Replies = type[Reply]
    Command = Callable[..., subprocess.CompletedProcess[str]]

MOMENT = "2026-01-02T03:04:05Z"
ID = "11111111-1111-1111-1111-111111111111"
SEARCH: dict[str, Any] = {
    "id": ID,
    "pipeline_id": ID,
    "name": "tiny",
    "state": "succeeded",
    "error": None,
    "search": "optuna",
    "scheduler": "asha",
    "metric": "validation_loss",
    "over": {"train.learning_rate": {"loguniform": [1e-5, 1e-2]}, "train.lora": {"choice": [None, {"r": 8}]}},
    "size": 2,
    "over_trials": 2,
    "steps": 30,
    "best": {"trial": 2, "values": {"train.learning_rate": 0.001, "train.lora": None}, "metric": 0.25},
    "version": 4,
    "created_at": MOMENT,
    "finished_at": MOMENT,
    "trials": [
        {
            "number": number,
            "config": {"train.learning_rate": 0.001 * number, "train.lora": {"r": 8}},
            "state": state,
            "steps": 10 * number,
            "total_steps": 20,
            "metric": metric,
            "reports": [],
            "seconds": 61.0,
            "error": None,
            "started_at": MOMENT,
            "updated_at": MOMENT,
        }
        for number, state, metric in ((1, "stopped", 0.75), (2, "finished", 0.25))
    ],
}
TUNE = """
tune:
  over:
    train.batch: {choice: [8, 16]}
    train.epochs: {choice: [1, 3]}
  search: grid
"""


@pytest.fixture
def raymill(raymill: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """`raymill tune *arguments`, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return partial(raymill, "tune")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    for name in ("corpus.txt", "train.jsonl", "test.jsonl"):
        (tmp_path / name).write_text("x\n")
    file = tmp_path / "recipe.yaml"
    text = (
        "model: tiny\nbase: {pretrain: {text: corpus.txt}}\ndataset: {train: train.jsonl, test: test.jsonl}\n"
    )
    file.write_text(text + TUNE)
    return file


def test_a_dry_run_shows_the_space_its_cost_and_every_trial_of_a_grid(
    raymill: Command, service: Service, reply: Replies, recipe: Path
) -> None:
    plan = {
        "recipe": {"model": "tiny"},
        "steps": [{"step": "train", "kind": "tune", "depends_on": [], "config": {}}],
    }
    service.on("POST", "/api/v1/pipelines", reply(data=plan))
    done = raymill(str(recipe), "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "4 trials of 3 epochs: at most 12 times over the training rows" in done.stdout
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert [line for line in lines if line[:1].isdigit()][1:] == ["1 8 1", "2 8 3", "3 16 1", "4 16 3"]
    (seen,) = service.seen
    assert seen.body["recipe"]["tune"]["over"]["train.batch"] == {"choice": [8, 16]}


def test_a_recipe_without_a_search_or_with_a_wrong_one_ends_with_2(raymill: Command, recipe: Path) -> None:
    recipe.write_text(recipe.read_text().replace("train.batch", "train.bach"))
    done = raymill(str(recipe))
    assert done.returncode == 2
    assert "tune.over.train.bach: train has no field 'bach': did you mean batch?" in done.stderr
    recipe.write_text(recipe.read_text().replace(TUNE.replace("train.batch", "train.bach"), ""))
    done = raymill("--no-wait", str(recipe))
    assert (done.returncode, done.stdout) == (2, "")
    assert "has no tune section" in done.stderr


def test_searches_are_listed_and_shown(raymill: Command, service: Service, reply: Replies) -> None:
    service.on("GET", "/api/v1/searches", reply(data={"data": [SEARCH], "next_cursor": None}))
    service.on("GET", f"/api/v1/searches/{ID}", reply(data=SEARCH))
    listed = raymill("list")
    assert listed.returncode == 0, listed.stderr
    assert "2 of 2" in listed.stdout
    shown = raymill("show", ID)
    assert "best: trial 2, validation_loss 0.25, version 4" in shown.stdout
    rows = [line.split() for line in shown.stdout.splitlines()]
    assert [row[0] for row in rows if row[1:2] in (["finished"], ["stopped"])] == ["2", "1"]
    assert json.loads(raymill("show", ID, "--json").stdout)["trials"][0]["metric"] == 0.75


def test_a_plot_is_written_to_a_file(
    raymill: Command, service: Service, reply: Replies, tmp_path: Path
) -> None:
    service.on("GET", f"/api/v1/searches/{ID}/plot", reply(data="an image"))
    assert raymill("plot", ID).returncode == 0
    assert (tmp_path / "curves.svg").read_text() == '"an image"'
    done = raymill("plot", ID, "--kind", "parallel", "--out", "a.png")
    assert (done.returncode, (tmp_path / "a.png").exists()) == (0, True)
    assert [seen.query for seen in service.seen] == [
        {"kind": "curves", "format": "svg"},
        {"kind": "parallel", "format": "png"},
    ]
    assert raymill("plot", ID, "--out", "a.jpg").returncode == 2


def test_both_clients_read_searches(client: Raymill, service: Service, reply: Replies) -> None:
    service.on("GET", "/api/v1/searches", reply(data={"data": [SEARCH], "next_cursor": None}))
    service.on("GET", f"/api/v1/searches/{ID}", reply(data=SEARCH))
    service.on("GET", f"/api/v1/searches/{ID}/plot", reply(data=1))
    assert [each.steps for each in client.searches.list(name="tiny")] == [30]
    assert client.searches.get(ID).trials[1].metric == 0.25
    assert client.searches.plot(ID) == b"1"

    async def same() -> None:
        async with AsyncRaymill(service.url, "rk-test") as connected:
            assert [each.steps async for each in connected.searches.list()] == [30]
            assert (await connected.searches.get(ID)).trials[1].metric == 0.25
            assert await connected.searches.plot(ID, kind="parallel", format="png") == b"1"

    asyncio.run(same())
