"""Read training rows from jsonl, json, csv, parquet and text files, and say what is wrong with every bad row.

The suffix tells the container, the first good row the format of the rows unless it is said. Rows are read one
at a time; only `read_file` holds them all. Knows no database and no model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from raymill.policies.errors import Invalid, NotFound
from raymill.train.containers import (
    BadFile,
    Container,
    Found,
    Unit,
    read_csv,
    read_json,
    read_jsonl,
    read_text,
)
from raymill.train.formats import SHAPES, Format, Shape, detect, normalize
from raymill.train.limits import LIMITS, Limits
from raymill.train.parquet import read_parquet
from raymill.train.questions import NormalRow, Row
from raymill.train.values import UnusableRow, kind_of

MOST_NAMED = 3
"""Bad rows that an error message names; the error itself carries those that were kept."""

MOST_KEPT = 10_000
"""Bad rows that are kept with their reasons; all are counted."""

CONTAINERS: dict[str, Container] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".parquet": read_parquet,
    ".txt": read_text,
}


class BadRow(NamedTuple):
    """One row that cannot be used."""

    file: str
    """The file's name, without its folder."""

    unit: Unit
    """What `number` counts: lines in text, rows in json and parquet."""

    number: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file} {self.unit} {self.number}: {self.reason}"


class InvalidDataset(Invalid):
    """A file has bad rows, or cannot be read at all."""

    code = "invalid_dataset"

    def __init__(self, message: str, bad_rows: tuple[BadRow, ...] = ()) -> None:
        super().__init__(message, param="dataset")
        self.bad_rows = bad_rows


class RowReader:
    """The good rows of one file, in normal form, as they are asked for; what it learns on the way stays with it.

    Raises:
        NotFound: there is no such file.
        InvalidDataset: its name tells no container; while iterating: it cannot be read further, or holds no rows.
    """

    def __init__(self, path: Path, format: Format | None = None, limits: Limits = LIMITS) -> None:
        if not path.is_file():
            raise NotFound(f"{path} does not exist: give the path of a data set file")
        suffix = path.suffix.lower()
        if suffix not in CONTAINERS:
            raise InvalidDataset(
                f"{path.name} ends in {path.suffix or 'nothing'}: use {', '.join(sorted(CONTAINERS))}"
            )
        if suffix == ".txt" and format not in (None, "text"):
            raise InvalidDataset(f"{path.name} is plain text, but format is {format}: leave format out")
        self.path = path
        self.format = format
        """None until it is said, or found in the first good row."""

        self.good = 0
        self.bad = 0
        self.with_tools = 0
        """Good rows that have tools."""

        self.bad_rows: list[BadRow] = []
        """The first MOST_KEPT."""

        self._said = format is not None
        self._unit: Unit = "row" if suffix in (".json", ".parquet") else "line"
        self._found = CONTAINERS[suffix](path, limits)
        self._most_rows = limits.rows
        self._ids: dict[int, int] = {}

    @property
    def shape(self) -> Shape | None:
        return None if self.format is None else SHAPES[self.format]

    def __iter__(self) -> Iterator[NormalRow]:
        try:
            for found in self._found:
                if self.good + self.bad >= self._most_rows:
                    raise BadFile(f"has more than {self._most_rows} rows: split it")
                row = self._good(found)
                if row is not None:
                    yield row
        except BadFile as error:
            raise InvalidDataset(f"{self.path.name} {error}", tuple(self.bad_rows)) from error
        if not self.good and not self.bad:
            raise InvalidDataset(f"{self.path.name} holds no rows: give a file with at least one")

    def _good(self, found: Found) -> NormalRow | None:
        """The row in normal form; None when it is bad, which is kept."""
        try:
            row = as_row(found)
            self._check_id(row.get("id"), found.number)
            kind = self.format or detect(row)
            normal = normalize(row, kind, said=self._said)
        except UnusableRow as error:
            self.bad += 1
            if len(self.bad_rows) < MOST_KEPT:
                self.bad_rows.append(BadRow(self.path.name, self._unit, found.number, str(error)))
            return None
        self.format = kind
        self.good += 1
        self.with_tools += "tools" in normal
        return normal

    def _check_id(self, value: Any, number: int) -> None:
        if value is None or value == "":
            return
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise UnusableRow(f"id is {kind_of(value)}, not text or a number")
        # Hashes, since twenty million ids are a lot of text.
        earlier = self._ids.setdefault(hash((type(value), value)), number)
        if earlier != number:
            raise UnusableRow(f"has the id {str(value)[:40]!r} of {self._unit} {earlier}")


def as_row(found: Found) -> Row:
    if found.reason is not None:
        raise UnusableRow(found.reason)
    if not isinstance(found.value, dict):
        raise UnusableRow(f"is {kind_of(found.value)}, not an object")
    return found.value


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What a file holds, all of it in memory."""

    format: Format | None
    """None when no row was good."""

    shape: Shape | None
    rows: tuple[NormalRow, ...]
    bad_rows: tuple[BadRow, ...]


def read_file(path: Path, format: Format | None = None, limits: Limits = LIMITS) -> Rows:
    """All rows of `path`, good and bad. A large file is better asked row by row, of a RowReader.

    Raises:
        NotFound: there is no such file.
        InvalidDataset: the file as a whole cannot be read, or holds no rows.
    """
    reader = RowReader(path, format, limits)
    rows = tuple(reader)
    return Rows(format=reader.format, shape=reader.shape, rows=rows, bad_rows=tuple(reader.bad_rows))


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a file is, told without keeping its rows."""

    file: str
    format: Format | None
    shape: Shape | None
    rows: int
    """Good ones."""

    with_tools: int
    bad: int
    bad_rows: tuple[BadRow, ...]
    """The first MOST_KEPT."""

    error: str | None
    """Why the file could not be read to its end, in one line."""

    @property
    def usable(self) -> bool:
        return self.error is None and self.bad == 0


def check_file(path: Path, format: Format | None = None, limits: Limits = LIMITS) -> Report:
    """Read all of `path` and tell what it is, keeping and writing nothing.

    Raises:
        NotFound: there is no such file.
    """
    error: str | None = None
    reader: RowReader | None = None
    try:
        reader = RowReader(path, format, limits)
        for _ in reader:
            pass
    except InvalidDataset as invalid:
        error = str(invalid)
    return Report(
        file=path.name,
        format=reader.format if reader else format,
        shape=reader.shape if reader else None,
        rows=reader.good if reader else 0,
        with_tools=reader.with_tools if reader else 0,
        bad=reader.bad if reader else 0,
        bad_rows=tuple(reader.bad_rows) if reader else (),
        error=error,
    )


def refuse_bad_rows(bad_rows: tuple[BadRow, ...], total: int, bad: int | None = None) -> None:
    """Raise InvalidDataset when there is a bad row; the message is one line and names the first few.

    Args:
        total: rows there are, good and bad.
        bad: how many are bad, if more than were kept.
    """
    if not bad_rows:
        return
    bad = len(bad_rows) if bad is None else bad
    named = "; ".join(str(row) for row in bad_rows[:MOST_NAMED])
    more = f"; and {bad - MOST_NAMED} more" if bad > MOST_NAMED else ""
    raise InvalidDataset(
        f"{bad} of {total} rows are bad: {named}{more}. Fix them, or set dataset.allow_bad_rows", bad_rows
    )
