"""Which rows of a file are held out: those whose content, hashed with the seed, falls below the share.

A row's side depends on nothing but itself, so rows that are added later move no others, and the same row twice
is on one side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

from raymill.train.dataset_config import Split
from raymill.train.readers import InvalidDataset
from raymill.train.row_text import Row, canonical

R = TypeVar("R", bound=Row)


PLACES = 2**64


def place_of(content: bytes) -> int:
    """Where a row stands by its content, from 0 to `PLACES` - 1: a share of all places is that share of the rows."""
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big")


def held_out(row: Row, split: Split) -> bool:
    return place_of(f"{split.seed}:".encode() + canonical(row)) < split.test * PLACES


def split_rows(rows: Sequence[R], split: Split) -> tuple[list[R], list[R]]:
    """(training rows, held-out rows), in the order given.

    Raises:
        InvalidDataset: all rows came to be on one side.
    """
    train: list[R] = []
    test: list[R] = []
    for row in rows:
        (test if held_out(row, split) else train).append(row)
    if not train or not test:
        side = "held out" if not train else "for training"
        raise InvalidDataset(
            f"split.test is {split.test:g}, and all {len(rows)} rows came to be {side}: "
            "use another share or seed, or give a test file"
        )
    return train, test
