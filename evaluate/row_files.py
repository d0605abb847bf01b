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
    """The rows in order; empty lines are passed over.

    Raises:
        Invalid: a line is no JSON, or the file is not what its name says.
    """
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            yield from pq.read_table(path).to_pylist()
        except pa.ArrowInvalid as error:
            raise Invalid(f"{path.name} is no parquet file: {error}") from error
        return
    number = 0
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        try:
            for line in file:
                number += 1
                if line.strip():
                    yield json.loads(line)
        except (ValueError, RecursionError) as error:
            raise Invalid(f"{path.name}, line {number} is no JSON: {error}") from error
        except (gzip.BadGzipFile, EOFError) as error:
            raise Invalid(f"{path.name} is no whole gzip file: {error}") from error
