"""llama.cpp by ctypes, as our child processes share it: a model, a context, a batch. Never imported by a driver.

A crash in here ends the process; `child.py` and `llama_cpp_runner.py` make an error of it.

Shapes: N tokens whose successor is predicted, V tokens in the vocabulary.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

PREFILL_TOKENS = 512
"""Prompt tokens that are decoded at once."""


def load_model(path: str, *, on_cpu: bool = False) -> Any:
    """The model in a GGUF file; the process ends where llama.cpp cannot load it."""
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_default_params()
    # With AMX, llama.cpp crashed on repacked weights; this can go once it does not.
    params.use_extra_bufts = False
    if on_cpu:
        params.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(path.encode(), params)
    if not model:
        sys.exit(f"llama.cpp cannot load {path}")
    return model


def make_context(model: Any, params: Any) -> Any:
    """A context; the process ends where there is no memory for it."""
    context = llama_cpp.llama_init_from_model(model, params)
    if not context:
        sys.exit(f"llama.cpp cannot make a context of {params.n_ctx} tokens for {params.n_seq_max} sequences")
    return context


def load_adapter(model: Any, path: str) -> Any:
    """A LoRA adapter for `model`. Ends the process with a message when it is none."""
    adapter = llama_cpp.llama_adapter_lora_init(model, path.encode())
    if adapter is None:
        sys.exit(f"llama.cpp cannot load the adapter {path}")
    return adapter


def add_adapter(context: Any, adapter: Any) -> None:
    """Add an adapter to what the context computes with, whole."""
    adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(adapter)
    code = llama_cpp.llama_set_adapters_lora(context, adapters, 1, (ctypes.c_float * 1)(1.0))
    if code != 0:
        sys.exit(f"llama_set_adapters_lora ended with {code}")


def vocabulary_size(model: Any) -> int:
    return int(llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model)))


class Batch:
    """llama.cpp's batch of tokens, filled from Python."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.raw = llama_cpp.llama_batch_init(capacity, 0, 1)
        self.raw.n_tokens = 0

    def add(self, token: int, position: int, slot: int, *, wanted: bool) -> int:
        """Append one token; returns its place, by which its logits are found when they are `wanted`."""
        place = int(self.raw.n_tokens)
        self.raw.token[place] = token
        self.raw.pos[place] = position
        self.raw.n_seq_id[place] = 1
        self.raw.seq_id[place][0] = slot
        self.raw.logits[place] = wanted
        self.raw.n_tokens = place + 1
        return place

    def clear(self) -> None:
        self.raw.n_tokens = 0


def predictions(
    model: Any, rows: Sequence[Sequence[int]], threads: int, params: Any = None
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Logits of every token but the last of each row, several short rows at once, each from its own start.

    Args:
        rows: token ids, each of 2 to PREFILL_TOKENS.
        params: of the context, where its callbacks are wanted.

    Yields:
        targets_N, the tokens that do follow, and logits_NV, which are gone with the next step.
    """
    params = params if params is not None else llama_cpp.llama_context_default_params()
    params.n_seq_max = min(len(rows), PREFILL_TOKENS // 8) or 1
    params.n_ctx = params.n_batch = params.n_ubatch = PREFILL_TOKENS
    params.n_threads = params.n_threads_batch = threads
    params.kv_unified = True
    context, batch, vocab = make_context(model, params), Batch(PREFILL_TOKENS), vocabulary_size(model)
    for group in packed(rows, PREFILL_TOKENS, int(params.n_seq_max)):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        batch.clear()
        for slot, row in enumerate(group):
            for position, token in enumerate(row):
                batch.add(token, position, slot, wanted=position < len(row) - 1)
        code = llama_cpp.llama_decode(context, batch.raw)
        if code != 0:
            sys.exit(f"llama_decode ended with {code} on {batch.raw.n_tokens} tokens")
        targets_N = np.array([token for row in group for token in row[1:]], dtype=np.int64)
        logits = ctypes.cast(llama_cpp.llama_get_logits(context), ctypes.POINTER(ctypes.c_float))
        yield targets_N, np.ctypeslib.as_array(logits, (len(targets_N), vocab))
    llama_cpp.llama_free(context)


def packed(rows: Sequence[Sequence[int]], tokens: int, most: int) -> Iterator[list[Sequence[int]]]:
    """Rows in their order, in groups of at most so many rows and tokens together."""
    group: list[Sequence[int]] = []
    for row in rows:
        if group and (sum(map(len, group)) + len(row) > tokens or len(group) == most):
            yield group
            group = []
        group.append(row)
    if group:
        yield group
