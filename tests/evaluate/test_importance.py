from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader
from tests.evaluate.conftest import sentence

from raymill.evaluate.calibration import measure_importance
from raymill.evaluate.importance import load
from raymill.evaluate.prompts import load_tokenizer
from raymill.evaluate.quantize import quantize


def nothing() -> None:
    return


def test_a_column_weighs_the_mean_square_of_its_inputs(tiny_model: Path, f16: Path, tmp_path: Path) -> None:
    import torch
    from transformers import LlamaForCausalLM

    tokenizer = load_tokenizer(tiny_model)
    rows = [tokenizer(sentence(seed) + " please")["input_ids"] for seed in range(12)]
    made = measure_importance(f16, rows, "train.jsonl", tmp_path, nothing)
    found = load(made.path)
    assert len(found) == 2 * 7  # attention's four matrices and the three of the MLP, in each layer

    model = LlamaForCausalLM.from_pretrained(tiny_model)
    squares: list[torch.Tensor] = []
    down = model.model.layers[0].mlp.down_proj
    down.register_forward_pre_hook(lambda _module, inputs: squares.append(inputs[0][0] ** 2))
    with torch.no_grad():
        for row in rows:
            model(torch.tensor([row]))
    expected = torch.cat(squares).mean(dim=0).numpy()
    np.testing.assert_allclose(
        found["blk.0.ffn_down.weight"], expected, rtol=0.02, atol=1e-3 * expected.max()
    )


def test_a_file_says_that_it_was_made_with_a_matrix_and_differs(f16: Path, tmp_path: Path) -> None:
    rows = [[5 + (seed * step) % 300 for step in range(40)] for seed in range(1, 9)]
    made = measure_importance(f16, rows, "train.jsonl", tmp_path, nothing)
    with_it = quantize(
        f16,
        tmp_path / "with.gguf",
        "Q4_K_M",
        tmp_path,
        nothing,
        importance=made.path,
        metadata=made.metadata,
    )
    without = quantize(f16, tmp_path / "without.gguf", "Q4_K_M", tmp_path, nothing)
    assert with_it.tensors.types == without.tensors.types
    held = GGUFReader(with_it.path).get_field("quantize.imatrix.dataset")
    assert held is not None
    assert held.contents() == "train.jsonl"
    weights = [
        next(
            tensor.data for tensor in GGUFReader(file.path).tensors if tensor.name == "blk.0.ffn_down.weight"
        )
        for file in (with_it, without)
    ]
    assert not np.array_equal(*weights)


def test_a_finished_matrix_is_kept(f16: Path, tmp_path: Path) -> None:
    (tmp_path / "imatrix.gguf").write_bytes(b"made before")
    made = measure_importance(f16, [[1, 2, 3]], "train.jsonl", tmp_path, nothing)
    assert made.path.read_bytes() == b"made before"
    assert json.dumps(dict(made.metadata))
    assert made.metadata["quantize.imatrix.chunks_count"] == pytest.approx(1)
