"""What stopping weak trials saves: the same 16 trials, all to their end and with ASHA.

    python -m benchmarks.asha [--seed 0] [--epochs 6]

A tiny Llama with random weights learns made-up conversations; searched are the learning rate and the weight decay. Needs no download, no service and no database: a Ray of its own, or the one that the caller has joined.
`asha_share` is what other benchmarks call.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from raymill.train.config import TrainConfig
from raymill.tune.config import TuneConfig

TRIALS = 16
ROWS = 600
BATCH = 32
EPOCHS = 6
GRACE = 16
REDUCTION = 4
OVER = {
    "train.learning_rate": {"loguniform": [1e-5, 1e-2]},
    "train.weight_decay": {"loguniform": [1e-4, 1e-1]},
}
THINGS = ["router", "phone", "invoice", "login", "parcel", "screen", "ticket", "order"]
STATES = ["broken", "lost", "slow", "late", "wrong", "locked", "blank", "double"]
TEAMS = ["north", "south", "east", "west"]


@dataclass(frozen=True, kw_only=True)
class AshaShare:
    """Two searches over the same trials."""

    trials: int
    steps_all: int
    """Of all trials together, each trained to its end."""
    steps_asha: int
    """With ASHA."""
    best_all: float
    best_asha: float
    """Validation loss of the best trial, trained to its end."""
    same_trial: bool

    @property
    def share(self) -> float:
        return self.steps_asha / self.steps_all

    @property
    def excess(self) -> float:
        """How far ASHA's best is above the best of all; 0.01 is one per cent."""
        return self.best_asha / self.best_all - 1


def asha_share(
    directory: Path, *, seed: int = 0, trials: int = TRIALS, epochs: int = EPOCHS, concurrent: int = 2
) -> AshaShare:
    """Run both searches in `directory`. Joins the Ray that is there, else starts one that the caller shuts down."""
    base, rows = make_base(directory / "base"), make_rows(directory / "train.jsonl")
    found: dict[str, Any] = {}
    for scheduler in ("none", "asha"):
        search = make_search(
            directory / scheduler,
            base,
            rows,
            {"scheduler": scheduler, "trials": trials, "seed": seed, "concurrent": concurrent},
            epochs=epochs,
        )
        records, best = run_to_best(search)
        found[scheduler] = (sum(record.steps for record in records), best)
    (steps_all, best_all), (steps_asha, best_asha) = found["none"], found["asha"]
    return AshaShare(
        trials=trials,
        steps_all=steps_all,
        steps_asha=steps_asha,
        best_all=best_all.metric,
        best_asha=best_asha.metric,
        same_trial=best_all.number == best_asha.number,
    )


def run_to_best(search: Any) -> tuple[list[Any], Any]:
    """All records of a search, and the best one, which was trained to its end."""
    from raymill.tune.search import best_of, run_search

    records = run_search(search)
    return records, best_of(records)


def make_search(
    directory: Path, base: Path, train_file: Path, tune: dict[str, Any], *, epochs: int = EPOCHS, **train: Any
) -> Any:
    """A search over `OVER`, or `tune["over"]`, with its rows made into ids; trials are written into files."""
    from raymill.cluster.context import LocalContext
    from raymill.train.tuning import prepare
    from raymill.tune.jobs import most_steps
    from raymill.tune.search import Search
    from raymill.tune.store import FileStore

    config = TuneConfig.model_validate({"over": OVER, "grace": GRACE, "reduction": REDUCTION} | tune)
    recipe = TrainConfig.model_validate(
        {"epochs": epochs, "batch": BATCH, "checkpoint_every": GRACE, "precision": "fp32"}
        | {"validation": {"share": 0.15}}
        | train
    )
    context = LocalContext(directory)
    work_dir = context.work_dir
    prepare(recipe, base, train_file, context)
    return Search(
        config=config,
        train=recipe,
        base=base,
        work_dir=work_dir,
        most_steps=most_steps(recipe, config, work_dir),
        store=FileStore(directory / "records"),
        tell=context.event,
        check=context.check,
    )


def make_rows(path: Path, rows: int = ROWS) -> Path:
    """Conversations whose answers repeat a word of their questions, and then have a number that nobody can know: as with
    real text the loss has a floor."""
    rng = random.Random(0)
    lines = []
    for _ in range(rows):
        thing, state, team = rng.randrange(8), rng.randrange(8), rng.randrange(4)
        question = f"The {THINGS[thing]} of room {rng.randrange(900)} is {STATES[state]}, says {TEAMS[team]}."
        answer = f"{STATES[state]}: ticket " + " ".join(str(rng.randrange(10)) for _ in range(4))
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        lines.append(json.dumps({"messages": turns}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def make_base(directory: Path) -> Path:
    """A Llama of 64 wide and 2 layers with random weights and a tokenizer of the words above."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from raymill.train.tokenizer import train_tokenizer

    rng = random.Random(1)
    words = [*THINGS, *STATES, *TEAMS, "The", "of", "room", "is", "says", "to", "1 2 3 4 5 6 7 8 9 0"]
    documents = [" ".join(rng.choices(words, k=8)) + ".,:" for _ in range(300)]
    train_tokenizer(documents, 400, directory)
    ids = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    torch.manual_seed(3)
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=len(ids),
        max_position_embeddings=256,
        eos_token_id=ids["<|end|>"],
        bos_token_id=None,
        pad_token_id=ids["<|pad|>"],
    )
    model: Any = LlamaForCausalLM(config)
    model.save_pretrained(directory)
    return directory


def asha_results(*, seed: int = 0, epochs: int = EPOCHS) -> dict[str, Any]:
    """What `asha_share` finds, on a Ray that is gone afterwards: the keys of a benchmark's results."""
    import ray

    ray.init(logging_level="WARNING", log_to_driver=False)
    try:
        with tempfile.TemporaryDirectory() as directory:
            found = asha_share(Path(directory), seed=seed, epochs=epochs)
    finally:
        ray.shutdown()
    return {"asha_steps_share": found.share, "asha_excess": found.excess, "asha": asdict(found)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    given = parser.parse_args()
    print(json.dumps(asha_results(seed=given.seed, epochs=given.epochs)))


if __name__ == "__main__":
    main()
