"""An evaluation of a GGUF file that kills itself: `python -m tests.evaluate.drill ROOT PROGRESS [ADDRESS]`.

It ends by SIGKILL as soon as the samples that PROGRESS names (`TASK:DONE`) lie on the disk. With ADDRESS it is a driver on
that Ray cluster; without, one model answers in this process. Imports no torch.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray
from tests.evaluate.benchmark_rows import humaneval, words
from tests.evaluate.pools import InThisProcess
from tests.lines import write_lines

from raymill.cluster.context import JsonObject, LocalContext
from raymill.evaluate import jobs
from raymill.evaluate.config import EvaluateConfig
from raymill.evaluate.gguf_model import GgufModel
from raymill.evaluate.prompts import read_rows

MODEL = "model/tiny/000000000001"
DATASET = "dataset/tiny/000000000002"
GGUF = "gguf/tiny/000000000003"
PROBLEMS = 6
ROWS = 20


@dataclass
class Deadly(LocalContext):
    """Ends its process at a certain progress."""

    deadly: tuple[str, int] = ("", 0)

    def event(self, kind: str, **data: Any) -> None:
        super().event(kind, **data)
        if kind == "progress" and (data["task"], data["done"]) == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)


def make_store(root: Path, model: Path, f16: Path) -> None:
    """A model, its GGUF file, held-out rows of which it answers every second one right, and problems of HumanEval."""
    shutil.copytree(model, root / "artifacts" / MODEL)
    (root / "artifacts" / GGUF).mkdir(parents=True)
    shutil.copy(f16, root / "artifacts" / GGUF / "tiny-F16.gguf")
    asked = [[{"role": "user", "content": f"{words(n)} {n}"}] for n in range(ROWS)]
    gguf = GgufModel(str(model))
    answers = gguf.generate(str(f16), asked, 12)["answers"]
    gguf.close()
    rows = [
        {"messages": [*each, {"role": "assistant", "content": answer["text"] if n % 2 else "no"}]}
        for n, (each, answer) in enumerate(zip(asked, answers, strict=True))
    ]
    problems = list(map(humaneval, range(PROBLEMS)))
    for path, lines in ((root / "artifacts" / DATASET / "test.jsonl", rows), (problems_in(root), problems)):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_lines(path, lines)


def problems_in(root: Path) -> Path:
    return root / "problems.jsonl"


def inputs() -> dict[str, JsonObject]:
    """Of an `evaluate-quantized` step."""
    made = {"artifact": GGUF, "files": [{"type": "F16", "file": "tiny-F16.gguf"}]}
    return {"dataset": {"artifact": DATASET}, "train": {"artifact": MODEL}, "quantize": made}


def settings(root: Path) -> JsonObject:
    humaneval = {"humaneval": str(problems_in(root)), "max_new_tokens": 12}
    return {
        "of": "quantize",
        "tasks": ["heldout_exact_match", humaneval],
        "max_new_tokens": 12,
        "batch": 2,
        "actors": 2,
        "cpus_per_actor": 0.5,
    }


def run_here(context: LocalContext) -> Path:
    """What the handler does, with one model in this process for its actors; returns the folder of samples."""
    config = EvaluateConfig.model_validate({k: v for k, v in context.config.items() if k != "of"})
    rows = read_rows(context.path(DATASET) / "test.jsonl")
    model = GgufModel(str(context.path(MODEL)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "ActorPool", lambda *_, **__: InThisProcess(model))
        patch.setattr(jobs, "pool_size", lambda _: None)
        found = jobs.evaluate_quantized(context, config, rows)
    model.close()
    return jobs.write_samples(context, found)


def samples_in(folder: Path) -> dict[str, list[JsonObject]]:
    """Task -> its published samples, but for how long they took."""
    return {
        path.stem: [
            {key: value for key, value in line.items() if key not in {"seconds", "output"}}
            for line in pq.read_table(path).to_pylist()
        ]
        for path in sorted(folder.glob("*.parquet"))
    }


def main() -> None:
    root, progress, *address = Path(sys.argv[1]), sys.argv[2], *sys.argv[3:]
    task, _, done = progress.partition(":")
    context = Deadly(root, name="tiny", config=settings(root), inputs=inputs(), deadly=(task, int(done)))
    if address:
        ray.init(address=address[0], namespace="raymill", log_to_driver=False, logging_level="WARNING")
        jobs.run_evaluate(context)
    else:
        run_here(context)


if __name__ == "__main__":
    main()
