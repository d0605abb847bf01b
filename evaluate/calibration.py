"""The importance matrix of a model, made once for all types, by llama.cpp in a process of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from raymill.evaluate.child import module_command, run_child
from raymill.evaluate.quantize import Metadata


@dataclass(frozen=True, kw_only=True)
class Importance:
    """A finished matrix."""

    path: Path
    """In llama.cpp's layout."""

    dataset: str
    """What it was measured on."""

    rows: int

    @property
    def metadata(self) -> Metadata:
        """What llama.cpp's own quantizer writes into a file that it made with a matrix."""
        return {
            "quantize.imatrix.file": self.path.name,
            "quantize.imatrix.dataset": self.dataset,
            "quantize.imatrix.chunks_count": self.rows,
        }


def measure_importance(
    f16: Path, rows: Sequence[Sequence[int]], dataset: str, work: Path, check: Callable[[], None]
) -> Importance:
    """Run `rows` (token ids) through the F16 file. A finished matrix of an earlier attempt is kept.

    Raises:
        ChildFailed: llama.cpp crashed, or showed none of its products; the message has its last words.
    """
    found = Importance(path=work / "imatrix.gguf", dataset=dataset, rows=len(rows))
    if found.path.is_file():
        return found
    texts, partial = work / "calibration.json", found.path.with_suffix(".partial")
    texts.write_text(json.dumps(rows), encoding="utf-8")
    command = module_command(
        "raymill.evaluate.importance_process",
        *(str(f16), str(os.cpu_count() or 1), str(texts), str(partial), dataset),
    )
    run_child(command, f"measuring what matters in {f16.stem}", work / "imatrix.log", check)
    partial.rename(found.path)
    return found
