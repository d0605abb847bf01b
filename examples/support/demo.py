"""`make demo`: from a text file and 2,000 answered messages to a governed, served model, and what came out.

Starts the service unless one runs (and stops it again then), runs `recipe.yaml` as any user would, asks the
served model through the `openai` package, and prints one table. The same goes to `demo-report.json`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import psutil
import pyarrow.parquet as pq

from raymill.client.cli.follow import follow
from raymill.client.cli.results import summary
from raymill.client.recipe import load_recipe
from raymill.client.sdk import Raymill
from raymill.client.types import Job, Pipeline
from raymill.cluster.service import read_service
from raymill.cluster.settings import Settings
from raymill.cluster.supervisor import leftovers
from raymill.cluster.up import supervisor_pid
from raymill.policies.errors import RaymillError

HERE = Path(__file__).resolve().parent
DATA = HERE / "data"
REPORT = HERE.parent.parent / "demo-report.json"
TASK = "heldout_exact_match"
SERVED_SAMPLES = 50
SAMPLE_EVERY_S = 2.0


class PeakMemory:
    """Samples the resident memory of all that the service runs, of Postgres and of this process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.peak_bytes = 0

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(SAMPLE_EVERY_S):
            total = 0
            for process in self._processes():
                try:
                    total += process.memory_info().rss  # pages that processes share are counted in each
                except psutil.NoSuchProcess:
                    continue
            self.peak_bytes = max(self.peak_bytes, total)

    def _processes(self) -> list[psutil.Process]:
        found = [psutil.Process(), *leftovers(self._settings)]
        embedded = self._settings.embedded_postgres
        pid = embedded.pid() if embedded is not None and embedded.data_dir.exists() else None
        if pid is not None:
            server = psutil.Process(pid)
            found += [server, *server.children()]
        return list({process.pid: process for process in found}.values())


@contextmanager
def running_service(settings: Settings) -> Iterator[float]:
    """Start the service unless it runs already; stop it again if it was started here. Yields seconds to ready."""
    was_running = supervisor_pid(settings) is not None
    started = time.monotonic()
    try:
        subprocess.run([sys.executable, "-m", "raymill.cluster.up"], check=True)
        yield time.monotonic() - started
    finally:
        if not was_running:
            subprocess.run([sys.executable, "-m", "raymill.cluster.down"], check=True)
            left = leftovers(settings)
            if left:
                raise RaymillError(f"left behind: {', '.join(f'{p.pid} {p.name()}' for p in left)}")


def served_answers(settings: Settings, expected: list[dict[str, Any]]) -> tuple[float, str, str]:
    """Ask the served model what Hugging Face was asked.

    Returns:
        Share of equal answers, and one message with its answer.
    """
    client = openai.OpenAI(
        base_url=f"{read_service(settings).url}/v1",
        api_key=(settings.keys_dir / "admin.key").read_text().strip(),
    )
    rows = [json.loads(line) for line in (DATA / "heldout.jsonl").read_text().splitlines()][:SERVED_SAMPLES]
    same = 0
    for row, sample in zip(rows, expected, strict=False):
        answer = client.chat.completions.create(
            model="support-triage", messages=row["messages"][:-1], temperature=0.0, max_tokens=128
        )
        text = (answer.choices[0].message.content or "").strip()
        same += text == sample["answer"].strip()
    return same / len(rows), rows[-1]["messages"][-2]["content"], text


def huggingface_answers(settings: Settings, evaluated: Job) -> list[dict[str, Any]]:
    """Greedy answers that the evaluation step recorded, in the order of the held-out rows."""
    assert evaluated.result is not None
    made = evaluated.result
    with settings.artifacts.hold(made["artifact"], made["digest"]) as directory:
        samples: list[dict[str, Any]] = pq.read_table(directory / f"{TASK}.parquet").to_pylist()
    return sorted(samples, key=lambda sample: sample["index"])


def seconds_of(job: Job) -> float:
    """From its start to its end; a reused step took none."""
    if job.started_at is None or job.finished_at is None:
        return 0.0
    return (job.finished_at - job.started_at).total_seconds()


def table(steps: list[dict[str, Any]]) -> str:
    rows = [("step", "time", "result"), *((s["step"], f"{s['seconds']:.0f} s", s["result"]) for s in steps)]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c}" for a, b, c in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def run(settings: Settings) -> tuple[Pipeline, list[dict[str, Any]], dict[str, Any]]:
    """The demo proper. Returns the pipeline, one entry for each step, and the figures of the report."""
    steps: list[dict[str, Any]] = []
    with running_service(settings) as ready_s:
        steps.append({"step": "start the service", "seconds": ready_s, "result": read_service(settings).url})
        with Raymill() as client:
            pipeline = client.pipelines.create(load_recipe(HERE / "recipe.yaml").resolved())
            ended = follow(client, pipeline)
            jobs = {job.step: job for job in ended.jobs}
            for job in ended.jobs:
                reused = "reused: " if job.reused_job_id else ""
                steps.append({"step": job.step, "seconds": seconds_of(job), "result": reused + summary(job)})
            if ended.state != "succeeded":
                print(table(steps))
                raise RaymillError(f"the pipeline {ended.state}: {ended.error}")
            started = time.monotonic()
            agreement, message, answer = served_answers(
                settings, huggingface_answers(settings, jobs["evaluate"])
            )
            said = f"{agreement:.0%} of {SERVED_SAMPLES} answers over HTTP equal Hugging Face's"
            steps.append(
                {"step": "ask the served model", "seconds": time.monotonic() - started, "result": said}
            )
            print("\n" + table(steps))
            print(f"\nmessage  {message}\nanswer   {answer}\n")
            subprocess.run(
                [str(Path(sys.executable).with_name("raymill")), "model", "lineage", pipeline.name],
                check=True,
            )
    scores = {step: jobs[step].result["metrics"] for step in jobs if step.startswith("evaluate")}  # type: ignore[index]
    return (
        ended,
        steps,
        {
            "base_exact_match": scores["evaluate-base"][TASK],
            "tuned_exact_match": scores["evaluate"][TASK],
            "q8_0_exact_match": scores["evaluate-quantized"]["Q8_0"][TASK],
            "served_agreement": agreement,
        },
    )


def main() -> None:
    started = time.monotonic()
    settings = Settings()
    if not (DATA / "heldout.jsonl").exists():
        subprocess.run(
            [sys.executable, str(HERE / "generate.py"), "--out", str(DATA), "--seed", "0"], check=True
        )
    try:
        with PeakMemory(settings) as memory:
            _, steps, figures = run(settings)
    except (RaymillError, subprocess.CalledProcessError) as error:
        sys.exit(f"error: {error}")
    report = {
        **figures,
        "wall_s": round(time.monotonic() - started, 1),
        "peak_rss_mib": round(memory.peak_bytes / 2**20),
        "steps": steps,
    }
    REPORT.write_text(json.dumps(report, indent=2) + "\n")
    minutes, seconds = divmod(report["wall_s"], 60)
    print(
        f"\n{minutes:.0f} min {seconds:.0f} s, at most {report['peak_rss_mib']:,} MiB; all of it in {REPORT.name}"
    )


if __name__ == "__main__":
    main()
