"""Two engines for the loop: plain torch for one worker, DeepSpeed for several or for sharded states.

Know nothing of Ray or text. `save` and `load` keep what a resumed run needs, and nothing that it can
compute from its configuration: frozen weights are not saved.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raymill.train.batches import Batch
from raymill.train.objectives import Objective
from raymill.train.summed_loss import Passed, SummedLoss, inputs_of

STATE_FILE = "state.pt"
TAG = "state"


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay is for matrices; norms and biases have one dimension and go without."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def adamw(model: nn.Module, weight_decay: float) -> torch.optim.AdamW:
    # The learning rate is set anew before each step.
    return torch.optim.AdamW(parameter_groups(model, weight_decay), lr=1e-3, betas=(0.9, 0.95), fused=True)


def trained_weights(model: SummedLoss) -> list[tuple[str, nn.Parameter]]:
    """What the optimiser changes, by the names of the model inside the loss."""
    return [(name, p) for name, p in model.model.named_parameters() if p.requires_grad]


def update(model: nn.Module, optimizer: torch.optim.Optimizer, lr: float, max_grad_norm: float) -> Tensor:
    """One step of the optimiser with the gradients there are, which are gone then; their norm before it was clipped."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    trained = [p for p in model.parameters() if p.requires_grad]
    norm = torch.nn.utils.clip_grad_norm_(trained, max_grad_norm)
    optimizer.step()
    optimizer.zero_grad()
    return norm


class OwnModel:
    """What the engines have in common: a pass, and scoring."""

    device: torch.device
    _model: SummedLoss

    @property
    def objective(self) -> Objective:
        return self._model.objective

    @property
    def _called(self) -> Any:
        """What a pass goes through: the model, or what is wrapped around it."""
        return self._model

    def score(self, batch: Batch) -> Tensor:
        logps_E: Tensor = self._still(batch, score=True)
        return logps_E

    def measure(self, batch: Batch) -> Passed:
        return Passed(*self._still(batch, score=False))

    def _still(self, batch: Batch, *, score: bool) -> Any:
        self._model.eval()
        with torch.no_grad():
            found = self._called(*inputs_of(batch, self.device), score=score)
        self._model.train()
        return found


class PlainEngine(OwnModel):
    """One worker, nothing sharded."""

    rank = 0
    workers = 1

    def __init__(
        self, model: SummedLoss, *, device: torch.device, weight_decay: float, max_grad_norm: float
    ) -> None:
        self.device = device
        self._model = model.to(device)
        self._optimizer = adamw(model, weight_decay)
        self._max_grad_norm = max_grad_norm

    def forward(self, batch: Batch, *, last: bool) -> Passed:  # noqa: ARG002
        return Passed(*self._model(*inputs_of(batch, self.device)))

    def backward(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self, lr: float) -> float:
        return float(update(self._model, self._optimizer, lr, self._max_grad_norm))

    def total(self, values: Tensor) -> Tensor:
        return values

    def save(self, directory: Path) -> None:
        torch.save(
            {"weights": self.weights(), "optimizer": self._optimizer.state_dict()}, directory / STATE_FILE
        )

    def load(self, directory: Path) -> None:
        state = torch.load(directory / STATE_FILE, map_location=self.device, weights_only=True)
        self.put(state["weights"])
        # Its own, also where the state is another run's: a search hands checkpoints from trial to trial.
        decays = [group["weight_decay"] for group in self._optimizer.param_groups]
        self._optimizer.load_state_dict(state["optimizer"])
        for group, decay in zip(self._optimizer.param_groups, decays, strict=True):
            group["weight_decay"] = decay

    def weights(self) -> dict[str, Tensor]:
        return {name: p.detach().cpu() for name, p in trained_weights(self._model)}

    def put(self, weights: Mapping[str, Tensor]) -> None:
        """Take weights over that `weights` of any engine gave, without the optimiser's state."""
        self._model.model.load_state_dict(weights, strict=False)


class DeepSpeedEngine(OwnModel):
    """Several workers, or states sharded by ZeRO. The process group must be there."""

    def __init__(
        self,
        model: SummedLoss,
        *,
        device: torch.device,
        weight_decay: float,
        max_grad_norm: float,
        zero: int,
        offload: str = "none",
    ) -> None:
        import deepspeed  # seconds, and only runs that shard need it

        self.device = device
        self._model = model.to(device)
        self._zero = zero
        moved = {
            "optimizer": {"offload_optimizer": {"device": "cpu"}},
            "all": {"offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}},
        }
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=self._model,
            optimizer=adamw(model, weight_decay),
            dist_init_required=False,
            config={
                "train_micro_batch_size_per_gpu": 1,
                "gradient_accumulation_steps": 1,
                "gradient_clipping": max_grad_norm,
                "zero_allow_untested_optimizer": True,
                "zero_force_ds_cpu_optimizer": False,
                "zero_optimization": {"stage": zero, "overlap_comm": False, **moved.get(offload, {})},
                "wall_clock_breakdown": False,
                "steps_per_print": 1 << 30,
            },
        )
        self.rank = torch.distributed.get_rank()
        self.workers = torch.distributed.get_world_size()

    @property
    def _called(self) -> Any:
        return self._engine

    def forward(self, batch: Batch, *, last: bool) -> Passed:
        # Gradients are reduced over the workers in the last pass alone.
        self._engine.set_gradient_accumulation_boundary(is_boundary=last)
        return Passed(*self._engine(*inputs_of(batch, self.device)))

    def backward(self, loss: Tensor) -> None:
        self._engine.backward(loss)

    def step(self, lr: float) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._engine.step()
        return float(self._engine.get_global_grad_norm() or 0.0)

    def total(self, values: Tensor) -> Tensor:
        torch.distributed.all_reduce(values)
        return values

    def save(self, directory: Path) -> None:
        self._engine.save_checkpoint(str(directory), tag=TAG, exclude_frozen_parameters=True)

    def load(self, directory: Path) -> None:
        self._engine.load_checkpoint(str(directory), tag=TAG, load_module_strict=False)

    def weights(self) -> dict[str, Tensor]:
        if self._zero < 3:
            return {name: p.detach().cpu() for name, p in trained_weights(self._model)}
        import deepspeed

        whole: dict[str, Tensor] = {}
        for name, parameter in trained_weights(self._model):
            # One at a time: only one worker keeps them, and the model may be larger than its memory.
            with deepspeed.zero.GatheredParameters([parameter]):
                if self.rank == 0:
                    whole[name] = parameter.detach().cpu().clone()
        return whole
