"""`make bench-vllm`: a model of our own through the gateway, against talking to its vLLM directly; writes
`results/gateway-vllm.json`.

What a fair comparison is. Both sides serve the same signed weights, in the same precision, with the same KV
cache, batch limit and threads, and are asked by the same `vllm bench serve` (streamed chat completions of a
fixed length, 16 at once), by turns, the other one stopped. The side of ours is the whole service as a user
runs it: a recipe trained, promoted and deployed the model; each request passes HAProxy, the gateway with
its key, limits, budget and records, and Ray's call to the replica. The direct side is vLLM's own OpenAI
server on the same engine: on a CPU a replica runs the engine's core in a thread, so the direct one does too
(`direct`), and `ratio_throughput` is the gateway's share alone. Beside it stands vLLM as it comes
(`stock`), where the core has a process of its own: `ratio_throughput_vs_stock` is what a user would see who
had started vLLM by hand. On GPUs our core has a process of its own as well, and the two are the same.

On a small machine the load generator and the gateway take their time from the same cores as the model;
`own_model.py` says how large it should be for that.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks import own_model, report
from benchmarks.goals import Results
from benchmarks.measure import say
from benchmarks.own_model import Size
from benchmarks.peers import ROOT
from benchmarks.programs import BenchmarkFailed, Endpoint, build_programs
from benchmarks.service import NAME, RaymillService, forget_other_services, limited_key
from benchmarks.systems import CHAT, Program, System, errors_told, interrupt_once

from raymill.client.recipe import Recipe
from raymill.client.sdk import Raymill
from raymill.cluster import cpu
from raymill.registry.artifacts import ArtifactStore
from raymill.serve.llm.config import ServeConfig

GOAL_RATIO = 0.95
BENCH_TIMEOUT_S = 600.0
QUIET = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}


@dataclass(frozen=True, kw_only=True)
class Options:
    rounds: int = 3
    prompts: int = 64
    input_tokens: int = 128
    output_tokens: int = 128
    concurrency: int = 16
    size: Size = field(default_factory=Size)
    serve: ServeConfig = field(default_factory=lambda: ServeConfig(dtype=_dtype(), gpus=_gpus()))


def _dtype() -> Literal["bfloat16", "float32"]:
    """What the machine computes in hardware; both sides get the same."""
    return "bfloat16" if _gpus() or cpu.computes_bf16() else "float32"


def _gpus() -> int:
    return 1 if shutil.which("nvidia-smi") else 0


class OverOwnModel(RaymillService):
    """The service after a recipe's whole way."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self._options = options
        self.directory = Path()
        """Where the served version's weights lie, once it is served."""

    def configure(self, client: Raymill) -> str:
        say("making a small model and its data")
        files = own_model.make_files(self.folder, self._options.size)
        recipe = Recipe.model_validate(own_model.recipe(NAME, files, self._options.serve))
        say("raymill: training, promoting and deploying it")
        pipeline = client.pipelines.create(recipe.resolved())
        ended = client.pipelines.wait(pipeline.id, timeout_s=900)
        if ended.state != "succeeded":
            reasons = "; ".join(f"{job.step}: {job.error}" for job in ended.jobs if job.error)
            raise BenchmarkFailed(f"the recipe {ended.state}: {reasons or ended.error}")
        self.directory = ArtifactStore(self.settings.home / "artifacts").path(
            client.llms.version(NAME, 1).artifact_name
        )
        return limited_key(client)


class DirectVllm(Program):
    """vLLM's own server on the same weights, set as the replica sets its engine."""

    def __init__(self, name: str, service: OverOwnModel, serve: ServeConfig, logs: Path) -> None:
        super().__init__(name, logs)
        self.ready_s = 600.0
        self._service, self._serve = service, serve
        self.endpoint = Endpoint(url=f"http://127.0.0.1:{self.port}{CHAT}", model=NAME)

    def command(self) -> list[str]:
        serve, on_cpu = self._serve, self._serve.gpus == 0
        eager = on_cpu if serve.enforce_eager is None else serve.enforce_eager
        command = [sys.executable, "-m", "benchmarks.vllm_direct", "--model", str(self._service.directory)]
        command += ["--served-model-name", NAME, "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--dtype", serve.dtype, "--max-num-seqs", str(serve.max_concurrent_requests)]
        command += ["--tensor-parallel-size", str(max(1, serve.gpus))]
        command += ["--disable-log-stats", "--disable-uvicorn-access-log"]
        command += ["--enforce-eager"] if eager else []
        command += (
            ["--distributed-executor-backend", "uni"] if self._like_a_replica and serve.gpus < 2 else []
        )
        if serve.max_model_len is not None:
            command += ["--max-model-len", str(serve.max_model_len)]
        if on_cpu:
            return [*command, "--kv-cache-memory-bytes", str(int(serve.cpu_kv_cache_gib * 2**30))]
        return [*command, "--gpu-memory-utilization", str(serve.gpu_memory_share)]

    @property
    def _like_a_replica(self) -> bool:
        return self.name == "direct"

    def environment(self) -> dict[str, str]:
        threads = str(self._serve.cpu_threads or os.cpu_count() or 1)
        in_thread = self._like_a_replica and self._serve.gpus == 0
        return QUIET | {
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": threads,
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "CORE_IN_THREAD": "1" if in_thread else "0",
            # Otherwise vLLM on a CPU gives the model a process of its own, whatever executor is asked for.
            **({"VLLM_ENABLE_V1_MULTIPROCESSING": "0"} if in_thread else {}),
        }


def bench(system: System, options: Options, tokenizer: Path, folder: Path) -> Results:
    """One run of `vllm bench serve`.

    Raises:
        BenchmarkFailed: it did not run, or a request failed.
    """
    base_url = system.endpoint.url.removesuffix(CHAT)
    [key] = [header.split()[-1] for header in system.endpoint.headers] or ["none"]
    command = [sys.executable, "-m", "benchmarks.vllm_bench", "--backend", "openai-chat", "--endpoint", CHAT]
    command += ["--base-url", base_url, "--model", NAME, "--tokenizer", str(tokenizer), "--ignore-eos"]
    command += ["--dataset-name", "random", "--random-input-len", str(options.input_tokens)]
    command += ["--random-output-len", str(options.output_tokens), "--num-prompts", str(options.prompts)]
    command += ["--max-concurrency", str(options.concurrency), "--num-warmups", str(options.concurrency)]
    command += [
        "--seed",
        "0",
        "--temperature",
        "0",
        "--disable-tqdm",
        "--percentile-metrics",
        "ttft,tpot,itl",
    ]
    command += ["--save-result", "--result-dir", str(folder), "--result-filename", "bench.json"]
    environment = os.environ | QUIET | {"OPENAI_API_KEY": key, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=BENCH_TIMEOUT_S, check=False
    )
    if done.returncode != 0:
        raise BenchmarkFailed(f"vllm bench serve failed: {done.stderr.strip()[-500:]}")
    found: dict[str, Any] = json.loads((folder / "bench.json").read_text())
    if found["completed"] != options.prompts:
        raise BenchmarkFailed(f"{system.name} answered {found['completed']} of {options.prompts} requests")
    names = (
        "duration",
        "output_throughput",
        "median_ttft_ms",
        "p99_ttft_ms",
        "median_tpot_ms",
        "median_itl_ms",
    )
    return {name: round(found[name], 3) for name in names} | {"output_tokens": found["total_output_tokens"]}


def run(options: Options) -> Results:
    """Start the three, ask them by turns, end them. Everything ends however this does."""
    results: Results = {"date": report.now(), "machine": report.machine(), "versions": report.versions()}
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-vllm-")))
        service = OverOwnModel(options)
        # On GPUs a replica's core has a process of its own, as in vLLM as it comes.
        names = ("direct", "stock") if options.serve.gpus == 0 else ("direct",)
        systems: list[System] = [service, *(DirectVllm(name, service, options.serve, logs) for name in names)]
        for system in systems:
            say(f"{system.name}: starting")
            stack.callback(system.stop)
            system.start()
            system.pause()
        rounds: dict[str, list[Results]] = {system.name: [] for system in systems}
        for number in range(options.rounds):
            for system in systems if number % 2 == 0 else reversed(systems):
                system.resume()
                cell = bench(system, options, service.directory, logs)
                system.pause()
                rounds[system.name].append(cell)
                say(
                    f"round {number + 1}/{options.rounds}  {system.name:8} {cell['output_throughput']:>8,.0f} tokens/s  "
                    f"first token {cell['median_ttft_ms']:.0f} ms, then {cell['median_tpot_ms']:.1f} ms each"
                )
    return results | _summary(rounds, options)


def _summary(rounds: dict[str, list[Results]], options: Options) -> Results:
    rates = {
        name: statistics.median(cell["output_throughput"] for cell in cells) for name, cells in rounds.items()
    }
    ratio = round(rates["raymill"] / rates["direct"], 4)
    return {
        "load": {
            "prompts": options.prompts,
            "concurrency": options.concurrency,
            "input_tokens": options.input_tokens,
            "output_tokens": options.output_tokens,
        },
        "model": {"hidden": options.size.hidden, "layers": options.size.layers, "vocab": own_model.VOCAB},
        "serve": options.serve.model_dump(mode="json"),
        "rounds": rounds,
        "output_tokens_per_s": rates,
        "ratio_throughput": ratio,
        "ratio_throughput_vs_stock": round(rates["raymill"] / rates["stock"], 4)
        if "stock" in rates
        else ratio,
        "goals": {
            "ratio_throughput": {"goal": f">= {GOAL_RATIO}", "value": ratio, "met": ratio >= GOAL_RATIO}
        },
        "finished": report.now(),
    }


def parse(arguments: Sequence[str] | None = None) -> Options:
    default = Options()
    parser = argparse.ArgumentParser(prog="make bench-vllm ARGS=…", description="Measure our own model.")
    parser.add_argument("--rounds", type=int, default=default.rounds)
    parser.add_argument("--prompts", type=int, default=default.prompts, help="in each round, of each side")
    parser.add_argument("--concurrency", type=int, default=default.concurrency)
    parser.add_argument("--hidden", type=int, default=default.size.hidden, help="width of the model")
    parser.add_argument("--layers", type=int, default=default.size.layers)
    given = parser.parse_args(arguments)
    size = Size(hidden=given.hidden, layers=given.layers)
    return Options(rounds=given.rounds, prompts=given.prompts, concurrency=given.concurrency, size=size)


def main() -> int:
    options = parse()
    forget_other_services()
    interrupt_once()
    with errors_told("bench-vllm"):
        build_programs()
        results = run(options)
    whole = options == Options()
    print(f"\n{report.verdicts(results['goals'])}")
    print(f"written to {report.write(results, 'gateway-vllm.json', whole=whole)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
