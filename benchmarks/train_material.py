"""What `make bench-train` trains: a small Llama with random weights, and rows of instructions. Nothing is fetched.

    python -m benchmarks.train_material FOLDER ROWS HIDDEN LAYERS

Writes `base/`, `train.jsonl`, `test.jsonl`, and for the bare script `ids.jsonl`: the same rows as ids with the same
labels, so that both sides train on the same tokens. The rows are those of the alpaca set beside the repository, or
generated ones whose lengths are spread alike. In a process of its own: what it imports is large and talks.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

from benchmarks.own_model import Size, write_weights
from benchmarks.peers import ROOT

from raymill.train.template import IGNORE
from raymill.train.tokenizer import train_tokenizer

ALPACA = ROOT.parent / "shared" / "data" / "finetune" / "alpaca_en_demo.json"
VOCAB = 2048
TEST_ROWS = 8
MAX_TOKENS = 2048
WORDS = 3000


def rows_of_instructions(count: int) -> tuple[str, list[dict[str, str]]]:
    """Where they are from, and `count` rows and some for the test file; fewer when there are no more."""
    if ALPACA.is_file():
        found: list[dict[str, str]] = json.loads(ALPACA.read_text(encoding="utf-8"))
        return "alpaca", found[: count + TEST_ROWS]
    return "generated", [generated(number) for number in range(count + TEST_ROWS)]


def generated(number: int) -> dict[str, str]:
    """A row of made-up words. Answers are as long as alpaca's: most a few lines, some ten times that."""
    dice = random.Random(number)
    words = [f"{chr(97 + n % 26)}{chr(97 + n // 26 % 26)}{n % 97}" for n in range(WORDS)]
    length = min(900, int(dice.lognormvariate(3.9, 0.9)) + 5)
    return {
        "instruction": " ".join(dice.choices(words, k=dice.randint(6, 20))),
        "input": "",
        "output": " ".join(dice.choices(words, k=length)),
    }


def main() -> None:
    folder, count, hidden, layers = Path(sys.argv[1]), *(int(word) for word in sys.argv[2:5])
    source, rows = rows_of_instructions(count)
    for name, part in (("train", rows[:-TEST_ROWS]), ("test", rows[-TEST_ROWS:])):
        text = "".join(json.dumps(row) + "\n" for row in part)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    base = folder / "base"
    base.mkdir()
    train_tokenizer([f"{row['instruction']}\n{row['output']}" for row in rows], VOCAB, base)
    write_weights(base, Size(hidden=hidden, layers=layers))
    examples = encoded(base, rows[:-TEST_ROWS])
    with (folder / "ids.jsonl").open("w", encoding="utf-8") as file:
        for example in examples:
            file.write(json.dumps(example) + "\n")
    lengths = [len(example["input_ids"]) for example in examples]
    counted = sum(label != IGNORE for example in examples for label in example["labels"])
    about = {
        "source": source,
        "rows": len(lengths),
        "tokens": sum(lengths),
        "longest": max(lengths),
        "counted_share": round(counted / sum(lengths), 4),
    }
    (folder / "about.json").write_text(json.dumps(about))


def encoded(base: Path, rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    """The rows as Raymill's own way makes ids of them."""
    from raymill.train.formats import normalize
    from raymill.train.template import encode
    from raymill.train.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(base)
    examples = [encode(tokenizer, normalize(row, "alpaca")["messages"]) for row in rows]
    return [{"input_ids": example.ids, "labels": example.labels} for example in examples]


if __name__ == "__main__":
    main()
