"""The bare script that Raymill is measured against: TRL's SFTTrainer, run by torchrun.

    torchrun --nproc-per-node 2 -m benchmarks.train_trl SETTINGS.json

Nothing of Raymill is in it but the rows' ids. Settings are those that TRL's documentation recommends for speed: packing
"bfd" where asked for, no gradient checkpointing for a model that fits, the fused AdamW, nothing saved or reported.
Writes what each step took to the file that the settings name.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerFast, TrainerCallback
from trl import SFTConfig, SFTTrainer


class Clock(TrainerCallback):  # type: ignore[misc]
    """Seconds and tokens of each step, from one step's end to the next."""

    def __init__(self) -> None:
        self.trainer: Any = None
        self.steps: list[tuple[int, float]] = []
        self._at = 0.0
        self._tokens = 0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._at = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        now = time.perf_counter()
        # TRL's own count over all processes, without padding; it is public only as a logged metric.
        tokens = int(self.trainer._total_train_tokens)
        self.steps.append((tokens - self._tokens, now - self._at))
        self._at, self._tokens = now, tokens


def config_of(settings: dict[str, Any], workers: int) -> SFTConfig:
    packing = bool(settings["packing"])
    # Packed rows of a pass become one sequence; without FlashAttention, one row a pass costs least.
    rows = 1 if packing else settings["rows_per_pass"]
    step_rows = settings["packed_rows_per_step"] if packing else settings["rows_per_step"]
    cuda = torch.cuda.is_available()
    return SFTConfig(
        output_dir=settings["folder"],
        model_init_kwargs={"dtype": "float32"},
        num_train_epochs=settings["epochs"],
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=max(1, step_rows // (rows * workers)),
        packing=packing,
        max_length=settings["row_tokens"],
        train_sampling_strategy="random" if packing else "group_by_length",
        learning_rate=settings["learning_rate"],
        lr_scheduler_type="cosine",
        weight_decay=0.0,
        max_grad_norm=1.0,
        adam_beta2=0.95,
        optim="adamw_torch_fused",
        bf16=settings["bf16"],
        gradient_checkpointing=False,
        use_cpu=not cuda,
        ddp_backend=None if workers == 1 else "nccl" if cuda else "gloo",
        dataloader_pin_memory=cuda,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=settings["seed"],
    )


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text())
    workers = int(os.environ.get("WORLD_SIZE", "1"))
    rows = [json.loads(line) for line in Path(settings["ids"]).read_text().splitlines()]
    clock = Clock()
    trainer = SFTTrainer(
        model=settings["base"],
        args=config_of(settings, workers),
        train_dataset=Dataset.from_list(rows),
        processing_class=PreTrainedTokenizerFast.from_pretrained(settings["base"]),
        callbacks=[clock],
    )
    clock.trainer = trainer
    trainer.train()
    if trainer.is_world_process_zero():
        Path(settings["steps"]).write_text(json.dumps(clock.steps))


if __name__ == "__main__":
    main()
