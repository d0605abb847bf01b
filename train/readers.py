"""Read conversations from jsonl, json, csv and parquet files, and say what is wrong with every bad row.

The suffix tells the container, the first good row the format of the rows. Knows no database and no model.
Lines and rows are counted from 1; a csv row is counted by the line it ends on.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

from raymill.policies.errors import Invalid, NotFound
from raymill.train.formats import BadConversation, Format, Message, Row, detect, kind_of, normalize

MOST_NAMED = 3
"""Bad rows that an error message names; the error itself carries all of them."""

MAX_FIELD_BYTES = 64 << 20


class BadRow(NamedTuple):
    """One row that cannot be used."""

    file: str
    """The file's name, without its folder."""

    unit: Literal["line", "row"]
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


@dataclass(frozen=True, kw_only=True)
class Conversations:
    """What a file holds."""

    format: Format | None
    """None when no row was good."""

    rows: tuple[list[Message], ...]
    bad_rows: tuple[BadRow, ...]


class Found(NamedTuple):
    """One row as it lies in the file: its value, or why there is none."""

    number: int
    value: Any
    reason: str | None = None


def read_file(path: Path) -> Conversations:
    """All rows of `path`, good and bad.

    Raises:
        NotFound: there is no such file.
        InvalidDataset: the file as a whole cannot be read, or holds no rows.
    """
    if not path.is_file():
        raise NotFound(f"{path} does not exist: give the path of a data set file")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InvalidDataset(
            f"{path.name} ends in {path.suffix or 'nothing'}: use {', '.join(sorted(READERS))}"
        )
    unit: Literal["line", "row"] = "row" if path.suffix.lower() in (".json", ".parquet") else "line"
    kind: Format | None = None
    rows: list[list[Message]] = []
    bad: list[BadRow] = []
    for number, value, unreadable in reader(path):
        try:
            row = as_row(value, unreadable)
            kind = kind or detect(row)
            rows.append(normalize(row, kind))
        except BadConversation as error:
            bad.append(BadRow(path.name, unit, number, str(error)))
    if not rows and not bad:
        raise InvalidDataset(f"{path.name} holds no rows: give a file with at least one conversation")
    return Conversations(format=kind, rows=tuple(rows), bad_rows=tuple(bad))


def as_row(value: Any, unreadable: str | None) -> Row:
    if unreadable is not None:
        raise BadConversation(unreadable)
    if not isinstance(value, dict):
        raise BadConversation(f"is {kind_of(value)}, not an object")
    return value


def refuse_bad_rows(bad_rows: tuple[BadRow, ...], total: int) -> None:
    """Raise InvalidDataset when there is a bad row; the message is one line and names the first few."""
    if not bad_rows:
        return
    named = "; ".join(str(row) for row in bad_rows[:MOST_NAMED])
    more = f"; and {len(bad_rows) - MOST_NAMED} more" if len(bad_rows) > MOST_NAMED else ""
    raise InvalidDataset(
        f"{len(bad_rows)} of {total} rows are bad: {named}{more}. Fix them, or set dataset.allow_bad_rows",
        bad_rows,
    )


def parse_json(text: str) -> Any:
    """JSON as the standard has it: no NaN, no Infinity, no key twice.

    Raises:
        BadConversation: what is wrong, and where.
    """
    try:
        return json.loads(text, parse_constant=refuse_constant, object_pairs_hook=unique_keys)
    except json.JSONDecodeError as error:
        raise BadConversation(f"is no JSON: {error.msg} at column {error.colno}") from error
    except ValueError as error:  # a number of thousands of digits
        raise BadConversation(f"is no JSON: {error}") from error
    except RecursionError as error:
        raise BadConversation("is nested too deeply") from error


def refuse_constant(name: str) -> NoReturn:
    raise BadConversation(f"has {name}, which is no JSON number")


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise BadConversation(f"has the key {twice!r} twice")
    return found


def read_jsonl(path: Path) -> Iterator[Found]:
    empty: list[int] = []
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            line = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
            if not line.strip():
                empty.append(number)
                continue
            # Empty lines at the end are an editor's; one in the middle hides a lost row.
            yield from (Found(earlier, None, "is empty") for earlier in empty)
            empty.clear()
            try:
                yield Found(number, parse_json(line.rstrip(b"\r\n").decode("utf-8")))
            except UnicodeDecodeError as error:
                yield Found(number, None, f"is not UTF-8 at byte {error.start + 1}")
            except BadConversation as error:
                yield Found(number, None, str(error))


def read_json(path: Path) -> Iterator[Found]:
    try:
        value = parse_json(decoded(path))
    except BadConversation as error:
        raise InvalidDataset(f"{path.name} {error}: give a list of conversations") from error
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        value = value["data"]
    if not isinstance(value, list):
        raise InvalidDataset(f"{path.name} is {kind_of(value)}: give a list of conversations")
    for number, row in enumerate(value, start=1):
        yield Found(number, row)


def read_csv(path: Path) -> Iterator[Found]:
    csv.field_size_limit(MAX_FIELD_BYTES)
    reader = csv.reader(io.StringIO(decoded(path), newline=""), strict=True)
    try:
        header = next(reader, [])
        if len(set(header)) != len(header):
            raise InvalidDataset(f"{path.name} has a column twice in its first line: rename one")
        for cells in reader:
            if len(cells) == len(header):
                yield Found(reader.line_num, dict(zip(header, cells, strict=True)))
            elif cells:
                yield Found(reader.line_num, None, f"has {len(cells)} cells, the header {len(header)}")
            else:
                yield Found(reader.line_num, None, "is empty")
    except csv.Error as error:
        raise InvalidDataset(
            f"{path.name} line {reader.line_num}: {error}. Quote the cell as csv asks"
        ) from error


def read_parquet(path: Path) -> Iterator[Found]:
    import pyarrow
    import pyarrow.parquet

    try:
        # No memory map: the file may be replaced while it is read.
        table = pyarrow.parquet.ParquetFile(path)
        number = 0
        for batch in table.iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield Found(number, row)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidDataset(f"{path.name} is no readable parquet file: {reason}. Write it again") from error


def decoded(path: Path) -> str:
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InvalidDataset(f"{path.name} line {line} is not UTF-8: save the file as UTF-8") from error


READERS: dict[str, Callable[[Path], Iterator[Found]]] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".parquet": read_parquet,
}
