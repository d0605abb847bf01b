"""A Llama of random weights, too small to be slow, in Hugging Face layout."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raymill.train.tokenizer import train_tokenizer


def random_llama(
    directory: Path, documents: Sequence[str], vocabulary: int = 330, **shape: int
) -> tuple[Any, dict[str, int]]:
    """The same weights on every call, wide apart: no near ties. The model is not saved yet.

    Args:
        directory: its tokenizer, made of `documents`, is written there.
        vocabulary: tokens at the most.
        shape: of `LlamaConfig`, besides two layers.

    Returns:
        The model, and its vocabulary.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    train_tokenizer(documents, vocabulary, directory)
    tokenizer = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    ids: dict[str, int] = tokenizer["model"]["vocab"]
    torch.manual_seed(3)
    config = LlamaConfig(
        num_hidden_layers=2,
        num_key_value_heads=2,
        vocab_size=len(ids),
        initializer_range=0.3,
        tie_word_embeddings=False,
        eos_token_id=ids["<|end|>"],
        bos_token_id=None,
        pad_token_id=ids["<|pad|>"],
        **shape,
    )
    return LlamaForCausalLM(config), ids
