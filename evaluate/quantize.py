"""GGUF files of smaller types from one F16 file, each by llama.cpp in a process of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from raymill.evaluate.child import module_command, run_child
from raymill.evaluate.gguf_file import TensorReport, read_tensors
from raymill.evaluate.quantize_config import GgufType

Metadata = Mapping[str, str | int | float]


@dataclass(frozen=True, kw_only=True)
class Order:
    """What the child process makes of what."""

    source: str
    target: str
    type: str
    threads: int
    importance: str | None = None
    """An importance matrix in llama.cpp's layout."""

    metadata: Metadata = field(default_factory=dict)
    """Keys that are written into the file; of a text at most 127 bytes."""


@dataclass(frozen=True, kw_only=True)
class QuantizedFile:
    """One finished file, and what was read back from it."""

    type: GgufType
    path: Path
    size_bytes: int
    tensors: TensorReport

    def as_json(self) -> dict[str, Any]:
        """As it stands in the result of the quantize step, but for its digest."""
        return {
            "type": self.type,
            "file": self.path.name,
            "size_bytes": self.size_bytes,
            "tensors": self.tensors.counts,
            "tensor_types": self.tensors.types,
            "fallbacks": self.tensors.fallbacks,
        }


def quantize(
    f16: Path,
    target: Path,
    kind: GgufType,
    work: Path,
    check: Callable[[], None],
    *,
    importance: Path | None = None,
    metadata: Metadata | None = None,
) -> QuantizedFile:
    """Write `target` as a file of type `kind`. A finished file of an earlier attempt is kept.

    Raises:
        ChildFailed: llama.cpp crashed or refused; the message has its last words.
    """
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".partial")
        order = Order(
            source=str(f16),
            target=str(partial),
            type=kind,
            threads=os.cpu_count() or 1,
            importance=None if importance is None else str(importance),
            metadata=metadata or {},
        )
        command = module_command("raymill.evaluate.quantize_process", json.dumps(asdict(order)))
        run_child(command, f"quantizing {f16.stem} to {kind}", work / f"quantize-{kind}.log", check)
        partial.rename(target)
    return QuantizedFile(
        type=kind, path=target, size_bytes=target.stat().st_size, tensors=read_tensors(target, kind)
    )
