"""Which settings of a training run do not go together, and what a run needs of its machine. As data.

`docs/training.md` shows the same tables; a test keeps them equal. Light: imports nothing at all of ours and
no library, so that a recipe is refused where it is parsed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

GIVEN = "given"
"""Stands for every value but null, false, zero and nothing."""


@dataclass(frozen=True)
class Rule:
    """Settings that are refused when all of them hold."""

    when: Mapping[str, tuple[Any, ...]]
    """Dotted key -> values that it has; GIVEN for any."""

    reason: str
    cure: str

    def words(self) -> str:
        """The settings as a recipe has them: `zero: 3, compile: true`."""
        return ", ".join(f"{key}: {' or '.join(map(word, values))}" for key, values in self.when.items())


COMBINATIONS = (
    Rule(
        {"sharding": ("fsdp",), "zero": (1, 2, 3)},
        "both would shard the same weights",
        "leave zero out, or set sharding to zero",
    ),
    Rule(
        {"sharding": ("zero",), "zero": (0, 1), "offload": ("optimizer", "all")},
        "nothing is sharded that could be moved out of the GPU",
        "set zero to 2 or 3, or sharding to fsdp",
    ),
    Rule(
        {"sharding": ("zero",), "zero": (2,), "offload": ("all",)},
        "weights that every worker holds whole cannot be moved out",
        "set zero to 3, or offload to optimizer",
    ),
    Rule(
        {"sharding": ("fsdp",), "offload": ("optimizer",)},
        "FSDP2 moves weights and optimiser states together",
        "set offload to all",
    ),
    Rule(
        {"min_workers": (GIVEN,), "zero": (1, 2, 3)},
        "DeepSpeed's shards can be read again only by as many workers as wrote them",
        "set sharding to fsdp, or leave min_workers out",
    ),
    Rule(
        {"lora.quantize": ("nf4",), "zero": (3,)},
        "4-bit weights cannot be cut into ZeRO's shards",
        "set zero to 2, or leave lora.quantize out",
    ),
    Rule(
        {"lora.quantize": ("nf4",), "sharding": ("fsdp",)},
        "4-bit weights cannot be cut into FSDP's shards",
        "set sharding to zero, or leave lora.quantize out",
    ),
    Rule(
        {"lora.dora": (True,), "zero": (3,)},
        "DoRA reads whole weight matrices that ZeRO 3 has just put away",
        "set zero to 2, or leave lora.dora out",
    ),
    Rule(
        {"compile": (True,), "zero": (3,)},
        "ZeRO 3 gathers weights by hooks that torch.compile cannot see",
        "set zero to 2, sharding to fsdp, or leave compile out",
    ),
    Rule(
        {"method": ("dpo", "kto"), "lora.dropout": (GIVEN,)},
        "the model is compared with the one it started from, and dropout would be taken for a difference",
        "leave lora.dropout out",
    ),
)


@dataclass(frozen=True)
class Machine:
    """What a cluster has for training."""

    gpus: int
    """GPUs of all its machines together."""


NEEDS_GPU = (
    Rule(
        {"lora.quantize": ("nf4",)},
        "bitsandbytes computes in 4 bits on GPUs",
        "leave lora.quantize out, or add a machine with a GPU",
    ),
    Rule({"liger": (True,)}, "Liger's kernels are for GPUs", "leave liger out, or add a machine with a GPU"),
    Rule(
        {"offload": ("optimizer", "all")},
        "on a CPU everything is in the machine's memory already",
        "leave offload out, or add a machine with a GPU",
    ),
)
"""Refused on a cluster without GPUs, and when the recipe says `use_gpu: false`."""


def refuse_bad_combinations(config: Mapping[str, Any]) -> None:
    """
    Raises:
        ValueError: two settings do not go together; why, and what to change.
    """
    for rule in COMBINATIONS:
        if holds(rule, config):
            raise ValueError(f"{told(rule, config)} do not go together, {rule.reason}: {rule.cure}")
    if config.get("use_gpu") is False and (reason := missing_on(Machine(gpus=0), config)) is not None:
        raise ValueError(f"use_gpu is false, but {reason}")


def missing_on(machine: Machine, config: Mapping[str, Any]) -> str | None:
    """Why a run cannot be on `machine`, with the cure; None when it can."""
    if machine.gpus:
        return None
    rule = next((rule for rule in NEEDS_GPU if holds(rule, config)), None)
    return f"{told(rule, config)} needs a GPU, {rule.reason}: {rule.cure}" if rule else None


def told(rule: Rule, config: Mapping[str, Any]) -> str:
    """The settings that a rule refuses, with the values that they have."""
    return ", ".join(f"{key}: {word(value_at(config, key))}" for key in rule.when)


def holds(rule: Rule, config: Mapping[str, Any]) -> bool:
    return all(
        any(bool(found) if value is GIVEN else found == value for value in values)
        for key, values in rule.when.items()
        for found in (value_at(config, key),)
    )


def value_at(config: Mapping[str, Any], key: str) -> Any:
    """The value under a dotted key; None where a section is missing."""
    found: Any = config
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def as_markdown(rules: tuple[Rule, ...]) -> str:
    """The rules as a table for the documentation."""
    lines = ["| refused | why | what to do |", "|---|---|---|"]
    lines += [f"| `{rule.words()}` | {rule.reason} | {rule.cure} |" for rule in rules]
    return "\n".join(lines)
