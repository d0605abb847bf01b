"""A small model made on the spot, and the recipe that has the service train, promote and serve it.

The weights are random but for a few steps of tuning: what it says does not matter, how fast does. By default
it makes a few hundred tokens a second on two cores, so that most of their time goes into the model and not
into the load generator; at 16 requests at once, a real model on a GPU makes about as many for each core of
its machine.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers import ROOT
from benchmarks.programs import BenchmarkFailed

from raymill.serve.llm.config import ServeConfig
from raymill.train.tokenizer import train_tokenizer

VOCAB = 2048
HEAD_DIM = 64
"""vLLM on the CPU takes 32, 64, 80, 96, 112, 128."""

TRAIN_ROWS, TEST_ROWS = 16, 4
TASK = "heldout_exact_match"


@dataclass(frozen=True, kw_only=True)
class Size:
    """Of the model."""

    hidden: int = 768
    layers: int = 12

    def __post_init__(self) -> None:
        if self.hidden % 256 or self.layers < 1:
            raise ValueError(f"hidden is {self.hidden}, layers {self.layers}: 256 must divide hidden")


def make_files(folder: Path, size: Size) -> dict[str, Any]:
    """A base model and a small data set below `folder`. Returns the recipe's sections about them."""
    data, base = folder / "data", folder / "base"
    _run([str(ROOT / "examples/support/generate.py"), "--out", str(data), "--seed", "0"])
    for name, rows in (("train.jsonl", TRAIN_ROWS), ("heldout.jsonl", TEST_ROWS)):
        path = data / name
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:rows]))
    # In a process of its own: what it imports is large and talks.
    _run(
        [
            "-m",
            "benchmarks.own_model",
            str(data / "corpus.txt"),
            str(base),
            str(size.hidden),
            str(size.layers),
        ]
    )
    return {
        "base": {"path": str(base)},
        "dataset": {"train": str(data / "train.jsonl"), "test": str(data / "heldout.jsonl")},
    }


def recipe(name: str, files: dict[str, Any], serve: ServeConfig) -> dict[str, Any]:
    """Two steps of tuning, then production, with a bound that everything meets: nothing was learnt."""
    return {
        "model": name,
        **files,
        "train": {"lora": {"r": 4}, "epochs": 1, "batch": 8},
        "evaluate": {"tasks": [TASK], "actors": 1, "max_new_tokens": 4},
        "promote": {"to": "production", "require": {TASK: {"at_least": 0.0}}},
        "serve": serve.model_dump(mode="json", exclude_defaults=True),
    }


def _run(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode != 0:
        raise BenchmarkFailed(f"{arguments[0]} {arguments[1]} failed: {done.stderr.strip()[-300:]}")


def write_weights(
    directory: Path,
    size: Size,
    *,
    intermediate: int | None = None,
    positions: int = 2048,
    spread: float = 0.02,
) -> None:
    """A Llama of random weights for the tokenizer in `directory`; `spread` is their standard deviation."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    ids: dict[str, int] = json.loads((directory / "tokenizer.json").read_text())["model"]["vocab"]
    torch.manual_seed(0)
    heads = size.hidden // HEAD_DIM
    config = LlamaConfig(
        hidden_size=size.hidden,
        intermediate_size=intermediate or 3 * size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        vocab_size=len(ids),
        max_position_embeddings=positions,
        initializer_range=spread,
        tie_word_embeddings=False,
        eos_token_id=ids["<|end|>"],
        bos_token_id=None,
        pad_token_id=ids["<|pad|>"],
    )
    model: Any = LlamaForCausalLM(config)
    model.save_pretrained(directory)


def main() -> None:
    """Write a base: CORPUS DIRECTORY HIDDEN LAYERS."""
    corpus, directory = Path(sys.argv[1]), Path(sys.argv[2])
    directory.mkdir()
    train_tokenizer(corpus.read_text().split("\n\n"), VOCAB, directory)
    write_weights(directory, Size(hidden=int(sys.argv[3]), layers=int(sys.argv[4])))


if __name__ == "__main__":
    main()
