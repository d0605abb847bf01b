"""Rows of one or several files as the data set job takes them, and what is there twice among them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from raymill.train.containers import BadFile
from raymill.train.duplicates import Duplicates, find_duplicates
from raymill.train.formats import Format, question_of
from raymill.train.limits import LIMITS
from raymill.train.ngrams import Hashes, Words
from raymill.train.readers import CONTAINERS, BadRow, InvalidDataset, RowReader
from raymill.train.row_text import Row, texts_of
from raymill.train.values import kind_of

Check = Callable[[], None]

CHECK_EVERY = 1000
"""Rows between two looks whether to stop."""

ANY = "benchmark"
"""Shape of rows that are in no known form: only their texts are known."""


class Part(NamedTuple):
    """All rows of a side."""

    rows: list[Row]
    """In normal form."""

    bad: tuple[BadRow, ...]
    """The first ones, with their reasons."""

    bad_count: int
    format: str
    shape: str


def read_part(paths: Sequence[Path], format: Format | None, check: Check) -> Part:
    """Rows of several files, one after the other.

    Args:
        check: raises when the work must stop.

    Raises:
        NotFound, InvalidDataset: a file cannot be read, or they hold rows of different shapes.
    """
    readers = [RowReader(path, format) for path in paths]
    rows: list[Row] = []
    for reader in readers:
        for row in reader:
            rows.append(row)
            if len(rows) % CHECK_EVERY == 0:
                check()
    shapes = sorted({str(reader.shape) for reader in readers if reader.good})
    if len(shapes) > 1:
        raise InvalidDataset(
            f"the files hold {' and '.join(shapes)} rows: a data set has one shape, so register them apart"
        )
    return Part(
        rows=rows,
        bad=tuple(row for reader in readers for row in reader.bad_rows),
        bad_count=sum(reader.bad for reader in readers),
        format=", ".join(sorted({str(reader.format) for reader in readers if reader.good})) or "none",
        shape=shapes[0] if shapes else "conversation",
    )


def read_any(paths: Sequence[Path], format: Format | None, check: Check) -> Part:
    """As `read_part` where that finds nothing wrong; else the rows as they are, whatever their keys."""
    try:
        part = read_part(paths, format, check)
    except InvalidDataset:
        if format is not None:
            raise
    else:
        if format is not None or not part.bad_count:
            return part
    rows: list[Row] = []
    bad: list[BadRow] = []
    for path in paths:
        try:
            for number, value, unreadable in CONTAINERS[path.suffix.lower()](path, LIMITS):
                if unreadable is None and isinstance(value, dict):
                    rows.append(value)
                else:
                    reason = unreadable or f"is {kind_of(value)}, not an object"
                    bad.append(BadRow(path.name, "row", number, reason))
        except BadFile as error:
            raise InvalidDataset(f"{path.name} {error}", tuple(bad)) from error
    return Part(rows, tuple(bad), len(bad), ANY, ANY)


def duplicates_of(rows: Sequence[Row]) -> Duplicates:
    words = Words()
    return find_duplicates(rows, [words_of(words, row) for row in rows])


def words_of(words: Words, row: Row) -> Hashes:
    return words.hashes("\n".join(texts_of(row)))


def write_jsonl(rows: Iterable[Row], path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def overlap(train: Sequence[Row], test: Sequence[Row]) -> int:
    """Test rows whose question is asked in the training set as well."""
    asked = {_question(row) for row in train}
    return sum(_question(row) in asked for row in test) if asked else 0


def _question(row: Row) -> str:
    return json.dumps(question_of(row), sort_keys=True)
