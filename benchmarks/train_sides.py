"""The two sides of `make bench-train`: a training run of Raymill as a user starts it, and a bare script of TRL.

Times are seconds, tokens are those without padding. Knows nothing of what is compared with what.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.goals import Results
from benchmarks.peers import ROOT
from benchmarks.programs import BenchmarkFailed
from benchmarks.service import RaymillService
from benchmarks.systems import signal_all
from benchmarks.train_numbers import Mark, Step, phases

from raymill.client.recipe import Recipe
from raymill.client.sdk import Raymill
from raymill.cluster.ray_head import warm_socket

MODEL = "bench"
RUN_S = 600.0
WARM_S = 300.0
LEARNING_RATE = 3e-4
QUIET = {"TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True, kw_only=True)
class Material:
    """What `train_material` has written."""

    folder: Path
    about: Results

    @property
    def row_tokens(self) -> int:
        """What a packed row holds at least: the longest example."""
        return max(1024, -(-int(self.about["longest"]) // 256) * 256)


class Run(NamedTuple):
    """One training run of Raymill."""

    steps: list[Step]
    phases: dict[str, float]
    result: Mapping[str, Any]


class TrainingService(RaymillService):
    """The service, asked to train."""

    def __init__(self, *, warm: bool) -> None:
        super().__init__()
        self.settings = self.settings.model_copy(update={"warm_start": warm})
        self.more_settings = {"RAYMILL_WARM_START": str(int(warm))}
        self._seed = 0

    def configure(self, client: Raymill) -> str:
        raise NotImplementedError

    def start(self) -> None:
        self.up()
        deadline = time.monotonic() + WARM_S
        socket = warm_socket(self.settings)
        while socket is not None and not socket.is_socket():
            if time.monotonic() > deadline:
                raise BenchmarkFailed(f"the warm process was not there after {WARM_S:.0f} s")
            time.sleep(0.2)

    def resume(self) -> None:
        """Let it go on and wait until it answers, as the client does by itself."""
        signal_all(self.processes(), signal.SIGCONT)
        with self.client() as client:
            list(client.pipelines.list(limit=1))

    def train(self, material: Material, **settings: Any) -> Run:
        """One run; base and data set are made by the first and stand ready for the others.

        Raises:
            BenchmarkFailed: it did not succeed.
        """
        self._seed += 1  # another seed is another run; the same would be answered with what is there
        recipe = Recipe.model_validate(
            {
                "model": MODEL,
                "base": {"path": str(material.folder / "base")},
                "dataset": {name: str(material.folder / f"{name}.jsonl") for name in ("train", "test")},
                "train": {
                    "seed": self._seed,
                    "epochs": 1,
                    "learning_rate": LEARNING_RATE,
                    "max_tokens": material.row_tokens,
                    "micro_tokens": max(4096, material.row_tokens),
                    "checkpoint_every": 1000,
                    **settings,
                },
            }
        )
        with self.client() as client:
            submitted_at_s = time.time()
            pipeline = client.pipelines.create(recipe.resolved())
            [job] = [job.id for job in pipeline.jobs if job.step == "train"]
            marks = [
                Mark(event.kind, event.data, event.at.timestamp())
                for event in client.pipelines.events(pipeline.id)
                if event.job_id == job
            ]
            ended = client.pipelines.wait(pipeline.id, timeout_s=RUN_S)
        if ended.state != "succeeded":
            reasons = "; ".join(f"{each.step}: {each.error}" for each in ended.jobs if each.error)
            raise BenchmarkFailed(f"a training run {ended.state}: {reasons or ended.error}")
        steps = [Step(mark.data["tokens"], mark.data["seconds"]) for mark in marks if mark.kind == "step"]
        result = next(each.result for each in ended.jobs if each.id == job) or {}
        return Run(steps, phases(marks, submitted_at_s), result)


def trl_version() -> str | None:
    """None when it is not installed."""
    return importlib.metadata.version("trl") if importlib.util.find_spec("trl") else None


def train_bare(material: Material, folder: Path, *, workers: int, **settings: Any) -> list[Step]:
    """The same rows by TRL, on `workers` processes.

    Raises:
        BenchmarkFailed: the script failed.
    """
    steps, given = folder / "steps.json", folder / "settings.json"
    steps.unlink(missing_ok=True)
    given.write_text(
        json.dumps(
            {
                "folder": str(folder / "trl"),
                "ids": str(material.folder / "ids.jsonl"),
                "base": str(material.folder / "base"),
                "steps": str(steps),
                "epochs": 1,
                "learning_rate": LEARNING_RATE,
                "row_tokens": material.row_tokens,
                "seed": 0,
                **settings,
            }
        )
    )
    command = [str(Path(sys.executable).with_name("torchrun")), f"--nproc-per-node={workers}"]
    command += [
        "--master-addr=127.0.0.1",
        "--master-port=0",
        "--rdzv-backend=c10d",
        "--rdzv-endpoint=127.0.0.1:0",
    ]
    command += ["-m", "benchmarks.train_trl", str(given)]
    done = subprocess.run(
        command,
        env=os.environ | QUIET | {"PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    if done.returncode != 0 or not steps.is_file():
        raise BenchmarkFailed(f"the bare script of TRL failed: {done.stderr.strip()[-800:]}")
    return [Step(*step) for step in json.loads(steps.read_text())]
