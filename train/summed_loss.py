"""A causal language model whose output is an objective's summed loss; engines wrap this.

Logits are made for the tokens that count and for no others, a bounded number at a time: with a large
vocabulary they would need more memory than the model. Knows nothing of how tokens came into rows.

Shapes: B rows, T tokens in a row, N counted tokens, E examples, V words of the vocabulary, H the width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from raymill.train.attention import attends_within_examples, base_of
from raymill.train.batches import Batch
from raymill.train.objectives import Objective, TokenLoss
from raymill.train.template import IGNORE

LOGITS_BYTES = {"cpu": 256 << 20, "cuda": 2 << 30}
"""Logits that are held at a time, in fp32; more are made again going back."""

COMPILED_SHARE = 16
"""Where no copies of them are made, one part of so many of a GPU's memory may be logits."""


class Passed(NamedTuple):
    """What one pass gives."""

    loss: Tensor
    """Summed over what counts."""

    metrics_M: Tensor
    """Sums, by the objective's `metrics`, without a gradient."""


class Inputs(NamedTuple):
    """A batch as tensors on the model's device."""

    ids_BT: Tensor
    positions_BT: Tensor
    at_N: Tensor
    """Places, in the flattened rows, of the tokens that predict a counted one."""

    targets_N: Tensor
    owners_N: Tensor
    examples_E: Tensor
    starts_S: Tensor
    """Where each of the pass's sequences begins in the flattened rows, padding among them, and their end; int32."""

    facts: dict[str, Tensor]


def inputs_of(batch: Batch, device: torch.device) -> Inputs:
    # Found here, in NumPy: on a GPU it would have to be waited for.
    labels = batch.labels_BT.reshape(-1)
    counted = np.flatnonzero(labels != IGNORE)

    def there(array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(device)

    return Inputs(
        there(batch.ids_BT),
        there(batch.positions_BT),
        there(counted - 1),
        there(labels[counted]),
        there(batch.owners_BT.reshape(-1)[counted]),
        there(batch.examples_E),
        there(starts_of(batch)),
        {name: there(values) for name, values in batch.facts.items()},
    )


def starts_of(batch: Batch) -> NDArray[np.int32]:
    positions = batch.positions_BT.reshape(-1)
    return np.append(np.flatnonzero(positions == 0), len(positions)).astype(np.int32)


class SummedLoss(nn.Module):
    """The model, and what is asked of it."""

    def __init__(
        self, model: nn.Module, *, bf16: bool, objective: Objective | None = None, compiled: bool = False
    ) -> None:
        """`compiled`: what comes after the logits is one kernel, which holds no copy of them in fp32."""
        super().__init__()
        self.model = model
        self.objective: Objective = TokenLoss() if objective is None else objective
        self._bf16 = bf16
        self._compiled = compiled
        self._log_probabilities = torch.compile(log_probabilities) if compiled else log_probabilities
        self._told_starts = attends_within_examples(model)
        self._headless = applies_its_head_last(model)
        self.train()
        if self.objective.compares:
            # Dropout would be taken for a difference to the model that training started from.
            for module in self.modules():
                if isinstance(module, nn.Dropout):
                    module.p = 0.0

    def forward(self, *inputs: Any, score: bool = False) -> Any:
        """What Passed has, of the `Inputs` given one by one; with `score` each example's log-probability (E)."""
        given = Inputs(*inputs)
        logps_N = self._logps(given)
        logps_E = logps_N.new_zeros(len(given.examples_E)).index_add(0, given.owners_N, logps_N)
        if score:
            return logps_E
        loss, metrics = self.objective(logps_E, given.facts)
        sums = [metrics[name].detach() for name in self.objective.metrics]
        return loss, torch.stack(sums) if sums else loss.new_zeros(0)

    def _logps(self, given: Inputs) -> Tensor:
        """Log-probability of each counted token (N), fp32."""
        # No mask is given: transformers then keeps the examples of a row apart by their positions.
        ask = {"input_ids": given.ids_BT, "position_ids": given.positions_BT, "use_cache": False}
        if self._told_starts:
            ask["cu_seq_lens_q"] = given.starts_S
        with torch.autocast(given.ids_BT.device.type, dtype=torch.bfloat16, enabled=self._bf16):
            if not self._headless:
                logits_BTV = self.model(**ask).logits
                return self._log_probabilities(logits_BTV.flatten(0, 1)[given.at_N], given.targets_N)
            decoder, head = parts_of(self.model)
            hidden_NH = decoder(**ask).last_hidden_state.flatten(0, 1)[given.at_N]
            return self._in_pieces(head, hidden_NH, given.targets_N)

    def _in_pieces(self, head: nn.Module, hidden_NH: Tensor, targets_N: Tensor) -> Tensor:
        whole: Any = self.model
        vocabulary = whole.get_input_embeddings().num_embeddings
        most = max(1, logits_bytes(hidden_NH.device, compiled=self._compiled) // (4 * vocabulary))

        def piece(hidden: Tensor, targets: Tensor) -> Tensor:
            return self._log_probabilities(head(hidden), targets)

        if len(hidden_NH) <= most:
            return piece(hidden_NH, targets_N)

        return torch.cat(
            [
                checkpoint(piece, hidden, targets, use_reentrant=False)
                if torch.is_grad_enabled()
                else piece(hidden, targets)
                for hidden, targets in zip(
                    torch.split(hidden_NH, most), torch.split(targets_N, most), strict=True
                )
            ]
        )


def logits_bytes(device: torch.device, *, compiled: bool) -> int:
    """Logits that may be held at a time, in fp32."""
    least = LOGITS_BYTES.get(device.type, LOGITS_BYTES["cuda"])
    if device.type != "cuda" or not compiled:
        return least
    return max(least, torch.cuda.get_device_properties(device).total_memory // COMPILED_SHARE)


def log_probabilities(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    return -nn.functional.cross_entropy(logits_NV.float(), targets_N, reduction="none")


def parts_of(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The model without its head, and the head; adapters stay where they are."""
    whole = base_of(model)
    return whole.base_model, whole.get_output_embeddings()


def applies_its_head_last(model: nn.Module) -> bool:
    """Whether the logits are the head's output and nothing else: some models scale or cap them afterwards."""
    if not hasattr(model, "get_output_embeddings"):
        return False
    decoder, head = parts_of(model)
    if head is None or decoder is model:
        return False
    place = next(model.parameters()).device
    ask: Mapping[str, Any] = {
        "input_ids": torch.arange(1, 5, device=place)[None],
        "position_ids": torch.arange(4, device=place)[None],
        "use_cache": False,
    }
    training = {module: module.training for module in model.modules()}
    model.eval()
    with torch.no_grad():
        same = torch.equal(model(**ask).logits, head(decoder(**ask).last_hidden_state))
    for module, was in training.items():
        module.training = was
    return same
