from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

from raymill.evaluate.child import ChildFailed
from raymill.evaluate.divergence import Base, BaseWriter, Comparison, log_softmax
from raymill.evaluate.prompts import load_tokenizer
from raymill.evaluate.quantize import QuantizedFile, quantize
from raymill.evaluate.quantize_config import BOUNDS, Bounds, TextFile
from raymill.evaluate.texts import text_path, token_rows
from raymill.evaluate.verification import (
    PLACES,
    PREFIX,
    OutOfBounds,
    Verifier,
    base_bytes,
    check_template,
    require_within,
)
from raymill.policies.errors import Invalid


def nothing() -> None:
    return


@pytest.fixture(scope="module")
def rows(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[list[int]]:
    """Some held-out text as token ids."""
    path = tmp_path_factory.mktemp("texts") / "test.jsonl"
    asked = [
        {"role": "user", "content": "my parcel is late"},
        {"role": "assistant", "content": "please help"},
    ]
    lines = [json.dumps({"messages": asked}), json.dumps({"text": "the invoice is wrong " * 30})]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return token_rows(path, load_tokenizer(tiny_model), row_tokens=64, tokens=150)


@pytest.fixture(scope="module")
def q8(f16: Path, tmp_path_factory: pytest.TempPathFactory) -> QuantizedFile:
    work = tmp_path_factory.mktemp("q8")
    return quantize(f16, work / "tiny-Q8_0.gguf", "Q8_0", work, nothing, metadata=PLACES)


def test_divergence_is_what_the_formulas_say(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    base_NV = random.normal(0, 3, (40, 50)).astype(np.float32)
    ours_NV = base_NV + random.normal(0, 0.5, (40, 50)).astype(np.float32)
    targets_N = random.integers(0, 50, 40)
    writer = BaseWriter(tmp_path)
    for part in (slice(0, 25), slice(25, 40)):
        writer.add(targets_N[part], base_NV[part])
    writer.close()
    comparison = Comparison(Base(tmp_path))
    for part in (slice(0, 10), slice(10, 40)):
        comparison.add(targets_N[part], ours_NV[part])
    found = comparison.result()

    p_NV, q_NV = log_softmax(base_NV.astype(np.float64)), log_softmax(ours_NV.astype(np.float64))
    kl_N = (np.exp(p_NV) * (p_NV - q_NV)).sum(axis=1)
    assert found.tokens == 40
    assert found.kl_mean == pytest.approx(kl_N.mean(), rel=1e-3)
    assert found.kl_p99 == pytest.approx(np.quantile(kl_N, 0.99), rel=1e-3)
    assert found.same_top == pytest.approx((p_NV.argmax(axis=1) == q_NV.argmax(axis=1)).mean())
    assert found.perplexity == pytest.approx(np.exp(-q_NV[np.arange(40), targets_N].mean()), rel=1e-5)
    assert found.perplexity_f16 == pytest.approx(np.exp(-p_NV[np.arange(40), targets_N].mean()), rel=1e-5)


def test_rows_are_whole_conversations_and_long_texts_in_pieces(
    tiny_model: Path, rows: list[list[int]]
) -> None:
    tokenizer = load_tokenizer(tiny_model)
    said = tokenizer.decode(rows[0], skip_special_tokens=False)
    assert said == "<|user|>my parcel is late<|end|><|assistant|>please help<|end|>"
    assert sum(len(row) - 1 for row in rows) == 150
    assert max(map(len, rows)) <= 64
    assert base_bytes(rows, 100) == 150 * 216


def test_a_file_of_text_that_has_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("one\n\ntwo\n", encoding="utf-8")
    with pytest.raises(Invalid, match=r"text\.txt has sha256 .*, the recipe says 000000000000…"):
        text_path(TextFile(file=str(path), sha256="0" * 64), tmp_path)
    assert text_path(TextFile(), tmp_path) == tmp_path


def test_f16_against_itself_is_no_distance_and_q8_0_a_small_one(
    f16: Path, q8: QuantizedFile, rows: list[list[int]], tmp_path: Path
) -> None:
    verifier = Verifier(f16=f16, rows=rows, work=tmp_path, check=nothing)
    copy = quantize(f16, tmp_path / "tiny-F16.gguf", "F16", tmp_path, nothing, metadata=PLACES)
    same, close = verifier.measure(copy), verifier.measure(q8)
    assert same["tokens"] == close["tokens"] == 150
    assert same["same_top"] == 1
    assert same["kl_mean"] < 1e-4 < close["kl_mean"]
    assert same["perplexity"] == pytest.approx(same["perplexity_f16"], rel=1e-4)
    require_within("F16", same, BOUNDS["F16"])


def test_the_numbers_stand_in_the_file_and_are_kept_for_the_next_attempt(
    f16: Path, q8: QuantizedFile, rows: list[list[int]], tmp_path: Path
) -> None:
    first = Verifier(f16=f16, rows=rows, work=tmp_path, check=nothing).measure(q8)
    field = GGUFReader(q8.path).get_field(PREFIX + "kl_mean")
    assert field is not None
    assert field.contents() == pytest.approx(first["kl_mean"], rel=1e-6)
    size = q8.path.stat().st_size
    shutil.rmtree(tmp_path / "base")  # nothing is predicted again
    assert Verifier(f16=f16, rows=rows, work=tmp_path, check=nothing).measure(q8) == first
    assert not (tmp_path / "base").exists()
    assert q8.path.stat().st_size == size


def test_a_file_that_llama_cpp_cannot_load_is_one_clear_error(f16: Path, tmp_path: Path) -> None:
    made = quantize(f16, tmp_path / "tiny-Q8_0.gguf", "Q8_0", tmp_path, nothing)
    os.truncate(made.path, made.size_bytes // 2)
    with pytest.raises(ChildFailed, match=r"loading tiny-Q8_0\.gguf failed: exit code 1; .*cannot load"):
        Verifier(f16=f16, rows=[], work=tmp_path, check=nothing).measure(made)


def test_a_file_out_of_its_bounds_fails_with_the_numbers_and_the_cure() -> None:
    report = {"perplexity": 9.0, "perplexity_f16": 6.0, "kl_mean": 0.5, "kl_p99": 0.9, "same_top": 0.7}
    with pytest.raises(OutOfBounds) as raised:
        require_within("Q4_K_M", report, BOUNDS["Q4_K_M"])
    assert str(raised.value) == (
        "Q4_K_M is too far from F16: kl_mean 0.5 (at most 0.25), same_top 0.7 (at least 0.72), perplexity_ratio 1.5 "
        "(at most 1.25): take a larger type, give quantize.importance, or widen quantize.verify.bounds.Q4_K_M"
    )
    require_within("Q4_K_M", report, Bounds(kl_mean=0.6))
    require_within("Q4_K_M", {}, BOUNDS["Q4_K_M"])
    with pytest.raises(OutOfBounds, match="kl_mean nan"):
        require_within("Q4_K_M", {**report, "kl_mean": float("nan")}, Bounds(kl_mean=0.6))


def test_another_chat_template_than_the_versions_is_refused(f16: Path, tiny_model: Path) -> None:
    template = load_tokenizer(tiny_model).chat_template
    check_template(f16, template)
    with pytest.raises(Invalid, match="has another chat template than its version"):
        check_template(f16, template + " ")
