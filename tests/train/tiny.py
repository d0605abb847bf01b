"""A Llama of 64 wide and 2 deep, a tokenizer of 400 words, and rows of each shape, for tests in this folder."""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from raymill.train.batches import Share
from raymill.train.config import TrainConfig
from raymill.train.encoded import Encoded, encode_row
from raymill.train.engines import PlainEngine
from raymill.train.loop import Shares, run_step
from raymill.train.objectives import Objective
from raymill.train.summed_loss import SummedLoss
from raymill.train.tokenizer import load_tokenizer, train_tokenizer
from raymill.train.tuning import objective_of, shares_of

# Matrices of 64 by 64 are slower on several threads, and many times so where other programs compute.
torch.set_num_threads(1)

WORDS = (
    "router",
    "phone",
    "invoice",
    "login",
    "broken",
    "lost",
    "slow",
    "late",
    "please",
    "help",
    "now",
    "again",
)


def tiny_llama(vocab: int = 400, **more: Any) -> LlamaForCausalLM:
    """The same weights on every call."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab,
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            initializer_range=0.1,
            **more,
        )
    )


def moved(model: nn.Module, by: float = 0.02) -> nn.Module:
    """A copy that has learnt something, so that it differs from where it started."""
    changed = copy.deepcopy(model)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.add_(by * torch.randn_like(parameter))
    return changed


def tiny_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    rng = random.Random(0)
    train_tokenizer([sentence(rng, 12) for _ in range(300)], 330, directory)
    return load_tokenizer(directory)


def sentence(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(words))


def rows_of(shape: str, count: int) -> list[dict[str, Any]]:
    """Rows in normal form, of different lengths."""
    rng = random.Random(3)

    def says(role: str, most: int) -> dict[str, str]:
        return {"role": role, "content": sentence(rng, rng.randint(1, most))}

    made: list[dict[str, Any]] = []
    for number in range(count):
        asked, answered = says("user", 8), says("assistant", 12)
        match shape:
            case "conversation":
                made.append({"messages": [asked, answered, says("user", 3), says("assistant", 9)]})
            case "preference":
                made.append({"prompt": [asked], "chosen": [answered], "rejected": [says("assistant", 6)]})
            case "kto":
                made.append({"prompt": [asked], "completion": [answered], "label": number % 3 != 1})
            case _:
                made.append({"text": sentence(rng, rng.randint(3, 30))})
    return made


def encoded_rows(
    config: TrainConfig, tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, Any]]
) -> Encoded:
    return Encoded(
        rows=len(rows),
        examples=[example for row in rows for example in encode_row(config, tokenizer, row)],
        good=[row["label"] for row in rows if "label" in row],
    )


def steps_of(config: TrainConfig, tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, Any]]) -> Shares:
    return shares_of(config, encoded_rows(config, tokenizer, rows), pad_id=tokenizer.pad_token_id)


def plain(model: nn.Module, objective: Objective) -> PlainEngine:
    return PlainEngine(
        SummedLoss(model, bf16=False, objective=objective),
        device=torch.device("cpu"),
        weight_decay=0.0,
        max_grad_norm=1e9,
    )


def loss_and_gradients(
    model: nn.Module, config: TrainConfig, share: Share
) -> tuple[float, Mapping[str, torch.Tensor]]:
    """Of one step on a copy of `model`."""
    mine = copy.deepcopy(model)
    loss, _ = run_step(plain(mine, objective_of(config)), share)
    return loss, {name: p.grad for name, p in mine.named_parameters() if p.grad is not None}
