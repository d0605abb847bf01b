from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from raymill.cluster.context import LocalContext
from raymill.evaluate import sizes
from raymill.evaluate.quantize import quantize
from raymill.evaluate.quantize_config import QUANTIZATION_TYPES, GgufType, QuantizeConfig
from raymill.evaluate.quantize_job import Making


def nothing() -> None:
    return


@pytest.mark.parametrize(
    ("kind", "types"),
    [
        ("F16", {"F16": 16, "F32": 5}),
        ("BF16", {"BF16": 16, "F32": 5}),
        ("Q8_0", {"F32": 5, "Q8_0": 16}),
        ("Q5_K_M", {"F32": 5, "Q5_K": 13, "Q6_K": 3}),
        ("Q4_K_M", {"F32": 5, "Q4_K": 13, "Q6_K": 3}),
        ("IQ4_XS", {"F32": 5, "IQ4_XS": 15, "Q6_K": 1}),
        ("Q3_K_M", {"F32": 5, "Q3_K": 9, "Q4_K": 4, "Q5_K": 2, "Q6_K": 1}),
        ("Q2_K", {"F32": 5, "Q2_K": 9, "Q3_K": 6, "Q6_K": 1}),
    ],
)
def test_every_type_is_made_and_its_tensors_are_read_back(
    f16: Path, tmp_path: Path, kind: GgufType, types: dict[str, int]
) -> None:
    file = quantize(f16, tmp_path / f"tiny-{kind}.gguf", kind, tmp_path, nothing)
    assert file.tensors.counts == types
    assert file.tensors.fallbacks == []
    assert file.size_bytes == file.path.stat().st_size


def test_sizes_are_told_before_a_file_is_made(f16: Path, tmp_path: Path) -> None:
    planned = sizes.planned(f16, QUANTIZATION_TYPES, tmp_path, nothing)
    assert list(planned) == list(QUANTIZATION_TYPES)
    for kind in ("F16", "Q4_K_M", "IQ4_XS"):
        made = quantize(f16, tmp_path / f"tiny-{kind}.gguf", kind, tmp_path, nothing)
        assert planned[kind] == made.size_bytes


def test_an_estimate_needs_the_shapes_alone(tmp_path: Path) -> None:
    weights = {"model.embed_tokens.weight": np.zeros((4096, 512), np.float32), "norm.weight": np.ones(512)}
    save_file(weights, tmp_path / "model.safetensors")
    found = sizes.estimate(tmp_path, ("F16", "Q4_K_M"))
    assert found["F16"] == sizes.METADATA_BYTES + 2 * 4096 * 512 + 4 * 512
    assert found["Q4_K_M"] == sizes.METADATA_BYTES + 4096 * 512 * 6.5625 / 8 + 4 * 512


def test_a_disk_without_room_is_an_error_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(
        sizes.NoRoom, match=r"are to be written \(Q8_0 1000000\.00 GB\), but .* are free: make room"
    ):
        sizes.require_room(tmp_path, {"Q8_0": 10**15})


def test_a_model_too_large_for_the_disk_is_refused_before_it_is_converted(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = LocalContext(tmp_path)
    making = Making(context, QuantizeConfig.model_validate(["Q4_K_M"]), tiny_model, None)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())  # noqa: ARG005
    with pytest.raises(sizes.NoRoom, match=r"the F16 export .* MB, Q4_K_M .* MB\), but 0\.0 MB are free"):
        making.files()
    assert list(context.work_dir.iterdir()) == []
