"""Rows of a parquet file, unpacked in a process of its own with a bound on its memory.

A parquet file of a megabyte can unpack to terabytes, by compression or by one long value that a dictionary
repeats, and what its footer says may be a lie. So the footer is asked first, and whatever the pages do then
happens in a child that the system stops. The child (`python -m`, below) writes each row as a line of JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raymill.train.containers import BadFile, Found, lines_of
from raymill.train.limits import Limits, size

BATCH_ROWS = 64

MOST_GROWTH = 1000
FREE_BYTES = 64 << 20
"""What unpacks to more than this must not have grown by more than MOST_GROWTH; text shrinks to a tenth."""

REFUSED = 3
"""Exit code of the child when it says itself what is wrong."""


def read_parquet(path: Path, limits: Limits) -> Iterator[Found]:
    command = [sys.executable, "-m", "raymill.train.parquet", str(path.absolute())]
    command += [str(limits.file_bytes), str(limits.rows), str(limits.memory_bytes)]
    # Arrow's own allocators and NumPy's threads set address space aside that they may never use.
    env = os.environ | {"ARROW_DEFAULT_MEMORY_POOL": "system", "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        try:
            for number, line in lines_of(child.stdout, limits.row_bytes):
                if line is None:
                    yield Found(number, None, f"is longer than {size(limits.row_bytes)}")
                elif line.endswith(b"\n"):
                    yield found(number, line)
            said = child.stderr.read().decode(errors="replace").strip()
            code = child.wait()
        finally:
            child.kill()
    if code == REFUSED:
        raise BadFile(said)
    if code != 0:
        raise BadFile(
            f"is damaged, or needs more than {size(limits.memory_bytes)} to unpack: write it again in smaller row groups"
        )


def found(number: int, line: bytes) -> Found:
    # Written by our child, so NaN is one of a float column that is no part of any format.
    value = json.loads(line)
    return Found(number, None, value) if isinstance(value, str) else Found(number, value)


def main(path: str, file_bytes: str, rows: str, memory_bytes: str) -> int:
    """The child. Its last words on stderr are the reason when it ends with REFUSED."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (int(memory_bytes), int(memory_bytes)))
    import pyarrow
    import pyarrow.parquet

    try:
        # No memory map: the file may be replaced while it is read.
        table = pyarrow.parquet.ParquetFile(path)
        check_footer(table.metadata, int(file_bytes), int(rows))
        write_rows(table, min(int(file_bytes), max(FREE_BYTES, MOST_GROWTH * Path(path).stat().st_size)))
    except BadFile as error:
        reason = str(error)
    except MemoryError:
        reason = f"needs more than {size(int(memory_bytes))} to unpack: write it again in smaller row groups"
    except (pyarrow.ArrowException, OSError) as error:
        reason = f"is no readable parquet file: {str(error).splitlines()[0][:200]}. Write it again"
    else:
        return 0
    sys.stderr.write(reason + "\n")
    return REFUSED


def check_footer(footer: Any, file_bytes: int, rows: int) -> None:
    """Refuse a file by what it says of itself."""
    if footer.num_rows > rows:
        raise BadFile(f"has {footer.num_rows} rows, the limit is {rows}: split it")
    unpacked = sum(footer.row_group(i).total_byte_size for i in range(footer.num_row_groups))
    if unpacked > file_bytes:
        raise BadFile(f"unpacks to {size(unpacked)}, the limit is {size(file_bytes)}: split it")


def write_rows(table: Any, most_bytes: int) -> None:
    unpacked = 0
    for batch in table.iter_batches(batch_size=BATCH_ROWS, use_threads=False):
        for index in range(batch.num_rows):
            line = row_line(batch.slice(index, 1)).encode()
            unpacked += len(line)
            if unpacked > most_bytes:
                raise BadFile(
                    f"unpacks to more than {size(most_bytes)}: split it, or write it without dictionaries"
                )
            sys.stdout.buffer.write(line + b"\n")
    sys.stdout.flush()


def row_line(row: Any) -> str:
    """One row as JSON; the reason as text when it is none."""
    try:
        value = row.to_pylist()[0]
    except UnicodeDecodeError as error:
        return json.dumps(f"has text that is not UTF-8 at byte {error.start + 1}")
    kept = {key: without_nulls(inner) for key, inner in value.items()}
    return json.dumps(kept, ensure_ascii=False, default=foreign)


def without_nulls(value: Any) -> Any:
    """A struct has all keys in every row: null stands for a key that this row has not."""
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [without_nulls(inner) for inner in value]
    return value


def foreign(value: Any) -> Any:
    """Dates, bytes and decimals are nothing that can be trained on; an object is refused where text must be."""
    return {"parquet": type(value).__name__}


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
