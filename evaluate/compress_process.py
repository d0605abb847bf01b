"""The child process that writes one model's weights in fewer bits with llm-compressor. Its output is the log.

    python -m raymill.evaluate.compress_process JOB

JOB is JSON with the fields of `compress.Order`. It runs with llm-compressor's folder first in its path (`compress.py`).

AWQ: https://arxiv.org/abs/2306.00978. GPTQ: https://arxiv.org/abs/2210.17323. FP8: weights by channel, activations by
token as they come, no calibration (https://arxiv.org/abs/2209.05433).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from raymill.evaluate.child import die_with_parent
from raymill.evaluate.compress import Order

GROUP = 128
"""Weights that share a scale; fewer where a layer's rows are no multiple of it."""

HEAD = ["lm_head"]
"""Stays as it is, as in the methods' papers."""


def group_size(model: Any) -> int:
    """The largest power of two up to GROUP that divides the rows of every layer that is compressed."""
    import torch

    widths = {
        layer.in_features
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and name not in HEAD
    }
    size = GROUP
    while any(width % size for width in widths):
        size //= 2
    return size


def four_bits(model: Any, *, symmetric: bool) -> dict[str, Any]:
    """Weights of 4 bits in groups with a scale each; without symmetry a zero point too."""
    weights = {
        "num_bits": 4,
        "type": "int",
        "strategy": "group",
        "group_size": group_size(model),
        "symmetric": symmetric,
    }
    return {"group_0": {"targets": ["Linear"], "weights": weights}}


def modifiers(kind: str, model: Any) -> list[Any]:
    """llm-compressor's steps for a type."""
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier

    if kind == "FP8":
        return [QuantizationModifier(targets=["Linear"], scheme="FP8_DYNAMIC", ignore=HEAD)]
    if kind == "GPTQ":
        return [GPTQModifier(config_groups=four_bits(model, symmetric=True), ignore=HEAD)]
    return [AWQModifier(), QuantizationModifier(config_groups=four_bits(model, symmetric=False), ignore=HEAD)]


def main() -> None:
    die_with_parent()
    order = Order(**json.loads(sys.argv[1]))
    import torch
    from datasets import Dataset
    from llmcompressor import oneshot
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(order.source, dtype="auto", local_files_only=True)
    model.to(device)
    rows: list[list[int]] = json.loads(Path(order.rows).read_text(encoding="utf-8")) if order.rows else []
    calibration = {}
    if rows:
        ids = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in rows]
        calibration = {
            "dataset": Dataset.from_list(ids),
            "num_calibration_samples": len(ids),
            "max_seq_length": max(map(len, rows)),
            "shuffle_calibration_samples": False,
            "processor": AutoTokenizer.from_pretrained(order.source, local_files_only=True),
        }
    oneshot(model=model, recipe=modifiers(order.type, model), **calibration)
    model.save_pretrained(order.target, save_compressed=True)


if __name__ == "__main__":
    main()
