"""How a model lies on its workers: which engine, what is sharded, moved out, compiled or computed again.

Knows nothing of Ray; the process group must be there when there are several workers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from raymill.policies.errors import Invalid
from raymill.train.attention import attend_within_examples, base_of
from raymill.train.config import ClusterUse
from raymill.train.engines import DeepSpeedEngine, PlainEngine
from raymill.train.objectives import Objective
from raymill.train.summed_loss import SummedLoss

if TYPE_CHECKING:
    from raymill.train.loop import Engine


def lay_out(
    model: nn.Module,
    use: ClusterUse,
    *,
    objective: Objective,
    device: torch.device,
    workers: int,
    bf16: bool,
    weight_decay: float,
    max_grad_norm: float,
) -> Engine:
    """The engine that trains `model` as `use` says.

    Raises:
        Invalid: the model's blocks are not known, or Liger is not installed.
    """
    # A compiled block keeps its mask on a CPU: it would be compiled anew for each number of examples.
    if bf16 if device.type == "cuda" else not use.compile:
        attend_within_examples(model, device)
    whole = SummedLoss(model, bf16=bf16, objective=objective, compiled=use.compile)
    prepare(model, use)  # not before: SummedLoss tries the model out, where it is and without gradients
    limits = {"weight_decay": weight_decay, "max_grad_norm": max_grad_norm}
    if use.sharding == "fsdp":
        from raymill.train.fsdp import FsdpEngine

        return FsdpEngine(
            whole, blocks=blocks_of(model), device=device, offload=use.offload == "all", **limits
        )
    # An elastic run's checkpoints are one engine's, however few workers there are.
    if workers == 1 and use.zero == 0 and use.min_workers is None:
        return PlainEngine(whole, device=device, **limits)
    return DeepSpeedEngine(whole, device=device, zero=use.zero, offload=use.offload, **limits)


def prepare(model: Any, use: ClusterUse) -> None:
    """Change how the model computes, in place; never what it computes."""
    if use.liger:
        apply_liger(model)
    if use.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if use.compile:
        # Block by block: they are alike, so one is compiled, and masks of any shape are made outside.
        for block in blocks_of(model):
            block.compile(dynamic=True)


def apply_liger(model: Any) -> None:
    """Liger's kernels in the layers. Not its fused loss: ours makes logits for the tokens that count alone.

    Raises:
        Invalid: it is not installed.
    """
    from importlib.util import find_spec

    if find_spec("liger_kernel") is None:
        raise Invalid(
            "liger is true, but liger-kernel is not installed: run make setup on a machine with a GPU, or leave "
            "liger out",
            param="train.liger",
        )
    from liger_kernel.transformers import _apply_liger_kernel_to_instance

    _apply_liger_kernel_to_instance(
        model=base_of(model), fused_linear_cross_entropy=False, cross_entropy=False
    )


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The transformer's blocks, in order.

    Raises:
        Invalid: the model does not say which of its modules they are.
    """
    whole = base_of(model)
    names = set(getattr(whole, "_no_split_modules", None) or ())
    found = [module for module in whole.modules() if type(module).__name__ in names]
    if not found:
        raise Invalid(
            f"{type(whole).__name__} does not name its blocks: leave compile out, and set sharding to zero",
            param="train.sharding",
        )
    return found
