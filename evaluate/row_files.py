"""Files of questions that a caller brings: jsonl, jsonl.gz or parquet, a row each. Knows no layout."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raymill.policies.errors import Invalid, NotFound
from raymill.registry.artifacts import sha256_file


def check_file(path: Path, sha256: str | None, wanted: str) -> None:
    """
    Args:
        sha256: of the file, in hex; None: any will do.
        wanted: what the file should be, for the message.

    Raises:
        NotFound: there is no such file.
        Invalid: it is another file than `sha256` says.
    """
    if not path.is_file():
        raise NotFound(f"there is no file {path}: give {wanted}")
    if sha256 is not None and (found := sha256_file(path)) != sha256:
        raise Invalid(f"{path.name} has sha256 {found[:12]}…, the task says {sha256[:12]}…: it has changed")


def rows_of(path: Path) -> Iterator[Any]:
    """The rows in their order; lines without anything are none.

    Raises:
        Invalid: a line is no JSON; the message has its number.
    """
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        yield from pq.read_table(path).to_pylist()
        return
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise Invalid(f"{path.name}, line {number} is no JSON: {error}") from error
