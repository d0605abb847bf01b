"""An adapter alone, as llama.cpp adds it to the base: what the merged model says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raymill.cluster.context import LocalContext
from raymill.evaluate.adapter_gguf import prepare, prompts_in, run_export_adapter
from raymill.evaluate.llama_cpp_runner import LlamaCppRunner
from raymill.evaluate.prompts import load_tokenizer
from raymill.policies.errors import Invalid


@pytest.fixture
def store(tiny_model: Path, tmp_path: Path) -> Path:
    """An artifact store with a base, a rank-stabilised adapter whose weights are far from nothing, and both merged."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path / "artifacts"
    (folder / "base").mkdir(parents=True)
    (folder / "base" / "tiny").symlink_to(tiny_model)
    torch.manual_seed(1)
    lora = LoraConfig(r=4, lora_alpha=8, use_rslora=True, target_modules=["q_proj", "v_proj", "down_proj"])
    model: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), lora)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(folder / "adapter" / "tiny")
    model.merge_and_unload().save_pretrained(folder / "model" / "tiny")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder / "model" / "tiny")
    return folder


@pytest.mark.slow  # three conversions, half a minute
def test_base_and_adapter_answer_as_the_merged_model(store: Path) -> None:
    given = {name: f"{name}/tiny" for name in ("base", "model")}
    config = {**given, "artifact": "adapter/tiny", "dataset": None, "type": "F16"}
    context = LocalContext(store.parent, job_id="job", config=config, inputs={})
    done = run_export_adapter(context)
    (artifact,) = done.artifacts
    assert [Path(file.path).suffix for file in artifact.files if file.path.endswith("gguf")] == [".gguf"]
    report = done.result["metrics"]
    assert (report["prompts"], report["same_first_token"]) == (20, 20)
    assert (
        report["same"] >= 10
    )  # of 32 tokens each; 16 bits are rounded in other places, which tips near ties
    exports = store.parent / "work" / "job" / "export"
    with LlamaCppRunner(exports / "base.gguf") as base, LlamaCppRunner(exports / "model.gguf") as merged:
        prompts = prompts_in(None, load_tokenizer(store / "model" / "tiny"))
        alone, together = (each.generate(prompts, max_new_tokens=32, stops=[]) for each in (base, merged))
    assert sum(one == other for one, other in zip(alone, together, strict=True)) <= 2


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"use_dora": True}, "no DoRA in adapters: export the run as gguf, merged"),
        ({"rank_pattern": {"q_proj": 2}}, "no ranks by module"),
        ({"modules_to_save": ["lm_head"]}, "no modules that are trained whole"),
    ],
)
def test_what_llama_cpp_does_not_have_is_refused(more: dict[str, Any], said: str, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 8, **more}))
    with pytest.raises(Invalid, match=said):
        prepare(tmp_path, tmp_path / "copy")
