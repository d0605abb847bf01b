"""A driver of one training run, to be killed: `python -m tests.multinode.training_drill ADDRESS ROOT CONFIG`.

Makes a tiny base and a data set under ROOT if there are none, tunes the base, and appends what it is told of to
ROOT/events.jsonl, one line each, so that it survives.
"""

from __future__ import annotations

import json
import random
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from tests.lines import write_lines

from raymill.cluster.context import JsonObject, LocalContext, Paused

VOCAB = 340
VERBS = ("broken", "lost", "slow", "late")


@dataclass
class Drill(LocalContext):
    """Tells a file; asks for a rest after the step that `pause_at` names."""

    pause_at: int | None = None
    step: int = 0

    def event(self, kind: str, **data: Any) -> None:
        with (self.root / "events.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, **data}) + "\n")
        if kind == "step":
            self.step = data["step"]

    def check(self) -> None:
        if self.pause_at is not None and self.step >= self.pause_at:
            raise Paused("job drill was paused")


def make_inputs(root: Path) -> dict[str, JsonObject]:
    """A Llama of 2 layers with random weights, and 64 short conversations."""
    from raymill.train.config import PretrainConfig
    from raymill.train.export import write_model
    from raymill.train.pretrain import build_llama
    from raymill.train.tokenizer import load_tokenizer, train_tokenizer

    rng = random.Random(0)
    base = root / "artifacts" / "base" / "drill" / ("0" * 12)
    data = root / "artifacts" / "dataset" / "drill" / ("0" * 12)
    if not base.is_dir():
        texts = [f"The router of {number} is {rng.choice(VERBS)}.\nHelp comes soon." for number in range(400)]
        train_tokenizer(texts, VOCAB, root / "tokenizer")
        tokenizer = load_tokenizer(root / "tokenizer")
        config = PretrainConfig(text="-", hidden=256, layers=2, vocab=VOCAB)
        write_model(build_llama(config, tokenizer), root / "tokenizer", base, [tokenizer.eos_token_id])
    if not data.is_dir():
        data.mkdir(parents=True)
        rows = []
        for number in range(64):
            verb = rng.choice(VERBS)
            turns = [("user", f"train {number}: it is {verb}."), ("assistant", verb)]
            rows.append({"messages": [{"role": role, "content": content} for role, content in turns]})
        write_lines(data / "train.jsonl", rows)
    return {
        "base": {"artifact": base.relative_to(root / "artifacts").as_posix()},
        "dataset": {"artifact": data.relative_to(root / "artifacts").as_posix()},
    }


def main() -> None:
    from raymill.train.jobs import run_train

    warnings.simplefilter("ignore")
    address, root, given = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    pause_at = given.pop("pause_at", None)
    inputs = make_inputs(root)
    ray.init(address=address, namespace="raymill", log_to_driver=False, logging_level="WARNING")
    context = Drill(root, job_id="drill", config=given, inputs=inputs, pause_at=pause_at)
    try:
        done = run_train(context).result
    except Exception as error:
        context.event("ended", error=type(error).__name__, text=str(error))
        raise
    context.event("ended", result=done)


if __name__ == "__main__":
    main()
