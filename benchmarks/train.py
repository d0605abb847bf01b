"""`make bench-train`: training runs of Raymill beside bare TRL, packing beside padding, and how long a run takes to start.

One small Llama with random weights, the rows of `train_material`, one machine. Sides take turns (A B A B); what is
reported is the median. Raymill's runs are pipelines of a service under a home of its own, as a user starts them; while
the bare script runs, that service is stopped. Ratios are tokens a second without padding, after the first steps. A
second service, with a warm process (`RAYMILL_WARM_START`), is only asked to start runs. Where there is a GPU, Llamas
of 1B and 8B are trained on it as well, when everything else has ended. A run with --quick writes to .bench/.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.asha import asha_results
from benchmarks.goals import Results, judge
from benchmarks.measure import say
from benchmarks.peers import ROOT
from benchmarks.programs import BenchmarkFailed
from benchmarks.service import forget_other_services
from benchmarks.systems import errors_told, interrupt_once
from benchmarks.train_cases import ON_A_GPU, gpu_results, told
from benchmarks.train_numbers import GOALS, medians, ratio, steady_rate
from benchmarks.train_sides import Material, TrainingService, train_bare, trl_version

TOLD = ("torch", "transformers", "peft", "deepspeed", "accelerate", "datasets")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured. The default takes about a quarter of an hour on two cores."""

    rows: int = 400
    hidden: int = 256
    layers: int = 4
    batch: int = 16
    """Examples in a step of Raymill's; a step of the packed bare script has about as many tokens."""

    rounds: int = 2
    starts: int = 2
    start_rows: int = 32
    """A run that is started only to see it start is this long."""

    warmup: int = 4
    """Steps that do not count."""

    gpu_steps: int = 10
    """Steps that count, of each case on a GPU."""

    @property
    def workers(self) -> tuple[int, ...]:
        return (1, 2)


QUICK = Plan(rows=128, rounds=1, starts=1, warmup=2, gpu_steps=4)


def make_material(folder: Path, rows: int, plan: Plan) -> Material:
    """In a process of its own.

    Raises:
        BenchmarkFailed: it failed.
    """
    folder.mkdir()
    arguments = [str(folder), str(rows), str(plan.hidden), str(plan.layers)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.train_material", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    if done.returncode != 0:
        raise BenchmarkFailed(f"no material: {done.stderr.strip()[-500:]}")
    return Material(folder=folder, about=json.loads((folder / "about.json").read_text()))


class Comparison:
    """Tokens a second of both sides, by turns."""

    def __init__(self, plan: Plan, material: Material, service: TrainingService, folder: Path) -> None:
        self._plan, self._material, self._service, self._folder = plan, material, service, folder
        self.rates: dict[str, list[float]] = {}
        self.starts: list[dict[str, float]] = []
        self.precision = "fp32"

    def run(self) -> None:
        for number in range(self._plan.rounds):
            for workers in self._plan.workers:
                turn = [self._raymill, self._bare] if number % 2 == 0 else [self._bare, self._raymill]
                for side in turn:
                    side(workers)
            self._padded()

    def _raymill(self, workers: int) -> None:
        run = self._service.train(self._material, batch=self._plan.batch, workers=workers, packing=True)
        self.starts.append(run.phases)
        self._note(f"raymill_w{workers}", steady_rate(run.steps, self._plan.warmup))

    def _padded(self) -> None:
        run = self._service.train(self._material, batch=self._plan.batch, workers=1, packing=False)
        self._note("raymill_w1_padded", steady_rate(run.steps, self._plan.warmup))

    def _bare(self, workers: int) -> None:
        if trl_version() is None:
            return
        mean = self._material.about["tokens"] / self._material.about["rows"]
        packed_rows = max(workers, round(self._plan.batch * mean / self._material.row_tokens))
        self._service.pause()
        try:
            steps = train_bare(
                self._material,
                self._folder,
                workers=workers,
                packing=True,
                bf16=computes_bf16(),
                packed_rows_per_step=packed_rows,
                rows_per_step=self._plan.batch,
                rows_per_pass=4,
            )
        finally:
            self._service.resume()
        self._note(f"trl_w{workers}", steady_rate(steps, self._plan.warmup))

    def _note(self, name: str, rate: float) -> None:
        self.rates.setdefault(name, []).append(round(rate, 1))
        say(f"{name:18} {rate:>8,.0f} tokens/s")

    def ratios(self) -> dict[str, float | None]:
        got = self.rates
        by_workers = {
            f"vs_bare_trl_w{workers}": ratio(
                got.get(f"raymill_w{workers}", []), got.get(f"trl_w{workers}", [])
            )
            for workers in self._plan.workers
        }
        known = [value for value in by_workers.values() if value is not None]
        return {
            # The worse of the two: the goal is meant for both.
            "vs_bare_trl": min(known) if known else None,
            **by_workers,
            "packing_vs_padding": ratio(got.get("raymill_w1", []), got.get("raymill_w1_padded", [])),
        }


def computes_bf16() -> bool:
    """As Raymill decides for itself on this device (`train/worker.py`), in a process of its own."""
    code = (
        "import torch; from raymill.train.worker import computes_bf16; "
        "print(computes_bf16('auto', torch.device('cuda' if torch.cuda.is_available() else 'cpu')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()[-1] == "True"


def starts(service: TrainingService, material: Material, plan: Plan, count: int) -> list[dict[str, float]]:
    """Phases of runs that are short. The first one of a service also makes base and data set, and is not counted."""
    found = []
    for number in range(count + 1):
        run = service.train(material, batch=plan.batch, workers=1)
        if number:
            found.append(run.phases)
            say(f"first step after {run.phases['total']:.1f} s")
    return found


def started(stack: ExitStack, *, warm: bool) -> TrainingService:
    """A service of its own, which the stack stops."""
    say("starting the service" + (" with a warm process" if warm else ""))
    service = TrainingService(warm=warm)
    stack.callback(service.stop)
    service.start()
    return service


def measure(plan: Plan, folder: Path) -> Results:
    say("making a base and rows")
    material = make_material(folder / "rows", plan.rows, plan)
    short = make_material(folder / "few", plan.start_rows, plan)
    with ExitStack() as stack:
        service = started(stack, warm=False)
        cold = starts(service, short, plan, plan.starts)
        comparison = Comparison(plan, material, service, folder)
        comparison.run()
    with ExitStack() as stack:
        warm = starts(started(stack, warm=True), short, plan, plan.starts)
    return {
        "material": material.about | {"row_tokens": material.row_tokens},
        "ratios": comparison.ratios(),
        "tokens_per_s": {
            name: {"median": round(statistics.median(rates), 1), "rounds": rates}
            for name, rates in sorted(comparison.rates.items())
        },
        "cold_first_step_s": medians(cold).get("total"),
        "warm_first_step_s": medians(warm).get("total"),
        "first_step_phases_s": {"cold": medians(cold), "warm": medians(warm)},
        "trl": trl_version() or "not installed: python -m pip install trl==1.16.*",
    }


def run(plan: Plan) -> Results:
    results: Results = {
        "date": report.now(),
        "machine": report.machine(),
        "versions": report.versions(TOLD),
        "plan": asdict(plan),
    }
    # Not below root's home: Postgres runs as another user, who must get in.
    folder = Path(tempfile.mkdtemp(prefix="raymill-bench-train-"))
    folder.chmod(0o755)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        results |= measure(plan, folder)
    with tempfile.TemporaryDirectory(prefix="raymill-bench-train-") as alone:
        results |= gpu_results(Path(alone), plan.gpu_steps)
    results |= asha_results()
    results["goals"] = judge(results, GOALS)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench-train ARGS=…", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a first look, written to .bench/")
    quick = parser.parse_args().quick
    forget_other_services()
    interrupt_once()
    with errors_told("bench-train"):
        results = run(QUICK if quick else Plan())
    show(results)
    print(f"written to {report.write(results, 'train.json', whole=not quick)}")
    return 0


def show(results: dict[str, Any]) -> None:
    for name, rates in results["tokens_per_s"].items():
        print(f"{name:20} {rates['median']:>9,.0f} tokens/s")
    for name, each in results["first_step_phases_s"].items():
        print(
            f"{name:5} first step: " + ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in each.items())
        )
    show_gpu(results)
    print(report.verdicts(results["goals"]))


def show_gpu(results: dict[str, Any]) -> None:
    if results["gpu"] is None:
        print(f"GPU: not measured, {results['gpu_note']}")
        return
    print(results["gpu"]["formula"])
    for name in ON_A_GPU:
        print(told(name, results["gpu"][name]))


if __name__ == "__main__":
    sys.exit(main())
