"""Supervised fine-tuning of any base on conversations, with adapters or with all weights.

The driver turns conversations into ids, so that a row that does not fit is told before a worker starts.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from raymill.cluster.context import JobContext, JsonObject
from raymill.policies.errors import Invalid
from raymill.train.config import TrainConfig
from raymill.train.holdout import held_out
from raymill.train.launch import EXPORT, Validation, launch
from raymill.train.template import IGNORE, Example, encode

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from raymill.train.worker import Task

EXAMPLES = "examples.npz"
HELD_OUT = "held-out.npz"
ADAPTER = "adapter"


class Shape(NamedTuple):
    """What the examples are like; told before the run starts."""

    rows: int
    tokens: int
    longest: int
    trained_token_share: float
    """Tokens that the loss counts, of all."""


def tune(config: TrainConfig, base: Path, train_file: Path, context: JobContext) -> tuple[JsonObject, Shape]:
    """Tune `base` on `train_file` (normal form) into `export/`, and `adapter/` with LoRA.

    Raises:
        Invalid: an example is longer than `max_tokens`, or the base cannot be tuned so.
    """
    examples_file = context.work_dir / EXAMPLES
    if not examples_file.is_file():
        context.event("phase", name="tokenize")
        examples = encode_rows(base, train_file, config.max_tokens)
        apart = held_out_of(train_file, config)
        if apart:
            held = [example for number, example in enumerate(examples) if number in apart]
            write_examples(held, context.work_dir / HELD_OUT)
        write_examples([each for number, each in enumerate(examples) if number not in apart], examples_file)
    shape = shape_of(read_examples(examples_file))
    context.event(
        "log", text=f"{shape.rows} examples, {shape.tokens} tokens, {shape.trained_token_share:.0%} trained"
    )
    beside = Validation(task_of, config.early_stop) if config.validation is not None else None
    settings = {"config": config.model_dump(), "base": str(base)}
    return launch(tune_worker, settings, config, context, beside), shape


def held_out_of(train_file: Path, config: TrainConfig) -> set[int]:
    """Numbers of the rows, from 0, that only validation sees."""
    if config.validation is None:
        return set()
    return held_out(train_file.read_text(encoding="utf-8").splitlines(), config.validation)


def encode_rows(base: Path, train_file: Path, max_tokens: int) -> list[Example]:
    """Every conversation of `train_file` as ids.

    Raises:
        Invalid: one is longer than `max_tokens`; nothing is cut off silently.
    """
    from raymill.train.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(base)
    examples: list[Example] = []
    for number, line in enumerate(train_file.read_text(encoding="utf-8").splitlines(), start=1):
        example = encode(tokenizer, json.loads(line)["messages"])
        if len(example.ids) > max_tokens:
            raise Invalid(
                f"train row {number} has {len(example.ids)} tokens, max_tokens is {max_tokens}: shorten the row or "
                "raise train.max_tokens",
                param="train.max_tokens",
            )
        examples.append(example)
    return examples


def shape_of(examples: Sequence[Example]) -> Shape:
    tokens = sum(len(example.ids) for example in examples)
    trained = sum(label != IGNORE for example in examples for label in example.labels)
    return Shape(
        rows=len(examples),
        tokens=tokens,
        longest=max(len(example.ids) for example in examples),
        trained_token_share=round(trained / tokens, 4),
    )


def write_examples(examples: Sequence[Example], path: Path) -> None:
    """All examples end to end, with their lengths; a partial file never bears the final name."""
    partial = path.with_name(f"partial-{path.name}")
    np.savez(
        partial,
        lengths=np.asarray([len(example.ids) for example in examples], dtype=np.int64),
        ids=np.concatenate([np.asarray(example.ids, dtype=np.int32) for example in examples]),
        labels=np.concatenate([np.asarray(example.labels, dtype=np.int32) for example in examples]),
    )
    partial.rename(path)


def read_examples(path: Path) -> list[Example]:
    with np.load(path) as arrays:
        ends = np.cumsum(arrays["lengths"])[:-1]
        ids, labels = np.split(arrays["ids"], ends), np.split(arrays["labels"], ends)
    return [Example(i.tolist(), label.tolist()) for i, label in zip(ids, labels, strict=True)]


def tune_worker(settings: JsonObject) -> None:
    """What each Ray Train worker runs."""
    from raymill.train.worker import run_worker

    run_worker(settings, task_of)


def task_of(settings: JsonObject) -> Task:
    from raymill.train.batches import ExampleShares
    from raymill.train.tokenizer import load_tokenizer
    from raymill.train.worker import Task

    config = TrainConfig.model_validate(settings["config"])
    work_dir, base = Path(settings["work_dir"]), Path(settings["base"])
    tokenizer = load_tokenizer(base)
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id

    def shares(name: str, epochs: int) -> ExampleShares:
        return ExampleShares(
            read_examples(work_dir / name),
            batch=config.batch,
            epochs=epochs,
            seed=config.seed,
            pad_id=pad_id or 0,
            packing=config.packing,
            pass_tokens=config.micro_tokens,
        )

    return Task(
        build=lambda: build_model(config, base),
        shares=shares(EXAMPLES, config.epochs),
        validation=shares(HELD_OUT, 1) if config.validation is not None else None,
        validate_every=config.validation.every if config.validation is not None else 0,
        early_stop=config.early_stop,
        export=lambda model: export(model, base, work_dir),
        use=config,
        learning_rate=config.learning_rate,
        warmup_share=config.warmup_share,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
    )


def build_model(config: TrainConfig, base: Path) -> nn.Module:
    """The base with fresh adapters, or the base itself in full precision.

    Raises:
        Invalid: none of the base's layers is named in `lora.targets`.
    """
    import torch

    torch.manual_seed(config.seed)
    if config.lora is None:
        return load_base(base, torch.float32)  # type: ignore[no-any-return]
    from peft import LoraConfig, get_peft_model

    model = load_base(base, "auto")
    names = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    missing = [target for target in config.lora.targets if target not in names]
    if missing:
        linear = sorted(
            {n.rsplit(".", 1)[-1] for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
        )
        raise Invalid(
            f"lora.targets names {missing[0]}, which the base lacks: choose from {', '.join(linear)}",
            param="train.lora.targets",
        )
    adapters = LoraConfig(
        r=config.lora.r,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=list(config.lora.targets),
        task_type="CAUSAL_LM",
    )
    adapted: nn.Module = get_peft_model(model, adapters)
    return adapted


def load_base(base: Path, dtype: Any) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        str(base), dtype=dtype, local_files_only=True, use_safetensors=True, trust_remote_code=False
    )
    return model


def export(model: Any, base: Path, work_dir: Path) -> None:
    """The tuned model with adapters merged, in the base's own precision; the adapters apart as well."""
    from transformers import AutoConfig

    from raymill.train.export import stop_tokens, write_model
    from raymill.train.tokenizer import load_tokenizer

    shutil.rmtree(work_dir / ADAPTER, ignore_errors=True)
    if hasattr(model, "merge_and_unload"):
        model.save_pretrained(work_dir / ADAPTER, safe_serialization=True)
        model = model.merge_and_unload()
    dtype = AutoConfig.from_pretrained(str(base), local_files_only=True).dtype
    if dtype is not None:
        model = model.to(dtype)
    write_model(model, base, work_dir / EXPORT, stop_tokens(load_tokenizer(base)))
