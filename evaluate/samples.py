"""Per-sample records: kept as they arrive, so that a killed attempt loses none, and published as parquet."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

Record = dict[str, Any]


class SampleLog:
    """An append-only file of JSON lines. The next attempt opens it and finds what was done."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.records: list[Record] = []
        whole = 0
        if path.is_file():
            with path.open("rb") as file:
                for line in file:
                    if not line.endswith(b"\n"):
                        break  # the writer was killed in the middle of this line
                    self.records.append(json.loads(line))
                    whole += len(line)
            os.truncate(path, whole)

    def add(self, records: Iterable[Record]) -> None:
        """Append `records` with one write."""
        new = list(records)
        with self.path.open("ab") as file:
            file.write(b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in new))
        self.records += new


def write_parquet(records: Sequence[Record], path: Path) -> None:
    """Write `records`, in the order given, as one parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(records)), path)
