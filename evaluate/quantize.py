"""GGUF files of smaller types from one F16 file, each by llama.cpp in a process of its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raymill.evaluate.child import module_command, run_child
from raymill.evaluate.gguf_file import TensorReport, read_tensors
from raymill.registry.artifacts import sha256_file


@dataclass(frozen=True, kw_only=True)
class QuantizedFile:
    """One finished file, and what was read back from it."""

    type: str
    path: Path
    size_bytes: int
    sha256: str
    tensors: TensorReport

    def as_json(self) -> dict[str, Any]:
        """As it stands in the result of the quantize step."""
        return {
            "type": self.type,
            "file": self.path.name,
            "size_bytes": self.size_bytes,
            "sha256": self.sha256,
            "tensors": self.tensors.counts,
            "tensor_types": self.tensors.types,
            "fallbacks": self.tensors.fallbacks,
        }


def quantize(f16: Path, target: Path, kind: str, work: Path, check: Callable[[], None]) -> QuantizedFile:
    """Write `target` as a file of type `kind`. A finished file of an earlier attempt is kept.

    Raises:
        ChildFailed: llama.cpp crashed or refused; the message has its last words.
    """
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".partial")
        if kind == "F16":
            shutil.copyfile(f16, partial)
        else:
            command = module_command(
                "raymill.evaluate.quantize_process", str(f16), str(partial), kind, str(os.cpu_count() or 1)
            )
            run_child(command, f"quantizing {f16.stem} to {kind}", work / f"quantize-{kind}.log", check)
        partial.rename(target)
    return QuantizedFile(
        type=kind,
        path=target,
        size_bytes=target.stat().st_size,
        sha256=sha256_file(target),
        tensors=read_tensors(target, kind),
    )
