"""A small recipe, and ways to run and disturb it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.conftest import RunningService

from raymill.client.sdk import Raymill

ROOT = Path(__file__).resolve().parents[2]
RAYMILL = Path(sys.executable).with_name("raymill")

MakeRecipe = Callable[..., Path]


def raymill(*words: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
    """The command as a user types it."""
    return subprocess.run(
        [str(RAYMILL), *words], capture_output=True, text=True, timeout=timeout_s, check=False
    )


@pytest.fixture(scope="session")
def client(service: RunningService) -> Iterator[Raymill]:
    with Raymill(service.url, service.api_key) as client:
        yield client


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slice of the support example: enough to run, too little to learn."""
    directory = tmp_path_factory.mktemp("data")
    generate = [
        sys.executable,
        str(ROOT / "examples/support/generate.py"),
        "--out",
        str(directory),
        "--seed",
        "0",
    ]
    subprocess.run(generate, check=True, capture_output=True)
    for name, rows in (("corpus.txt", 4000), ("train.jsonl", 96), ("heldout.jsonl", 8)):
        path = directory / name
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:rows]))
    return directory


@pytest.fixture(scope="session")
def make_recipe(data: Path) -> MakeRecipe:
    """Write a recipe of a tiny model. `train` and the sections given change it; None leaves one out."""

    def make(name: str, *, train: dict[str, Any] | None = None, **sections: Any) -> Path:
        recipe: dict[str, Any] = {
            "model": name,
            "base": {
                "pretrain": {
                    "text": "corpus.txt",
                    "hidden": 256,
                    "layers": 1,
                    "vocab": 512,
                    "steps": 20,
                    "batch": 4,
                }
            },
            "dataset": {"train": "train.jsonl", "test": "heldout.jsonl"},
            "train": {"lora": {"r": 4}, "epochs": 1, "batch": 8, "learning_rate": 0.001} | (train or {}),
        } | sections
        path = data / f"{name}.yaml"
        path.write_text(yaml.safe_dump({key: value for key, value in recipe.items() if value is not None}))
        return path

    return make


def states(client: Raymill, pipeline_id: Any) -> dict[str, list[str]]:
    """Step -> the states it went through."""
    found: dict[str, list[str]] = {}
    for event in client.pipelines.events(pipeline_id):
        if event.kind == "state":
            found.setdefault(event.data["step"], []).append(event.data["state"])
    return found


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
