"""Weights in fewer bits for vLLM, each type by llm-compressor in a process of its own.

llm-compressor asks for versions of compressed-tensors and transformers that vLLM does not run with. Its two packages lie in a
folder apart, which only its own process looks into; vLLM reads what it writes with its own compressed-tensors.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from raymill.cluster.settings import Settings
from raymill.evaluate.child import module_command, run_child
from raymill.evaluate.compress_config import CompressedType
from raymill.evaluate.sizes import tensors_of
from raymill.policies.errors import Invalid

FOLDER = Path(sys.prefix) / "compressor"
"""Where `make setup` puts llm-compressor."""

BITS: dict[CompressedType, float] = {"FP8": 8, "AWQ": 4.25, "GPTQ": 4.125}
"""Of a weight in a layer; AWQ and GPTQ with a scale of 16 bits for each 128 weights, AWQ with a zero point."""

CARRIED = ("*.json", "*.jinja", "*.model", "*.txt", "README.md")
"""Tokenizer, template and settings of the model, which stand beside its new weights unchanged."""

WRITTEN = frozenset({"config.json", "model.safetensors.index.json"})
"""Of those, what the new weights have their own of."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What the child process makes of what."""

    source: str
    target: str
    type: CompressedType
    rows: str | None = None
    """JSON with token ids to calibrate on."""


class Compressor:
    """Runs the children, where a GPU may be; `actors.py` makes it remote."""

    def load(self) -> None:
        """Raises Invalid: llm-compressor is not here."""
        if not (FOLDER / "llmcompressor").is_dir():
            raise Invalid(f"llm-compressor is not in {FOLDER}: run `make setup` on this machine")

    def compress(self, source: str, target: str, kind: CompressedType, rows: str | None, log: str) -> None:
        """Write the weights of `source` into the folder `target`, which is there whole or not at all.

        Raises:
            ChildFailed: llm-compressor crashed or refused; the message has its last words.
        """
        place, partial = Path(target), Path(f"{target}.partial")
        if place.is_dir():
            return
        Settings().artifacts.here(Path(source))
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        order = {"source": source, "target": str(partial), "type": kind, "rows": rows}
        command = module_command("raymill.evaluate.compress_process", json.dumps(order))
        path = os.pathsep.join(filter(None, (str(FOLDER), os.environ.get("PYTHONPATH"))))
        run_child(
            command, f"compressing to {kind}", Path(log), lambda: None, more_environment={"PYTHONPATH": path}
        )
        carry(Path(source), partial)
        partial.rename(place)

    def predict(self, model: str, texts: str, base: str, log: str) -> None:
        """Keep what the model predicts in the folder `base` (`divergence.Base`). Raises ChildFailed."""
        if Path(base).is_dir():
            return
        Settings().artifacts.here(Path(model))
        partial = f"{base}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        command = module_command("raymill.evaluate.hf_divergence_process", "base", model, texts, partial)
        run_child(command, "predicting with the model", Path(log), lambda: None)
        Path(partial).rename(base)

    def measure(self, model: str, texts: str, base: str, report: str, log: str) -> None:
        """Write how far a model's predictions lie from those in `base` to `report`. Raises ChildFailed."""
        if Path(report).is_file():
            return
        partial = f"{report}.partial"
        command = module_command(
            "raymill.evaluate.hf_divergence_process", "compare", model, texts, base, partial
        )
        run_child(command, f"measuring {Path(model).name}", Path(log), lambda: None)
        Path(partial).rename(report)


def carry(source: Path, target: Path) -> None:
    """Copy what belongs to the model but is no weight."""
    for pattern in CARRIED:
        for file in source.glob(pattern):
            if file.name not in WRITTEN:
                shutil.copyfile(file, target / file.name)


def estimate(model: Path, types: Sequence[CompressedType]) -> dict[CompressedType, int]:
    """About how many bytes the weights of each type take, from the headers of the model's safetensors: matrices of layers in
    the type's bits, all else as it is stored."""
    sizes = dict.fromkeys(types, 0)
    for name, shape, stored in tensors_of(model):
        layer = len(shape) == 2 and not any(part in name for part in ("embed", "lm_head"))
        for kind in types:
            sizes[kind] += math.ceil(math.prod(shape) * BITS[kind] / 8) if layer else stored
    return sizes
