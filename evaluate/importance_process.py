"""The child process that measures an importance matrix. Its output is the log.

python -m raymill.evaluate.importance_process FILE THREADS ROWS TARGET DATASET
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from raymill.evaluate.child import die_with_parent
from raymill.evaluate.importance import collect, save


def main() -> None:
    die_with_parent()
    _, file, threads, rows, target, dataset = sys.argv
    ids = json.loads(Path(rows).read_text(encoding="utf-8"))
    collector = collect(file, ids, int(threads))
    if not collector.sums:
        sys.exit("llama.cpp showed no matrix product: its graph is not one that we know")
    save(collector, Path(target), dataset, len(ids))
    sys.stdout.write(f"{len(collector.sums)} matrices, {len(ids)} rows, {sum(map(len, ids))} tokens\n")


if __name__ == "__main__":
    main()
