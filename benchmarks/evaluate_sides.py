"""The two sides of `make bench-evaluate`, each a process of its own: the `lm_eval` command, and an actor of ours.

`seconds` begin when a process has imported what it needs: model and tasks are loaded, prompts made, questions
answered, metrics taken. lm-eval's command tells its own (`total_evaluation_time_seconds`), from the same point on.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.evaluate_material import Suite
from benchmarks.goals import Results
from benchmarks.peers import ROOT
from benchmarks.programs import BenchmarkFailed

RUN_S = 420.0
THREADS = 2


class Run(NamedTuple):
    """One run of one side."""

    seconds: float
    documents: int
    scores: dict[str, float]
    """`LEAF METRIC` -> value, to the digits that lm-eval prints."""

    answers: dict[str, str]
    """Of a suite that generates: `DOCUMENT FILTER` -> the answer that the filter found in what was written."""


def environment(work: Path) -> dict[str, str]:
    quiet = {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HOME": str(work / "home"),
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "CUDA_VISIBLE_DEVICES": "",
    }
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"), str(names(work)))))
    return {**os.environ, **quiet, "OMP_NUM_THREADS": str(THREADS), "PYTHONPATH": path}


def names(work: Path) -> Path:
    """A folder for the command's path: it asks for vLLM's version by the name `vllm`, which the CPU's package has not.

    vLLM itself takes the processor for its device when that version says `cpu`.
    """
    folder = work / "names"
    for found in importlib.metadata.distributions(name="vllm-cpu"):
        told = folder / f"vllm-{found.version}+cpu.dist-info"
        told.mkdir(parents=True, exist_ok=True)
        (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {found.version}+cpu\n")
    return folder


def lm_eval(suite: Suite, model: Path, work: Path, backend: str, batch: str, limit: int | None = None) -> Run:
    """The command on the suite's task files.

    Raises:
        BenchmarkFailed: it did not run.
    """
    settings = f"pretrained={model},dtype=float32"
    if backend == "vllm":
        settings += ",enforce_eager=True,max_model_len=4096"
    out = work / f"{suite.name}-{backend}-{batch}-{limit}"
    command = [sys.executable, "-m", "lm_eval", "run", "--model", backend, "--model_args", settings]
    command += ["--tasks", ",".join(suite.names), "--include_path", str(suite.folder), "--batch_size", batch]
    command += ["--output_path", str(out), "--log_samples"]
    command += ["--device", "cpu"] if backend == "hf" else []
    command += [] if limit is None else ["--limit", str(limit)]
    _run(command, work)
    (file,) = out.rglob("results_*.json")
    found: Results = json.loads(file.read_text())
    scores = {
        f"{suite.leaves[name]} {key}": round(value, 4)
        for name, values in found["results"].items()
        for key, value in values.items()
        if "," in key and "_stderr" not in key and isinstance(value, float)
    }
    documents = sum(found["n-samples"][name]["effective"] for name in suite.names)
    return Run(float(found["total_evaluation_time_seconds"]), documents, scores, _answers(out))


def _answers(out: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for file in out.rglob("samples_*.jsonl"):
        for line in file.read_bytes().splitlines():
            sample: Any = json.loads(line)
            if isinstance(sample["filtered_resps"][0], str):
                found[f"{sample['doc_id']} {sample['filter']}"] = sample["filtered_resps"][0]
    return found


def ours(suite: Suite, model: Path, work: Path, batch: int, limit: int | None = None) -> Run:
    """What one actor does, with as many threads."""
    out = work / f"{suite.name}-ours-{limit}.json"
    given = {"model": str(model), "tasks": suite.tasks, "batch": batch, "limit": limit, "out": str(out)}
    _run([sys.executable, "-m", "benchmarks.evaluate_sides", json.dumps(given)], work)
    found = json.loads(out.read_text())
    scores = {key: round(value, 4) for key, value in found["scores"].items()}
    return Run(found["seconds"], found["documents"], scores, found["answers"])


def _run(command: list[str], work: Path) -> None:
    try:
        done = subprocess.run(
            command,
            cwd=work,
            env=environment(work),
            capture_output=True,
            text=True,
            timeout=RUN_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BenchmarkFailed(f"{command[2]} took more than {RUN_S:.0f} s") from error
    if done.returncode != 0:
        raise BenchmarkFailed(f"{command[2]} failed: {done.stderr.strip()[-500:]}")


def act(given: Mapping[str, Any]) -> Results:
    """Our side, in its own process."""
    import lm_eval.evaluator  # noqa: F401  (importing is out of the seconds, as it is on the other side)
    import torch

    from raymill.evaluate import lm_engine  # noqa: F401
    from raymill.evaluate.benchmark_config import BenchmarkTask
    from raymill.evaluate.hf_model import HfModel

    torch.set_num_threads(THREADS)
    started = time.perf_counter()
    model = HfModel(given["model"])
    model.load()
    scores: dict[str, float] = {}
    answers: dict[str, str] = {}
    documents = 0
    for each in given["tasks"]:
        task = BenchmarkTask.model_validate({**each, "limit": given["limit"]}).model_dump()
        samples = model.lm_eval_shard(task, 0, 1, given["batch"])
        metrics = model.lm_eval_metrics(task, samples)["all"]
        for leaf, records in samples.items():
            documents += len({record["index"] for record in records})
            filters = {record["filter"] for record in records}
            for metric, value in metrics[leaf].items():
                scores[f"{leaf} {metric}" if len(filters) > 1 else f"{leaf} {metric},none"] = value
            for record in records:
                (answer,) = json.loads(record["answer"])[:1]
                if isinstance(answer, str):
                    answers[f"{record['index']} {record['filter']}"] = answer
    return {
        "seconds": time.perf_counter() - started,
        "documents": documents,
        "scores": scores,
        "answers": answers,
    }


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    Path(asked["out"]).write_text(json.dumps(act(asked)))
