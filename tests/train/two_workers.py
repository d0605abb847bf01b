"""One of several processes that train together over gloo; started by `test_layouts.py`.

    python two_workers.py RANK WORKERS DIRECTORY

Reads DIRECTORY/task.json: cases by name, each with a `train` section and when to save and load, or what to load. Writes what the
first process was told to DIRECTORY/NAME.json.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from tests.train.tiny import rows_of, steps_of, tiny_llama

from raymill.train.config import TrainConfig
from raymill.train.layouts import lay_out
from raymill.train.loop import Engine, Schedule, StepMetrics, train
from raymill.train.methods import NEEDED_SHAPE
from raymill.train.models import adapters
from raymill.train.reference import take_reference
from raymill.train.tokenizer import load_tokenizer
from raymill.train.tuning import objective_of


def engine_of(config: TrainConfig, workers: int) -> Engine:
    model: Any = tiny_llama(vocab=330)
    if config.lora is not None:
        from peft import get_peft_model

        torch.manual_seed(0)
        model = get_peft_model(model, adapters(config.lora))
    return lay_out(
        model,
        config,
        objective=objective_of(config),
        device=torch.device("cpu"),
        workers=workers,
        bf16=False,
        weight_decay=0.1,
        max_grad_norm=1.0,
    )


def run(
    config: TrainConfig, workers: int, directory: Path, resume_at: int | None, load: Path | None = None
) -> dict[str, Any]:
    """Losses of all steps; with `resume_at`, the steps after it by a second engine that loads. With `load`, which
    is a checkpoint of that step by any number of workers, those steps alone."""
    directory.mkdir(exist_ok=True)
    tokenizer = load_tokenizer(directory.parent / "tokenizer")
    shares = steps_of(config, tokenizer, rows_of(NEEDED_SHAPE[config.method], 11))
    engine = engine_of(config, workers)
    take_reference(engine, shares, directory)
    told: list[StepMetrics] = []
    schedule = Schedule(peak=1e-2, steps=shares.steps, warmup_share=0.1)
    kept = directory / "checkpoint"

    def after(step: int, loss: float, tokens: int) -> None:  # noqa: ARG001
        if step == resume_at:
            kept.mkdir(exist_ok=True)
            engine.save(kept)

    if load is not None:
        engine.load(load)
    start = resume_at or 0 if load is not None else 0
    train(engine, shares, schedule, seed=1, start=start, tell=told.append, after=after)
    found: dict[str, Any] = {"losses": [metrics.loss for metrics in told]}
    if resume_at is not None and load is None:
        again = engine_of(config, workers)
        again.load(kept)
        later: list[StepMetrics] = []
        train(again, shares, schedule, seed=1, start=resume_at, tell=later.append, after=lambda *_: None)
        found["resumed"] = [metrics.loss for metrics in later]
    weights = engine.weights()
    found["norms"] = {name: float(weight.float().norm()) for name, weight in weights.items()}
    return found


def main() -> None:
    rank, workers, directory = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    os.environ.update({"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(workers)})
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{directory}/meeting", rank=rank, world_size=workers
    )
    for name, case in json.loads((directory / "task.json").read_text()).items():
        config = TrainConfig.model_validate(case["train"])
        load = Path(case["load"]) if "load" in case else None
        found = run(config, workers, directory / name, case.get("resume_at"), load)
        if rank == 0:
            (directory / f"{name}.json").write_text(json.dumps(found))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
