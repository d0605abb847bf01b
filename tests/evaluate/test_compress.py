from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.evaluate.conftest import sentence

from raymill.evaluate.compress import FOLDER, Compressor, estimate
from raymill.evaluate.compress_config import COMPRESSED_TYPES, CompressConfig
from raymill.evaluate.hf_model import HfModel
from raymill.evaluate.prompts import load_tokenizer
from raymill.evaluate.verification import OutOfBounds, require_within
from raymill.policies.errors import Invalid
from raymill.serve.llm.config import ServeConfig


def test_a_bare_list_is_enough_and_wrong_types_are_named() -> None:
    config = CompressConfig.model_validate(["FP8", "AWQ"])
    assert config.types == ("FP8", "AWQ")
    assert config.verify.bounds_of("FP8").kl_mean == 0.05
    narrow = CompressConfig.model_validate(
        {"types": ["FP8"], "verify": {"bounds": {"FP8": {"kl_mean": 0.01}}}}
    )
    assert (narrow.verify.bounds_of("FP8").kl_mean, narrow.verify.bounds_of("FP8").same_top) == (0.01, 0.86)
    with pytest.raises(
        ValueError, match=r"'Q8_0' is nothing that weights are compressed to.* stand under quantize"
    ):
        CompressConfig.model_validate(["Q8_0"])
    with pytest.raises(ValueError, match="listed twice"):
        CompressConfig.model_validate(["FP8", "FP8"])


def test_vllm_serves_what_was_compressed_and_llama_cpp_does_not() -> None:
    assert ServeConfig(quantization="FP8").quantization == "FP8"
    with pytest.raises(ValueError, match="say which, such as quantization: Q8_0"):
        ServeConfig(engine="llama_cpp", quantization="FP8")
    with pytest.raises(ValueError, match="is a GGUF file"):
        ServeConfig(quantization="Q8_0")


def test_sizes_come_from_the_shapes(tiny_model: Path) -> None:
    sizes = estimate(tiny_model, COMPRESSED_TYPES)
    assert (
        sizes["GPTQ"]
        < sizes["AWQ"]
        < sizes["FP8"]
        < sum(path.stat().st_size for path in tiny_model.iterdir())
    )


def test_bounds_name_the_section_and_the_cure() -> None:
    with pytest.raises(
        OutOfBounds, match=r"from the model: kl_mean 9 .* give compress\.calibration"
    ) as raised:
        require_within(
            "AWQ", {"kl_mean": 9.0}, CompressConfig(types=("AWQ",)).verify.bounds_of("AWQ"), "compress"
        )
    assert raised.value.param == "compress.verify.bounds.AWQ"


def test_where_llm_compressor_is_not_the_cure_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("raymill.evaluate.compress.FOLDER", tmp_path)
    with pytest.raises(Invalid, match="run `make setup`"):
        Compressor().load()


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # compressed-tensors, as it is loaded
@pytest.mark.slow  # three times llm-compressor's imports, a minute
@pytest.mark.skipif(not FOLDER.is_dir(), reason="llm-compressor is not installed: run `make setup`")
@pytest.mark.parametrize("kind", ["FP8", "GPTQ", pytest.param("AWQ", marks=pytest.mark.gpu)])
def test_weights_are_written_measured_and_answer(tiny_model: Path, tmp_path: Path, kind: str) -> None:
    tokenizer = load_tokenizer(tiny_model)
    ids = [tokenizer(sentence(seed))["input_ids"] for seed in range(24)]
    rows, base, target = tmp_path / "rows.json", tmp_path / "base", tmp_path / kind
    rows.write_text(json.dumps(ids))
    compressor = Compressor()
    compressor.load()
    calibration = None if kind == "FP8" else str(rows)
    compressor.compress(str(tiny_model), str(target), kind, calibration, str(tmp_path / "log"))  # type: ignore[arg-type]
    weights = sum(path.stat().st_size for path in target.glob("*.safetensors"))
    assert weights < 1.3 * estimate(tiny_model, COMPRESSED_TYPES)[kind]  # type: ignore[index]
    compressor.predict(str(tiny_model), str(rows), str(base), str(tmp_path / "base.log"))
    report = tmp_path / "report.json"
    compressor.measure(str(target), str(rows), str(base), str(report), str(tmp_path / "measure.log"))
    found = json.loads(report.read_text())
    assert 0 < found["kl_mean"] < 1
    assert found["tokens"] == sum(len(row) - 1 for row in ids)
    before = sorted(path.name for path in target.iterdir())
    compressor.compress("nowhere", str(target), kind, None, "nowhere")  # type: ignore[arg-type]  # done already
    assert sorted(path.name for path in target.iterdir()) == before
    answering = HfModel(str(target))
    answering.load()
    (answer,) = answering.generate([[{"role": "user", "content": "a"}]], 4)
    assert answer["tokens"]
