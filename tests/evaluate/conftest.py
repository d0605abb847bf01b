"""Tiny models, made on the spot: random weights wide apart, so that greedy answers have no near ties."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.evaluate.benchmark_rows import WORDS
from tests.llama import random_llama

from raymill.evaluate.gguf_export import export_f16


def sentence(seed: int) -> str:
    """Some words, told by `seed` alone."""
    return " ".join(
        WORDS[(seed * 7 + step * step * (seed % 5 + 1)) % len(WORDS)] for step in range(3 + seed % 9)
    )


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 256 wide and 2 layers with a byte-fallback tokenizer and a chat template."""
    import torch

    torch.set_num_threads(1)  # two threads that wait for each other are slower than one on so small a model
    directory = tmp_path_factory.mktemp("model")
    documents = [sentence(seed) for seed in range(200)] + ["Größe 42 € — naïve\ttab", "a  b   c\nnew line"]
    shape = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4}
    model, _ = random_llama(directory, documents, max_position_embeddings=512, **shape)
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
