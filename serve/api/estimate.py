"""About how long a recipe's training will take and how much memory it needs, before it is submitted.

Memory is counted: weights in fp32, gradients, Adam's two moments (16 bytes a trained parameter; ZeRO, Rajbhandari
et al. 2020, arXiv 1910.02054, divides the parts among the workers), activations of one forward pass (34 bytes a token
and hidden unit of a layer in 16 bits, twice that in fp32; Korthikanti et al. 2022, arXiv 2205.05198) and the logits. Time is what the newest run of
the same model took for a step; without one nothing is said. Sizes are bytes, durations seconds.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from raymill.client.console_types import Estimate
from raymill.client.recipe import Recipe
from raymill.evaluate.sizes import shapes_of
from raymill.policies.errors import NotFound
from raymill.registry import datasets
from raymill.registry.tables import Job, TrainingRun
from raymill.train.config import PretrainConfig, TrainConfig
from raymill.train.dataset_config import files_of

WEIGHT, GRADIENT, MOMENTS = 4, 4, 8
ACTIVATION = 68
"""Bytes a token and hidden unit of a layer."""

LOGITS = 8
"""Bytes a token and word of the vocabulary: the logits and their gradient."""

COUNTED_BYTES = 256 << 20
"""Lines of larger files are not counted."""


class Shape(NamedTuple):
    """A model as far as its size follows from it."""

    parameters: int
    hidden: int
    layers: int
    vocab: int
    matrices: int
    """Sum of inputs and outputs of all layers that an adapter may be given to."""


def estimate(session: Session, recipe: Recipe) -> Estimate:
    """What can be told; None where there is nothing to go by, with the reason among the notes."""
    notes: list[str] = []
    shape = _shape(recipe, notes)
    rows = _rows(session, recipe, notes)
    train = recipe.train
    steps = math.ceil(rows / train.batch) * train.epochs if rows is not None else None
    pretrain = recipe.base.pretrain
    total = (steps or 0) + (pretrain.steps if pretrain is not None else 0)
    seconds = _seconds(session, recipe, steps, notes)
    trained = _trained(shape, train) if shape is not None else None
    memory = None
    if shape is not None and trained is not None:
        memory = _memory(shape, trained, train, train.micro_tokens)
        if pretrain is not None:
            windows = pretrain.batch * pretrain.seq_tokens // pretrain.workers
            memory = max(memory, _memory(shape, shape.parameters, pretrain, windows))
    return Estimate(
        parameters=shape.parameters if shape else None,
        trained_parameters=trained,
        rows=rows,
        steps=total if steps is not None else None,
        memory_bytes=memory,
        workers=train.workers,
        seconds=seconds,
        notes=notes,
    )


def _shape(recipe: Recipe, notes: list[str]) -> Shape | None:
    if recipe.base.pretrain is not None:
        return _llama(recipe.base.pretrain)
    if recipe.base.path is None:
        notes.append("the base is on the hub, and its size is not known before it is here")
        return None
    folder = Path(recipe.base.path)
    try:
        config = json.loads((folder / "config.json").read_text())
        shapes = dict(shapes_of(folder))
        hidden, layers = int(config["hidden_size"]), int(config["num_hidden_layers"])
        vocab = int(config["vocab_size"])
    except (OSError, ValueError, KeyError, TypeError):
        notes.append(f"{folder} does not tell its shape in config.json, so memory is not estimated")
        return None
    inner = [shape for name, shape in shapes.items() if len(shape) == 2 and ".layers." in name]
    return Shape(
        sum(math.prod(each) for each in shapes.values()),
        hidden,
        layers,
        vocab,
        sum(sum(each) for each in inner),
    )


def _llama(config: PretrainConfig) -> Shape:
    """With input and output embeddings of one matrix, as they are pre-trained here."""
    hidden, ffn = config.hidden, config.ffn
    keys = hidden * config.kv_heads // config.heads
    matrices = [(hidden, hidden)] * 2 + [(hidden, keys)] * 2 + [(hidden, ffn)] * 3
    layer = sum(a * b for a, b in matrices) + 2 * hidden
    parameters = config.vocab * hidden + config.layers * layer + hidden
    return Shape(
        parameters, hidden, config.layers, config.vocab, config.layers * sum(a + b for a, b in matrices)
    )


def _trained(shape: Shape, train: TrainConfig) -> int:
    """An adapter of rank r has r (inputs + outputs) weights."""
    return shape.parameters if train.lora is None else train.lora.r * shape.matrices


def _memory(shape: Shape, trained: int, use: TrainConfig | PretrainConfig, tokens: int) -> int:
    """Of one worker."""
    stage = 3 if use.sharding == "fsdp" else use.zero
    share = [1 / use.workers if stage >= needed else 1.0 for needed in (3, 2, 1)]
    frozen = 0.5 if isinstance(use, TrainConfig) and use.lora is not None and use.lora.quantize else WEIGHT
    weights = frozen * (shape.parameters - trained if trained < shape.parameters else 0) + WEIGHT * trained
    states = weights * share[0] + GRADIENT * trained * share[1] + MOMENTS * trained * share[2]
    kept = 2 if use.gradient_checkpointing else shape.layers
    activations = tokens * shape.hidden * kept * ACTIVATION + tokens * shape.vocab * LOGITS
    return round(states + activations)


def _rows(session: Session, recipe: Recipe, notes: list[str]) -> int | None:
    source = recipe.dataset
    if source.name is not None:
        try:
            return datasets.find(session, source.name, source.version).train_rows
        except NotFound:
            return None
    total = 0
    for name in files_of(source.train):
        path = Path(name)
        if path.suffix != ".jsonl" or path.stat().st_size > COUNTED_BYTES:
            notes.append(f"rows of {path.name} are counted when the set is checked")
            return None
        with path.open("rb") as file:
            total += sum(1 for line in file if line.strip())
    held_out = source.split.test if source.split is not None else 0.0
    return round(total * (1 - held_out))


def _seconds(session: Session, recipe: Recipe, steps: int | None, notes: list[str]) -> float | None:
    wanted = {"train": steps}
    if recipe.base.pretrain is not None:
        wanted["pretrain"] = recipe.base.pretrain.steps
    total = 0.0
    for kind, count in wanted.items():
        run = session.scalar(
            select(TrainingRun)
            .join(Job, Job.id == TrainingRun.job_id)
            .where(Job.name == recipe.model, TrainingRun.kind == kind, TrainingRun.steps > 0)
            .order_by(TrainingRun.created_at.desc())
            .limit(1)
        )
        if run is None or count is None:
            notes.append(f"no {kind} run of {recipe.model} to go by, so its time is not estimated")
            return None
        total += run.seconds / run.steps * count
    notes.append(f"time as the newest runs of {recipe.model} took for a step")
    return round(total, 1)
