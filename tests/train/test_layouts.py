"""However a model lies on its workers, its losses are those of one worker that holds everything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.tiny import loss_and_gradients, rows_of, steps_of, tiny_llama, tiny_tokenizer
from tests.train.two_workers import run

from raymill.policies.errors import Invalid
from raymill.train.config import ClusterUse, TrainConfig
from raymill.train.layouts import blocks_of, lay_out, prepare
from raymill.train.loop import run_step
from raymill.train.models import load_quantized
from raymill.train.objectives import TokenLoss

ROOT = Path(__file__).resolve().parents[2]
SFT = {"batch": 4, "epochs": 2, "max_tokens": 64, "micro_tokens": 128}
DPO = {**SFT, "method": "dpo", "dpo": {"sft_weight": 0.2}}
KTO = {**SFT, "method": "kto"}

Cases = dict[str, dict[str, Any]]


def together(cases: Cases, directory: Path, workers: int = 2) -> dict[str, Any]:
    """What each case's first worker was told."""
    tiny_tokenizer(directory / "tokenizer")
    (directory / "task.json").write_text(json.dumps(cases))
    # The environment's own ninja, as for a service: another release of it would compile DeepSpeed's operators again.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {
        **os.environ,
        "PATH": path,
        "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}",
        "DS_SKIP_CUDA_CHECK": "1",
    }
    command = [sys.executable, str(Path(__file__).parent / "two_workers.py")]
    running = [
        subprocess.Popen(
            [*command, str(rank), str(workers), str(directory)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(workers)
    ]
    outputs = [process.communicate(timeout=500)[0] for process in running]
    assert [process.returncode for process in running] == [0] * workers, "\n".join(outputs)[-6000:]
    return {name: json.loads((directory / f"{name}.json").read_text()) for name in cases}


def assert_as_alone(cases: Cases, directory: Path) -> None:
    found = together(cases, directory)
    for name, case in cases.items():
        alone = TrainConfig.model_validate(
            {**case["train"], "sharding": "zero", "zero": 0, "offload": "none"}
        )
        expected = run(alone, 1, directory / f"alone-{name}", None)
        assert found[name]["losses"] == pytest.approx(expected["losses"], abs=1e-5, rel=1e-5), name
        assert found[name]["norms"] == pytest.approx(expected["norms"], rel=1e-4), name
        if "resume_at" in case:
            later = found[name]["losses"][case["resume_at"] :]
            assert found[name]["resumed"] == pytest.approx(later, abs=1e-6, rel=1e-6), name


def test_fsdp_trains_as_one_worker_does_and_resumes(tmp_path: Path) -> None:
    assert_as_alone(
        {
            "full": {"train": {**SFT, "sharding": "fsdp"}, "resume_at": 3},
            "adapters": {"train": {**DPO, "sharding": "fsdp", "lora": {"r": 4}}, "resume_at": 2},
            "again": {"train": {**KTO, "sharding": "fsdp", "gradient_checkpointing": True}},
        },
        tmp_path,
    )


@pytest.mark.parametrize(
    ("before", "after", "how"),
    [
        (2, 1, {"sharding": "fsdp"}),
        pytest.param(1, 2, {"zero": 0}, marks=pytest.mark.slow),
        pytest.param(2, 1, {"zero": 0}, marks=pytest.mark.slow),
    ],
)
def test_another_number_of_workers_goes_on_with_the_same_losses(
    before: int, after: int, how: dict[str, Any], tmp_path: Path
) -> None:
    """An elastic run; its batch is divided by neither."""
    case = {"train": {**SFT, "batch": 5, "workers": 2, "min_workers": 1, **how}, "resume_at": 3}
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
    whole = together({"run": case}, tmp_path / "first", before)["run"]
    case["load"] = str(tmp_path / "first" / "run" / "checkpoint")
    later = together({"run": case}, tmp_path / "second", after)["run"]
    assert later["losses"] == pytest.approx(whole["losses"][3:], abs=1e-5, rel=1e-5)


@pytest.mark.slow
def test_each_zero_stage_trains_as_one_worker_does_by_every_method(tmp_path: Path) -> None:
    cases: Cases = {
        f"{method}-{zero}": {
            "train": {**given, "zero": zero},
            **({"resume_at": 3} if method == "sft" else {}),
        }
        for method, given in (("sft", SFT), ("dpo", DPO), ("kto", KTO))
        for zero in (0, 1, 2, 3)
    }
    cases["adapters-2"] = {"train": {**DPO, "zero": 2, "lora": {"r": 4, "dora": True}}}
    cases["adapters-3"] = {"train": {**DPO, "zero": 3, "lora": {"r": 4}, "gradient_checkpointing": True}}
    assert_as_alone(cases, tmp_path)


@pytest.mark.slow
def test_what_is_moved_out_of_the_gpu_trains_the_same(tmp_path: Path) -> None:
    cases: Cases = {
        "zero-2": {"train": {**SFT, "zero": 2, "offload": "optimizer"}},
        "zero-3": {"train": {**SFT, "zero": 3, "offload": "all"}},
        "fsdp": {"train": {**SFT, "sharding": "fsdp", "offload": "all"}},
        "dora": {"train": {**SFT, "sharding": "fsdp", "lora": {"r": 4, "dora": True}}},
    }
    assert_as_alone(cases, tmp_path)


def test_computing_blocks_again_changes_nothing(tmp_path: Path) -> None:
    config = TrainConfig.model_validate(SFT)
    share = steps_of(config, tiny_tokenizer(tmp_path), rows_of("conversation", 5)).share(0, 0, 1)
    loss, gradients = loss_and_gradients(tiny_llama(vocab=330), config, share)
    again = tiny_llama(vocab=330)
    prepare(again, ClusterUse(gradient_checkpointing=True))
    assert again.is_gradient_checkpointing
    other, others = loss_and_gradients(again, config, share)
    assert other == loss
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient)


@pytest.mark.filterwarnings("default")  # torch's compiler hides its own, which would be errors before that
@pytest.mark.slow
def test_compiled_blocks_compute_the_same(tmp_path: Path) -> None:
    config = TrainConfig.model_validate(SFT)
    steps = steps_of(config, tiny_tokenizer(tmp_path), rows_of("conversation", 9))
    engine = lay_out(
        tiny_llama(vocab=330),
        ClusterUse(compile=True),
        objective=TokenLoss(),
        device=torch.device("cpu"),
        workers=1,
        bf16=False,
        weight_decay=0.0,
        max_grad_norm=1e9,
    )
    for step in range(steps.steps):
        loss, _ = loss_and_gradients(tiny_llama(vocab=330), config, steps.share(step, 0, 1))
        other, _ = run_step(engine, steps.share(step, 0, 1))
        assert other == pytest.approx(loss, rel=1e-5)


def test_a_models_blocks_are_found_with_and_without_adapters() -> None:
    from peft import LoraConfig, get_peft_model

    model = tiny_llama()
    assert len(blocks_of(model)) == 2
    assert len(blocks_of(get_peft_model(model, LoraConfig(target_modules=["q_proj"])))) == 2


def test_what_is_not_installed_is_refused_with_the_cure(tmp_path: Path) -> None:
    with pytest.raises(
        Invalid, match="liger-kernel is not installed: run make setup on a machine with a GPU"
    ):
        prepare(tiny_llama(), ClusterUse(liger=True))
    with pytest.raises(
        Invalid, match="bitsandbytes is not installed: run make setup on a machine with a GPU"
    ):
        load_quantized(tmp_path)
