"""The model that a tuning run trains: a base with fresh adapters, or the base itself in full precision.

Adapters are PEFT's: LoRA, DoRA, rank-stabilized LoRA, and LoRA over a base in 4 bits. Knows nothing of Ray.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raymill.policies.errors import Invalid
from raymill.train.config import TrainConfig
from raymill.train.methods import LoraConfig

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


def build_model(config: TrainConfig, base: Path) -> nn.Module:
    """The base with fresh adapters, or the base itself in full precision. The same weights on every call.

    Raises:
        Invalid: none of the base's layers is named in `lora.targets`, or the 4-bit library is missing.
    """
    import torch

    torch.manual_seed(config.seed)
    if config.lora is None:
        return load_base(base, torch.float32)  # type: ignore[no-any-return]
    model = load_quantized(base) if config.lora.quantize else load_base(base, "auto")
    return with_adapters(model, config.lora)


def with_adapters(model: nn.Module, lora: LoraConfig) -> nn.Module:
    """`model` with fresh adapters, which alone learn.

    Raises:
        Invalid: none of its layers is named in `lora.targets`.
    """
    from peft import get_peft_model

    check_targets(model, lora)
    adapted: nn.Module = get_peft_model(model, adapters(lora))
    return adapted


def adapters(lora: LoraConfig) -> Any:
    """PEFT's own configuration."""
    from peft import LoraConfig as PeftConfig

    return PeftConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets),
        use_dora=lora.dora,
        use_rslora=lora.rslora,
        task_type="CAUSAL_LM",
    )


def check_targets(model: nn.Module, lora: LoraConfig) -> None:
    """Raises Invalid: `lora.targets` names a layer that the base lacks."""
    from torch.nn import Linear

    names = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    missing = [target for target in lora.targets if target not in names]
    if missing:
        linear = sorted({n.rsplit(".", 1)[-1] for n, m in model.named_modules() if isinstance(m, Linear)})
        raise Invalid(
            f"lora.targets names {missing[0]}, which the base lacks: choose from {', '.join(linear)}",
            param="train.lora.targets",
        )


def load_base(base: Path, dtype: Any, **more: Any) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        str(base), dtype=dtype, local_files_only=True, use_safetensors=True, trust_remote_code=False, **more
    )
    return model


def load_quantized(base: Path) -> PreTrainedModel:
    """The base in 4 bits (NF4, scales quantized as well), on this process's GPU; norms stay in fp32.

    Raises:
        Invalid: bitsandbytes is not installed.
    """
    from importlib.util import find_spec

    import torch

    if find_spec("bitsandbytes") is None:
        raise Invalid(
            "lora.quantize is nf4, but bitsandbytes is not installed: run make setup on a machine with a GPU, or "
            "leave lora.quantize out",
            param="train.lora.quantize",
        )
    from peft import prepare_model_for_kbit_training
    from transformers import BitsAndBytesConfig

    four_bits = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    place = {"": torch.cuda.current_device()}
    model = load_base(base, torch.bfloat16, quantization_config=four_bits, device_map=place)
    prepared: PreTrainedModel = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    return prepared


def merged(model: Any, config: TrainConfig, base: Path, adapter_dir: Path) -> PreTrainedModel:
    """The tuned model without adapters, in the base's own precision; the adapters go to `adapter_dir` too."""
    from transformers import AutoConfig

    shutil.rmtree(adapter_dir, ignore_errors=True)
    if config.lora is not None:
        model.save_pretrained(adapter_dir, safe_serialization=True)
        if config.lora.quantize:
            # What was learnt beside 4 bits is added to the whole weights.
            from peft import PeftModel

            model = PeftModel.from_pretrained(load_base(base, "auto"), str(adapter_dir))
        model = model.merge_and_unload()
    dtype = AutoConfig.from_pretrained(str(base), local_files_only=True).dtype
    whole: PreTrainedModel = model if dtype is None else model.to(dtype)
    return whole
