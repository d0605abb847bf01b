"""Quantizing a Llama of 1B beside llama.cpp by hand: seconds and memory. `python -m benchmarks.quantize`.

Both sides turn the same random model into Q4_K_M, in turns. By hand is what a user of llama.cpp types: its own converter, then its own
quantizer with its defaults (llama-cpp-python's wheel has the library without the tool, so one call stands for it).
Ours is what the quantize step does to have the same file: sizes, conversion, quantization, reading it back, and the
digest. Verification is work of another kind and is not in either.

Peak memory is that of the largest process, mapped pages of the files included. Seconds of the clock; bytes.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from benchmarks.goals import Results

from raymill.cluster.context import LocalContext
from raymill.evaluate.fetch_converter import converter_script
from raymill.evaluate.quantize_config import GgufType, QuantizeConfig, VerifyConfig
from raymill.evaluate.quantize_job import Making
from raymill.registry.artifacts import sha256_file
from raymill.train.tokenizer import train_tokenizer

KIND: GgufType = "Q4_K_M"
TURNS = 2
POLL_S = 0.05
GOAL_OURS_OVER_BY_HAND = 1.15
GOAL_PEAK_OVER_F16 = 1.5

LLAMA_1B = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
}

BY_HAND = """
import ctypes, sys, llama_cpp
llama_cpp.llama_backend_init()
params = llama_cpp.llama_model_quantize_default_params()
params.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M
sys.exit(llama_cpp.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), ctypes.byref(params)))
"""


class Turn(NamedTuple):
    """One way to the file, once."""

    seconds: float
    peak_bytes: int


def make_model(directory: Path, shape: dict[str, int] = LLAMA_1B) -> None:
    """A random Llama in bfloat16 with a tokenizer that llama.cpp knows. A process of its own, for its memory."""
    command = [sys.executable, "-m", "benchmarks.quantize", "--make", str(directory), json.dumps(shape)]
    subprocess.run(command, check=True, capture_output=True)


def write_model(directory: Path, shape: dict[str, int]) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    directory.mkdir(parents=True, exist_ok=True)
    train_tokenizer([f"word {number} and another one" for number in range(2000)], 300, directory)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    model: Any = LlamaForCausalLM(LlamaConfig(**shape, tie_word_embeddings=False))
    model.save_pretrained(directory)


def by_hand(model: Path, work: Path) -> Turn:
    """llama.cpp's converter, then its quantizer, each as a user starts it."""
    f16, target = work / "f16.gguf", work / "by-hand.gguf"
    convert = [sys.executable, str(converter_script()), str(model), "--outtype", "f16", "--outfile", str(f16)]

    def work_through() -> None:
        for command in (convert, [sys.executable, "-c", BY_HAND, str(f16), str(target)]):
            subprocess.run(command, check=True, capture_output=True)

    return watched(work_through)


def ours(model: Path, work: Path) -> Turn:
    """What the quantize step does up to the finished file and its digest."""
    config = QuantizeConfig(types=(KIND,), parity_prompts=0, verify=VerifyConfig(tokens=0))

    def work_through() -> None:
        for file in Making(LocalContext(work), config, model, None).files():
            sha256_file(file.path)

    return watched(work_through)


def watched(work_through: Callable[[], None]) -> Turn:
    """Run it, with an eye on this process's children."""
    peak, done = [0], threading.Event()

    def look() -> None:
        while not done.wait(POLL_S):
            for child in psutil.Process().children(recursive=True):
                try:
                    peak[0] = max(peak[0], child.memory_info().rss)
                except psutil.NoSuchProcess:
                    continue

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    started = time.monotonic()
    try:
        work_through()
    finally:
        seconds = time.monotonic() - started
        done.set()
        watcher.join()
    return Turn(seconds, peak[0])


def quantize_results(turns: int = TURNS, shape: dict[str, int] = LLAMA_1B) -> Results:
    """Medians over `turns` of both sides, by turns.

    Returns:
        ours_s, by_hand_s, ours_over_by_hand, ours_peak_bytes, by_hand_peak_bytes, f16_bytes, quantized_bytes,
        peak_over_f16, turns, and goals by the names of these ratios.
    """
    found: dict[str, list[Turn]] = {"by_hand": [], "ours": []}
    sizes: dict[str, int] = {}
    with tempfile.TemporaryDirectory(prefix="quantize-bench-") as scratch:
        model = Path(scratch) / "model"
        make_model(model, shape)
        for turn in range(turns):
            sides = [("by_hand", by_hand), ("ours", ours)]
            for name, side in sides if turn % 2 == 0 else reversed(sides):
                work = Path(scratch) / "turn"
                work.mkdir()
                found[name].append(side(model, work))
                if name == "by_hand":
                    sizes = {
                        "f16_bytes": (work / "f16.gguf").stat().st_size,
                        "quantized_bytes": (work / "by-hand.gguf").stat().st_size,
                    }
                shutil.rmtree(work)
    return judged(found, sizes)


def judged(found: dict[str, list[Turn]], sizes: dict[str, int]) -> Results:
    """Medians, their ratios, and whether these reach their goals."""
    seconds = {name: statistics.median(turn.seconds for turn in turns) for name, turns in found.items()}
    peaks = {name: max(turn.peak_bytes for turn in turns) for name, turns in found.items()}
    slower, peak = seconds["ours"] / seconds["by_hand"], peaks["ours"] / sizes["f16_bytes"]
    return {
        "type": KIND,
        "ours_s": round(seconds["ours"], 2),
        "by_hand_s": round(seconds["by_hand"], 2),
        "ours_over_by_hand": round(slower, 3),
        "ours_peak_bytes": peaks["ours"],
        "by_hand_peak_bytes": peaks["by_hand"],
        "peak_over_f16": round(peak, 3),
        **sizes,
        "turns": {name: [round(turn.seconds, 2) for turn in turns] for name, turns in found.items()},
        "goals": {
            "ours_over_by_hand": {
                "goal": f"<= {GOAL_OURS_OVER_BY_HAND}",
                "met": slower <= GOAL_OURS_OVER_BY_HAND,
            },
            "peak_over_f16": {"goal": f"<= {GOAL_PEAK_OVER_F16}", "met": peak <= GOAL_PEAK_OVER_F16},
        },
    }


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["--make"]:
        write_model(Path(given[1]), json.loads(given[2]))
        return 0
    print(json.dumps(quantize_results(), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
