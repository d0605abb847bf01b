"""The files that rows lie in: jsonl, json, csv, parquet and plain text, each read without holding more than it must.

Knows nothing of formats. A row that cannot be read is `Found` with its reason; a file that cannot be read any
further raises BadFile. Lines and rows are counted from 1; a csv row is counted by the line it ends on, a
document of plain text by the line it begins on.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

from raymill.train.limits import Limits, size
from raymill.train.values import STRICT, UnusableRow, kind_of, parse_json

Unit = Literal["line", "row"]

BOM = "\ufeff"
SPACE = " \t\r\n"
PACKED = {
    b"\x1f\x8b": "packed with gzip",
    b"PK\x03\x04": "a zip archive",
    b"\x28\xb5\x2f\xfd": "packed with zstd",
    b"BZh": "packed with bzip2",
    b"\xfd7zXZ": "packed with xz",
    b"PAR1": "parquet: name it .parquet",
}


class BadFile(Exception):
    """A file cannot be read, or not from here on; `str(error)` goes behind its name."""


class Found(NamedTuple):
    """One row as it lies in the file: its value, or why there is none."""

    number: int
    value: Any
    reason: str | None = None


Container = Callable[[Path, Limits], Iterator[Found]]


def read_jsonl(path: Path, limits: Limits) -> Iterator[Found]:
    check_text(path, limits.file_bytes)
    empty: list[int] = []
    for number, raw in lines(path, limits.row_bytes):
        if raw is not None and not raw.strip():
            empty.append(number)
            continue
        # Empty lines at the end are an editor's; one in the middle hides a lost row.
        yield from (Found(earlier, None, "is empty") for earlier in empty)
        empty.clear()
        if raw is None:
            yield Found(number, None, f"is longer than {size(limits.row_bytes)}")
            continue
        try:
            yield Found(number, parse_json(text_line(raw, number).rstrip("\r\n")))
        except UnusableRow as error:
            yield Found(number, None, str(error))


def read_json(path: Path, limits: Limits) -> Iterator[Found]:
    check_text(path, limits.whole_bytes, cure="write it as .jsonl")
    text = decoded(path)
    at = after_space(text, 0)
    if text[at : at + 1] == "[":
        yield from elements(text, at + 1, limits.row_bytes)
        return
    if at == len(text):
        return
    try:
        value = parse_json(text)
    except UnusableRow as error:
        raise BadFile(f"{error}: give a list of rows, or name it .jsonl if each line is one") from error
    if not isinstance(value, dict) or not isinstance(value.get("data"), list):
        raise BadFile(f"is {kind_of(value)}: give a list of rows")
    for number, row in enumerate(value["data"], start=1):
        yield Found(number, row)


def elements(text: str, at: int, row_bytes: int) -> Iterator[Found]:
    """The elements of a JSON list that begins before `at`, one at a time.

    Raises:
        BadFile: `text` is no list; what comes before has been told.
    """
    at = after_space(text, at)
    number = 0
    while number or text[at : at + 1] != "]":  # an empty list has no element
        number += 1
        begin = at
        try:
            value, at = STRICT.raw_decode(text, begin)
            found = Found(number, value)
        except (UnusableRow, ValueError, RecursionError) as error:
            found, at = damaged(text, begin, number, error)
        if at - begin > row_bytes:
            found = Found(number, None, f"is longer than {size(row_bytes)}")
        yield found
        at = after_space(text, at)
        if text[at : at + 1] == "]":
            break
        if text[at : at + 1] != ",":
            what = "the file ends" if at == len(text) else f"{text[at]!r} stands"
            raise BadFile(
                f"row {number}: {what} where a comma or the end of the list should be{place(text, at)}"
            )
        at = after_space(text, at + 1)
    if after_space(text, at + 1) != len(text):
        raise BadFile(f"row {number}: there is more after the end of the list{place(text, at + 1)}")


def damaged(text: str, begin: int, number: int, error: Exception) -> tuple[Found, int]:
    """An element that is JSON after all but breaks a rule, and where it ends.

    Raises:
        BadFile: nobody can tell where it ends.
    """
    if isinstance(error, json.JSONDecodeError):
        raise BadFile(f"row {number}: is no JSON: {error.msg}{place(text, error.pos)}") from error
    if isinstance(error, RecursionError):
        raise BadFile(f"row {number}: is nested too deeply{place(text, begin)}") from error
    try:
        _, end = json.JSONDecoder(parse_int=str).raw_decode(text, begin)
    except (ValueError, RecursionError):
        raise BadFile(f"row {number}: {error}{place(text, begin)}") from error
    return Found(number, None, str(error)), end


def read_csv(path: Path, limits: Limits) -> Iterator[Found]:
    check_text(path, limits.file_bytes)
    csv.field_size_limit(limits.row_bytes)
    source = CsvLines(path, limits.row_bytes)
    reader = csv.reader(source, strict=True)
    try:
        header = next(reader, [])
        if len(set(header)) != len(header):
            raise BadFile("has a column twice in its first line: rename one")
        for cells in reader:
            source.row_bytes = 0
            if len(cells) == len(header):
                yield Found(reader.line_num, dict(zip(header, cells, strict=True)))
            elif cells:
                yield Found(reader.line_num, None, f"has {len(cells)} cells, the header {len(header)}")
            else:
                yield Found(reader.line_num, None, "is empty")
    except csv.Error as error:
        raise BadFile(f"line {reader.line_num}: {error}. Quote the cell as csv asks") from error


class CsvLines:
    """Lines of a csv file as text. Counts what one row takes, since a quote that is left open takes all."""

    def __init__(self, path: Path, most_bytes: int) -> None:
        self._lines = lines(path, most_bytes)
        self._most_bytes = most_bytes
        self.row_bytes = 0

    def __iter__(self) -> Iterator[str]:
        for number, raw in self._lines:
            self.row_bytes += len(raw or b"")
            if raw is None or self.row_bytes > self._most_bytes:
                raise BadFile(
                    f"line {number}: the row is longer than {size(self._most_bytes)}. Is a quote left open?"
                )
            try:
                yield text_line(raw, number)
            except UnusableRow as error:
                raise BadFile(f"line {number}: {error}: save the file as UTF-8") from error


def read_text(path: Path, limits: Limits) -> Iterator[Found]:
    """Documents, which empty lines keep apart, each as {"text"}."""
    check_text(path, limits.file_bytes)
    document: list[str] = []
    begin = taken = 0
    for number, raw in lines(path, limits.row_bytes):
        if raw is None or taken + len(raw) > limits.row_bytes:
            raise BadFile(
                f"line {number}: the document is longer than {size(limits.row_bytes)}: part documents by an empty line"
            )
        try:
            line = text_line(raw, number).rstrip("\r\n")
        except UnusableRow as error:
            raise BadFile(f"line {number}: {error}: save the file as UTF-8") from error
        if line.strip():
            begin = begin or number
            document.append(line)
            taken += len(raw)
        elif document:
            yield Found(begin, {"text": "\n".join(document)})
            document, begin, taken = [], 0, 0
    if document:
        yield Found(begin, {"text": "\n".join(document)})


def check_text(path: Path, most_bytes: int, cure: str = "split it") -> None:
    """Refuse what is no text of ours before anything of it is unpacked or held."""
    there = path.stat().st_size
    if there > most_bytes:
        raise BadFile(f"has {size(there)}, the limit is {size(most_bytes)}: {cure}")
    with path.open("rb") as file:
        head = file.read(4096)
    for magic, what in PACKED.items():
        if head.startswith(magic):
            raise BadFile(f"is {what}" if ":" in what else f"is {what}: unpack it")
    if (
        head[:2] in (b"\xff\xfe", b"\xfe\xff")
        or head[::2].count(0) > len(head) // 3
        or (head[1::2].count(0) > len(head) // 3)
    ):
        raise BadFile("is UTF-16 or no text at all: save it as UTF-8")


def lines(path: Path, most_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """Each line with its number; None for one of more than `most_bytes`, which is passed over unread."""
    with path.open("rb") as file:
        yield from lines_of(file, most_bytes)


def lines_of(file: IO[bytes], most_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    number = 0
    while line := file.readline(most_bytes + 1):
        number += 1
        if len(line) > most_bytes and not line.endswith(b"\n"):
            while (rest := file.readline(1 << 20)) and not rest.endswith(b"\n"):
                pass
            yield number, None
        else:
            yield number, line


def text_line(raw: bytes, number: int) -> str:
    try:
        line = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UnusableRow(f"is not UTF-8 at byte {error.start + 1}") from error
    if line.startswith(BOM):
        if number > 1:
            raise UnusableRow("begins with a byte order mark, which belongs at the start of a file alone")
        line = line[1:]
    return line


def decoded(path: Path) -> str:
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise BadFile(f"line {line}: is not UTF-8: save the file as UTF-8") from error


def after_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in SPACE:
        at += 1
    return at


def place(text: str, at: int) -> str:
    line = text.count("\n", 0, at) + 1
    return f" (line {line}, column {at - text.rfind(chr(10), 0, at)})"
