"""What `make bench-train` trains on a GPU, and how it asks for it: each case in a process of its own.

Llamas of random weights in the shapes of Llama 3.2 1B and Llama 3.1 8B, rows of random ids as long as alpaca's. Nothing
is fetched. Light: `train_gpu`, which does it, imports torch.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.goals import Results
from benchmarks.measure import say
from benchmarks.peers import ROOT
from benchmarks.train_numbers import FORMULA

CASE_S = 900.0


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model, and what its recipe would say."""

    llama: Mapping[str, Any]
    """Arguments of transformers' LlamaConfig."""

    train: Mapping[str, Any]
    """A recipe's section `train`."""

    longest: int = 1024
    """Tokens that an example may have."""


LLAMA_1B: Mapping[str, Any] = {
    "vocab_size": 128_256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 131_072,
    "tie_word_embeddings": True,
}
LLAMA_8B: Mapping[str, Any] = {
    **LLAMA_1B,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "head_dim": 128,
    "tie_word_embeddings": False,
}
TINY: Mapping[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
# Every token counts, so that the head works on all of them, as the formula takes for granted. Inductor fuses what
# Liger's kernels do, and the copies that adapters make besides.
FAST: Mapping[str, Any] = {"method": "sft", "loss_on": "all", "packing": True, "compile": True}
LORA: Mapping[str, Any] = {"r": 16}

CASES: Mapping[str, Case] = {
    "full_1b": Case(llama=LLAMA_1B, train={**FAST, "batch": 512, "micro_tokens": 16_384}),
    "lora_1b": Case(llama=LLAMA_1B, train={**FAST, "batch": 512, "micro_tokens": 16_384, "lora": LORA}),
    "lora_8b": Case(llama=LLAMA_8B, train={**FAST, "batch": 256, "micro_tokens": 8192, "lora": LORA}),
    "full_8b": Case(
        llama=LLAMA_8B,
        train={**FAST, "batch": 256, "micro_tokens": 4096, "gradient_checkpointing": True},
    ),
    "tiny": Case(llama=TINY, train={**FAST, "compile": False, "batch": 8, "micro_tokens": 512}, longest=128),
}
ON_A_GPU = ("full_1b", "lora_1b", "lora_8b", "full_8b")


def gpu_results(folder: Path, steps: int) -> Results:
    """Each case's numbers below `gpu`, or null there and the reason in `gpu_note`."""
    if not has_gpu():
        return {"gpu": None, "gpu_note": "no CUDA device"}
    cases = {}
    for name in ON_A_GPU:
        say(f"training {name} on the GPU")
        cases[name] = measured(name, folder, steps)
        say(told(name, cases[name]))
    return {"gpu": {"formula": FORMULA, **cases}}


def has_gpu() -> bool:
    """Asked in a process of its own, which takes its memory of the device away with it."""
    code = "import torch; print(torch.cuda.is_available())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.split()[-1:] == ["True"]


def measured(name: str, folder: Path, steps: int, settings: Sequence[str] = ()) -> Results:
    """What the case's process wrote; where it failed, `failed` with the end of what it said."""
    command = [sys.executable, "-m", "benchmarks.train_gpu", name, str(folder), "--steps", str(steps)]
    try:
        done = subprocess.run(
            [*command, *settings], capture_output=True, text=True, timeout=CASE_S, check=False, cwd=ROOT
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"it took more than {CASE_S:.0f} s"}
    if done.returncode != 0:
        return {"failed": done.stderr.strip()[-500:]}
    found: Results = json.loads((folder / f"{name}.json").read_text())
    return found


def told(name: str, case: Results) -> str:
    """A case on one line."""
    for word in ("skipped", "failed"):
        if word in case:
            return f"{name:10} {word}: {case[word]}"
    share = "unknown" if case["mfu"] is None else f"{case['mfu']:.1%}"
    memory = "" if case["peak_gib"] is None else f", {case['peak_gib']:.1f} GiB at most"
    return f"{name:10} {case['tokens_per_s']:>9,.0f} tokens/s, MFU {share}, {case['step_s']:.2f} s a step{memory}"
