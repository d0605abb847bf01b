"""Tiny models, made on the spot: random weights wide apart, so that greedy answers have no near ties."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.evaluate.benchmark_rows import WORDS

from raymill.evaluate.gguf_export import export_f16
from raymill.train.tokenizer import train_tokenizer


def sentence(seed: int) -> str:
    """Some words, told by `seed` alone."""
    return " ".join(
        WORDS[(seed * 7 + step * step * (seed % 5 + 1)) % len(WORDS)] for step in range(3 + seed % 9)
    )


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 256 wide and 2 layers with a byte-fallback tokenizer and a chat template."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)  # two threads that wait for each other are slower than one on so small a model
    directory = tmp_path_factory.mktemp("model")
    documents = [sentence(seed) for seed in range(200)] + ["Größe 42 € — naïve\ttab", "a  b   c\nnew line"]
    train_tokenizer(documents, 330, directory)
    tokenizer = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    ids: dict[str, int] = tokenizer["model"]["vocab"]
    torch.manual_seed(3)
    config = LlamaConfig(
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=len(ids),
        max_position_embeddings=512,
        initializer_range=0.3,
        tie_word_embeddings=False,
        eos_token_id=ids["<|end|>"],
        bos_token_id=None,
        pad_token_id=ids["<|pad|>"],
    )
    model: Any = LlamaForCausalLM(config)
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def f16(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as a GGUF file."""
    work = tmp_path_factory.mktemp("export")
    target = work / "tiny.gguf"
    export_f16(tiny_model, target, work, lambda: None)
    return target


@pytest.fixture(scope="session")
def conversations() -> list[list[dict[str, str]]]:
    """Prompts of very different length, some with characters that the tokenizer knows as bytes only."""
    return [[{"role": "user", "content": f"{sentence(seed)} ({seed}) é"}] for seed in range(23)]
