"""Jobs of one service of the stage are worked off, as `raymill up` has it done, from when a test asks for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from raymill.cluster.ray_head import ray_temp_dir
from raymill.cluster.settings import Settings
from raymill.registry.tables import JsonObject

ROOT = Path(__file__).resolve().parents[2]
LEAVE_S = 60.0
ROWS = {"corpus.txt": 4000, "train.jsonl": 96, "heldout.jsonl": 8}
"""Lines that are kept: enough to run, too little to learn."""


class Working:
    """The engine of one service (`engine.py`), in a process of its own."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    def begin(self) -> JsonObject:
        """Returns at once: Ray and the engine are up half a minute later."""
        url = self._settings.database_url
        assert url is not None
        mine = {"RAYMILL_HOME": str(self._settings.home), "RAYMILL_DATABASE_URL": url.get_secret_value()}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.console.engine"],
            env={**os.environ, **mine, "HF_HUB_OFFLINE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=(self._settings.home / "engine.log").open("ab"),
            stderr=subprocess.STDOUT,
        )
        return {}

    def end(self) -> JsonObject:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(LEAVE_S)
            self._process = None
            shutil.rmtree(ray_temp_dir(self._settings), ignore_errors=True)
        return {}


def training_files(home: Path) -> dict[str, str]:
    """A slice of the support example for recipes. Returns where its files are."""
    folder = home / "files"
    generate = [
        sys.executable,
        str(ROOT / "examples/support/generate.py"),
        "--out",
        str(folder),
        "--seed",
        "0",
    ]
    subprocess.run(generate, check=True, capture_output=True)
    for name, lines in ROWS.items():
        path = folder / name
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:lines]))
    return {"corpus": str(folder / "corpus.txt"), "rows": str(folder / "train.jsonl")}
