"""Rows as ids: what a data set is for a training run, and how it lies in the work directory.

The driver encodes before a worker starts, so no accelerator waits for it, and a row that does not fit is told
at once. Knows nothing of the model but its tokenizer.

Units: tokens. Examples follow each other: one for a conversation, an answer or a piece of text, two for a
pair (the better answer first).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from raymill.policies.errors import Invalid
from raymill.train.config import TrainConfig
from raymill.train.template import IGNORE, Example, encode, encode_kto, encode_pair, encode_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TELL_EVERY_ROWS = 500


class Size(NamedTuple):
    """What the examples are like; told before the run starts."""

    rows: int
    tokens: int
    longest: int
    trained_token_share: float
    """Tokens that the loss counts, of all."""


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """A data set as ids."""

    rows: int
    """Rows of the file; what an epoch is made of, but for text, whose examples are pieces."""

    examples: Sequence[Example]
    good: Sequence[bool] = ()
    """For kto: whether each answer is a good one."""

    ends: Sequence[int] = ()
    """Number of examples up to the end of each row; not kept in the file."""

    def of_rows(self, numbers: Iterable[int]) -> Encoded:
        """The part that some rows are, by their numbers from 0."""
        chosen = sorted(numbers)
        starts = [0, *self.ends]
        return Encoded(
            rows=len(chosen),
            examples=[each for row in chosen for each in self.examples[starts[row] : self.ends[row]]],
            good=[self.good[row] for row in chosen] if self.good else (),
        )

    def size(self) -> Size:
        tokens = sum(len(example.ids) for example in self.examples)
        trained = sum(label != IGNORE for example in self.examples for label in example.labels)
        return Size(
            rows=self.rows,
            tokens=tokens,
            longest=max(len(example.ids) for example in self.examples),
            trained_token_share=round(trained / tokens, 4),
        )


def lines_of(train_file: Path) -> list[str]:
    """The rows of a file in normal form. A text may hold other characters that end lines, such as U+2028.

    Raises:
        Invalid: there are none.
    """
    with train_file.open(encoding="utf-8", newline="\n") as file:
        lines = [line.rstrip("\n") for line in file]
    if not lines:
        raise Invalid(f"{train_file.name} holds no rows: give a data set with at least one", param="dataset")
    return lines


def encode_lines(
    config: TrainConfig,
    tokenizer: PreTrainedTokenizerBase,
    lines: Sequence[str],
    tell: Callable[[int, int], None] | None = None,
) -> Encoded:
    """Every row (normal form, JSON) as ids, as the method needs them.

    Args:
        tell: is called now and then with the rows done and all rows.

    Raises:
        Invalid: an example is longer than `max_tokens`; nothing is cut off silently.
    """
    examples: list[Example] = []
    good: list[bool] = []
    ends: list[int] = []
    with_tools = 0
    for number, line in enumerate(lines, start=1):
        row = json.loads(line)
        with_tools += "tools" in row
        for example in encode_row(config, tokenizer, row):
            if len(example.ids) > config.max_tokens:
                raise Invalid(
                    f"train row {number} has {len(example.ids)} tokens, max_tokens is {config.max_tokens}: shorten "
                    "the row or raise train.max_tokens",
                    param="train.max_tokens",
                )
            examples.append(example)
        ends.append(len(examples))
        if config.method == "kto":
            good.append(row["label"])
        if tell is not None and (number % TELL_EVERY_ROWS == 0 or number == len(lines)):
            tell(number, len(lines))
    if config.method == "tool" and not with_tools:
        raise Invalid(
            "method is tool, and no row of the data set has tools: set method to sft, or give rows with tools",
            param="train.method",
        )
    return Encoded(rows=len(lines), examples=examples, good=good, ends=ends)


def encode_row(
    config: TrainConfig, tokenizer: PreTrainedTokenizerBase, row: dict[str, Any]
) -> Iterable[Example]:
    match config.method:
        case "pretrain":
            return in_pieces(encode_text(tokenizer, row["text"]), config.max_tokens)
        case "sft" | "tool":
            return [encode(tokenizer, row["messages"], row.get("tools"), loss_on=config.loss_on)]
        case "dpo":
            return encode_pair(tokenizer, row)
        case "kto":
            return [encode_kto(tokenizer, row).example]


def in_pieces(text: Example, most: int) -> Iterator[Example]:
    """A text as examples of at most `most` tokens."""
    for start in range(0, len(text.ids), most):
        yield Example(text.ids[start : start + most], text.labels[start : start + most])


def write(encoded: Encoded, path: Path) -> None:
    """All examples end to end, with their lengths; a partial file never bears the final name."""
    partial = path.with_name(f"partial-{path.name}")
    np.savez(
        partial,
        rows=np.asarray(encoded.rows, dtype=np.int64),
        lengths=np.asarray([len(example.ids) for example in encoded.examples], dtype=np.int64),
        ids=flat(example.ids for example in encoded.examples),
        labels=flat(example.labels for example in encoded.examples),
        good=np.asarray(encoded.good, dtype=np.bool_),
    )
    partial.rename(path)


def flat(lists: Iterator[list[int]]) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    return np.fromiter(chain.from_iterable(lists), dtype=np.int32)


def read(path: Path) -> Encoded:
    with np.load(path) as arrays:
        ends = np.cumsum(arrays["lengths"])[:-1]
        ids, labels = np.split(arrays["ids"], ends), np.split(arrays["labels"], ends)
        return Encoded(
            rows=int(arrays["rows"]),
            examples=[Example(i.tolist(), label.tolist()) for i, label in zip(ids, labels, strict=True)],
            good=arrays["good"].tolist(),
        )
