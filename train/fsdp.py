"""An engine on torch's FSDP2: weights, gradients and optimiser states lie in shards on all workers.

Checkpoints are torch.distributed.checkpoint's: every worker writes what it holds, and any number of workers
can read it again. Frozen weights are not saved. The process group must be there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from raymill.train.batches import Batch
from raymill.train.engines import OwnModel, adamw, trained_weights, update
from raymill.train.summed_loss import Passed, SummedLoss, inputs_of

TRAINED_ALONE = StateDictOptions(ignore_frozen_params=True, strict=False)


class FsdpEngine(OwnModel):
    """Everything sharded; a block's weights are whole while it computes."""

    def __init__(
        self,
        model: SummedLoss,
        *,
        blocks: Sequence[nn.Module],
        device: torch.device,
        weight_decay: float,
        max_grad_norm: float,
        offload: bool,
    ) -> None:
        self.device = device
        self.rank = torch.distributed.get_rank()
        self.workers = torch.distributed.get_world_size()
        how: dict[str, Any] = {
            "mesh": init_device_mesh(device.type, (self.workers,)),
            "offload_policy": CPUOffloadPolicy() if offload else OffloadPolicy(),
        }
        for block in blocks:
            fully_shard(block, **how)
        fully_shard(model, **how)
        self._model = model
        self._optimizer = adamw(model, weight_decay)
        self._max_grad_norm = max_grad_norm

    def forward(self, batch: Batch, *, last: bool) -> Passed:
        # Gradients are reduced over the workers in the last pass alone.
        self._sharded.set_requires_gradient_sync(last)
        return Passed(*self._model(*inputs_of(batch, self.device)))

    @property
    def _sharded(self) -> Any:
        return self._model

    def backward(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self, lr: float) -> float:
        norm = update(self._model, self._optimizer, lr, self._max_grad_norm)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def total(self, values: Tensor) -> Tensor:
        torch.distributed.all_reduce(values)
        return values

    def save(self, directory: Path) -> None:
        save(self._state(), checkpoint_id=directory)

    def load(self, directory: Path) -> None:
        state = self._state()
        load(state, checkpoint_id=directory)
        set_model_state_dict(self._model, state["weights"], options=TRAINED_ALONE)
        set_optimizer_state_dict(self._model, self._optimizer, state["optimizer"], options=TRAINED_ALONE)

    def _state(self) -> dict[str, Any]:
        return {
            "weights": get_model_state_dict(self._model, options=TRAINED_ALONE),
            "optimizer": get_optimizer_state_dict(self._model, self._optimizer, options=TRAINED_ALONE),
        }

    def weights(self) -> dict[str, Tensor]:
        whole: dict[str, Tensor] = {}
        for name, parameter in trained_weights(self._model):
            # One at a time: only one worker keeps them, and the model may be larger than its memory.
            value = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
            if self.rank == 0:
                whole[name] = value.detach().cpu().clone()
        return whole
