"""The child process that loads a GGUF file, and measures it where there are texts. Its output is the log.

    python -m raymill.evaluate.divergence_process load FILE THREADS
    python -m raymill.evaluate.divergence_process base FILE THREADS ROWS DIRECTORY
    python -m raymill.evaluate.divergence_process compare FILE THREADS ROWS DIRECTORY REPORT

ROWS is a JSON file with lists of token ids. `base` keeps the predictions in DIRECTORY, `compare` writes how far FILE lies
from them to REPORT, as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from raymill.evaluate.child import die_with_parent
from raymill.evaluate.divergence import Base, BaseWriter, Comparison, in_pieces
from raymill.evaluate.llama_cpp_native import load_model, predictions


def main() -> None:
    die_with_parent()
    what, file, threads, *paths = sys.argv[1:]
    model = load_model(file)
    if what == "load":
        return
    rows, directory = json.loads(Path(paths[0]).read_text(encoding="utf-8")), Path(paths[1])
    side = BaseWriter(directory) if what == "base" else Comparison(Base(directory))
    for targets_N, logits_NV in predictions(model, rows, int(threads)):
        for piece in in_pieces(targets_N, logits_NV):
            side.add(*piece)
    if isinstance(side, BaseWriter):
        side.close()
    else:
        Path(paths[2]).write_text(json.dumps(side.result().as_json()), encoding="utf-8")


if __name__ == "__main__":
    main()
