"""One training run of a Llama of random weights on the GPU, by Raymill's own loop, without a service and without Ray.

    python -m benchmarks.train_gpu CASE FOLDER [--steps 10] [KEY=VALUE…]

Writes FOLDER/CASE.json. KEY=VALUE, such as liger=true, is another value in the case's section `train`. A model of 8B is
made where it computes, in seconds; no file of its size is written. What is a step, a pass and a packed row is as in
every run; what is timed is what step events tell.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from pathlib import Path
from typing import Any

import torch
import yaml
from benchmarks.goals import Results
from benchmarks.train_cases import CASES, Case
from benchmarks.train_numbers import Shape, flops_per_token, mfu
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from raymill.train.attention import attends_within_examples
from raymill.train.config import TrainConfig
from raymill.train.encoded import Encoded
from raymill.train.engines import OwnModel
from raymill.train.loop import Schedule, StepMetrics, train
from raymill.train.models import with_adapters
from raymill.train.template import Example
from raymill.train.tuning import objective_of, shares_of
from raymill.train.worker import Task, make_engine

WARMUP = 3
"""Steps that do not count: blocks are compiled, and the allocator learns its sizes."""

SHORTEST = 24
GIB = 1 << 30

FULL_BYTES = 18
"""Of a parameter that learns: weight, gradient and two moments in fp32, and a copy of the weight in bf16."""

LOGIT_BYTES = 14
"""Of a logit: in bf16 and fp32, and its gradients."""


def config_of(case: Case, settings: dict[str, Any]) -> TrainConfig:
    return TrainConfig.model_validate(
        {"epochs": 1, "max_tokens": case.longest, "learning_rate": 1e-5, **case.train, **settings}
    )


def examples_of(count: int, vocabulary: int, longest: int) -> list[Example]:
    """Random ids. Lengths are spread as alpaca's with their template: most about a hundred, some ten times that."""
    dice = random.Random(0)
    found = []
    for _ in range(count):
        length = min(longest, SHORTEST + int(dice.lognormvariate(4.4, 0.8)))
        ids = dice.choices(range(vocabulary), k=length)
        found.append(Example(ids, ids))
    return found


def built(case: Case, config: TrainConfig, device: torch.device) -> nn.Module:
    """The case's model on `device`, as `build_model` would make it of files: whole in fp32, or in bf16 with adapters."""
    torch.manual_seed(config.seed)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32 if config.lora is None else torch.bfloat16)
    try:
        with device:
            model: nn.Module = LlamaForCausalLM(LlamaConfig(**case.llama))
    finally:
        torch.set_default_dtype(usual)
    return model if config.lora is None else with_adapters(model, config.lora)


def shape_of(model: nn.Module, llama: Any, examples: list[Example]) -> Shape:
    """What FLOPs follow from. Of each token's example the length counts, so long ones count by their tokens."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    adapted = not all(learns for _, learns in sizes)
    adapters = sum(size for size, learns in sizes if learns) if adapted else 0
    table = 0 if llama["tie_word_embeddings"] else llama["vocab_size"] * llama["hidden_size"]
    lengths = [len(example.ids) for example in examples]
    return Shape(
        parameters=sum(size for size, _ in sizes) - adapters - table,
        adapters=adapters,
        layers=llama["num_hidden_layers"],
        heads=llama["num_attention_heads"],
        head_dim=llama["head_dim"],
        example_tokens=round(sum(n * n for n in lengths) / sum(lengths)),
    )


def needed_bytes(case: Case, config: TrainConfig) -> int:
    """About what all weights of a model need to learn, whose blocks are computed again going back.

    A bound from below: with it a case is skipped that has no chance.
    """
    with torch.device("meta"):
        parameters: int = sum(p.numel() for p in LlamaForCausalLM(LlamaConfig(**case.llama)).parameters())
    # Of each token: what each block is given, in fp32, and its logits.
    a_token = int(case.llama["num_hidden_layers"] * case.llama["hidden_size"] * 4)
    a_token += LOGIT_BYTES * int(case.llama["vocab_size"])
    return FULL_BYTES * parameters + config.micro_tokens * a_token


def too_large(case: Case, config: TrainConfig, device: torch.device) -> str | None:
    """Why the case cannot run on `device`; None where it may."""
    if device.type != "cuda" or config.lora is not None or not config.gradient_checkpointing:
        return None
    needed, there = needed_bytes(case, config), torch.cuda.get_device_properties(device).total_memory
    if needed <= there:
        return None
    return (
        f"weights, gradients and AdamW's moments in fp32, the weights in bf16 and the logits of a pass need "
        f"{needed / GIB:.0f} GiB, the device has {there / GIB:.0f}: shard it over several GPUs, or tune with lora"
    )


def trained(case: Case, config: TrainConfig, steps: int, device: torch.device) -> Results:
    """Train, and what the steps after the warm-up took."""
    examples = examples_of(config.batch * (steps + WARMUP), int(case.llama["vocab_size"]), config.max_tokens)
    task = Task(
        build=lambda: built(case, config, device),
        shares=shares_of(config, Encoded(rows=len(examples), examples=examples), 0),
        objective=objective_of(config),
        export=lambda model: None,  # noqa: ARG005
        use=config,
        learning_rate=config.learning_rate,
        warmup_share=config.warmup_share,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
    )
    engine = make_engine(task, 1, device)
    assert isinstance(engine, OwnModel)
    told: list[StepMetrics] = []
    schedule = Schedule(peak=task.learning_rate, steps=task.shares.steps, warmup_share=task.warmup_share)
    train(engine, task.shares, schedule, seed=task.seed, tell=told.append, after=lambda *_: None)
    model = engine._model.model
    padded = sum(batch.ids_BT.size for batch in task.shares.share(WARMUP, 0, 1).passes)
    return {
        **numbers(told[WARMUP:], shape_of(model, case.llama, examples), device),
        "tokens_share": round(told[WARMUP].tokens / padded, 3),
        "attention": "within examples" if attends_within_examples(model) else "by masks",
    }


def numbers(steps: list[StepMetrics], shape: Shape, device: torch.device) -> Results:
    """Medians of the steps, and what follows from them. `tokens_share` of what is computed are no padding."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    rate = statistics.median(step.tokens / step.seconds for step in steps)
    peak = torch.cuda.max_memory_allocated(device) / GIB if device.type == "cuda" else None
    return {
        "tokens_per_s": round(rate, 1),
        "mfu": mfu(rate, shape, name),
        "peak_gib": None if peak is None else round(peak, 1),
        "step_s": round(statistics.median(step.seconds for step in steps), 4),
        "steps": len(steps),
        "tokens_per_step": round(statistics.median(step.tokens for step in steps)),
        "flops_per_token": flops_per_token(shape),
        "parameters": shape.parameters,
        "adapters": shape.adapters,
        "example_tokens": shape.example_tokens,
        "device": name,
        "torch": torch.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_gpu")
    parser.add_argument("case", choices=CASES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=10, help=f"that count, after {WARMUP} that do not")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="of the section train")
    given = parser.parse_intermixed_args()
    case = CASES[given.case]
    config = config_of(
        case,
        {key: yaml.safe_load(value) for key, _, value in (each.partition("=") for each in given.settings)},
    )
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)  # small matrices are slower on several
    reason = too_large(case, config, device)
    results = {"skipped": reason} if reason else trained(case, config, given.steps, device)
    told = config.model_dump(mode="json", exclude_defaults=True)
    (given.folder / f"{given.case}.json").write_text(json.dumps({**results, "settings": told}, indent=2))


if __name__ == "__main__":
    main()
