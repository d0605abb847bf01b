"""How large a data set file may be. Checked before or while it is read, so that no file can take all memory."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    row_bytes: int = 16 << 20
    """One row as it lies in the file; also one cell of a csv file."""

    file_bytes: int = 16 << 30
    """A file that is read row by row; of parquet, what its pages unpack to."""

    whole_bytes: int = 1 << 30
    """A json file, which is held in memory as a whole."""

    memory_bytes: int = 2 << 30
    """Address space of the process that unpacks parquet."""

    rows: int = 20_000_000
    """Rows in a file, bad ones too."""


LIMITS = Limits()


def size(count: int) -> str:
    """Bytes for a person: 16 MiB."""
    for unit, shift in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if count >= 1 << shift:
            return f"{count / (1 << shift):.4g} {unit}"
    return f"{count} bytes"
