"""The training cases for a GPU: a small one runs whole on the CPU, the large ones are counted without being made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks import train_cases, train_gpu
from benchmarks.train_cases import CASES, ON_A_GPU, gpu_results, told
from benchmarks.train_gpu import built, config_of, examples_of, needed_bytes, shape_of
from benchmarks.train_numbers import Shape, flops_per_token

NOWHERE = torch.device("meta")
GIB = 1 << 30


@pytest.fixture
def threads() -> Iterator[None]:
    """The program sets how many it computes with; others find theirs again."""
    usual = torch.get_num_threads()
    yield
    torch.set_num_threads(usual)


@pytest.mark.usefixtures("threads")
def test_a_small_case_trains_and_tells_its_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Here, where torch is loaded, not by `measured` in a process that would load it again.
    monkeypatch.setattr("sys.argv", ["train_gpu", "tiny", str(tmp_path), "--steps", "2", "lora={r: 4}"])
    train_gpu.main()
    found = json.loads((tmp_path / "tiny.json").read_text())
    assert found["tokens_per_s"] > 0
    assert found["step_s"] > 0
    assert found["steps"] == 2
    assert found["mfu"] is None  # nobody lists a CPU's peak
    assert found["tokens_share"] > 0.9
    assert found["settings"]["lora"]["r"] == 4
    model = built(CASES["tiny"], config_of(CASES["tiny"], {"lora": {"r": 4}}), NOWHERE)
    adapters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert found["adapters"] == adapters
    attention = 12 * 2 * 2 * 32 * found["example_tokens"]
    assert found["flops_per_token"] == 4 * found["parameters"] + 6 * adapters + attention


def test_a_case_that_fails_says_why_and_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_cases, "has_gpu", lambda: True)
    monkeypatch.setattr("sys.executable", "false")
    found = gpu_results(tmp_path, 1)["gpu"]
    assert {found[name]["failed"] for name in ON_A_GPU} == {""}


def test_without_a_gpu_there_is_a_reason_and_no_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_cases, "has_gpu", lambda: False)
    assert gpu_results(tmp_path, 1) == {"gpu": None, "gpu_note": "no CUDA device"}


@pytest.mark.parametrize(
    ("name", "parameters", "adapters"),
    [
        ("full_1b", 1_235_814_400, 0),
        ("lora_1b", 1_235_814_400, 11_272_192),
        # Without the table of input embeddings, 128,256 x 4,096, which multiplies nothing.
        ("lora_8b", 8_030_261_248 - 525_336_576, 41_943_040),
    ],
)
def test_a_case_has_the_parameters_of_its_namesake(name: str, parameters: int, adapters: int) -> None:
    case = CASES[name]
    config = config_of(case, {})
    examples = examples_of(50, 1000, case.longest)
    shape = shape_of(built(case, config, NOWHERE), case.llama, examples)
    assert (shape.parameters, shape.adapters) == (parameters, adapters)


def test_flops_of_the_1b_are_six_times_its_parameters_and_its_attention() -> None:
    shape = Shape(parameters=1_235_814_400, layers=16, heads=32, head_dim=64, example_tokens=200)
    assert flops_per_token(shape) == 7_414_886_400 + 78_643_200


def test_a_token_attends_to_its_own_example_alone() -> None:
    examples = examples_of(2000, 1000, 1024)
    lengths = sorted(len(example.ids) for example in examples)
    assert 80 < lengths[1000] < 150
    assert lengths[-1] > 600
    case = CASES["tiny"]
    shape = shape_of(built(case, config_of(case, {}), NOWHERE), case.llama, examples)
    assert lengths[1000] < shape.example_tokens < lengths[-1]


def test_all_weights_of_the_8b_are_skipped_where_they_cannot_be_held(monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["full_8b"]
    config = config_of(case, {})
    assert 140 * GIB < needed_bytes(case, config) < 150 * GIB

    def with_memory(gib: int) -> str | None:
        device: Any = type("Device", (), {"total_memory": gib * GIB})
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: device)
        return train_gpu.too_large(case, config, torch.device("cuda"))

    reason = with_memory(139)
    assert reason is not None
    assert "the device has 139" in reason
    assert told("full_8b", {"skipped": reason}).startswith("full_8b    skipped: weights, gradients")
    assert with_memory(178) is None


def test_a_case_is_told_on_one_line() -> None:
    case = {"tokens_per_s": 61234.5, "mfu": 0.4631, "step_s": 1.234, "peak_gib": 61.2}
    assert (
        told("full_1b", case) == "full_1b       61,234 tokens/s, MFU 46.3%, 1.23 s a step, 61.2 GiB at most"
    )
