"""How large GGUF files will be, before they are made, and whether the disk has room for them.

Twice: from the shapes in the model's safetensors, before anything is written (an estimate, within some percent); and from the
F16 file by llama.cpp's own dry run, which names the type of every tensor (exact but for the metadata that is added).

Sizes are bytes.
"""

from __future__ import annotations

import json
import math
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from raymill.evaluate.child import module_command, run_child
from raymill.evaluate.quantize_config import GgufType
from raymill.policies.errors import Conflict

BITS: dict[GgufType, float] = {
    "F16": 16,
    "BF16": 16,
    "Q8_0": 8.5,
    "Q6_K": 6.5625,
    "Q5_K_M": 5.7,
    "Q4_K_M": 4.9,
    "IQ4_XS": 4.4,
    "Q3_K_M": 4.0,
    "Q2_K": 3.2,
}
"""Of a weight, in the mean over the matrices of a Llama; K-quants are mixtures."""

HEAD_BITS = 6.5625
"""K-quants hold the output matrix in Q6_K, the type with the most bits among them."""

ODD_BITS = 8.5
"""Where a row's length is no multiple of 256, a K-quant falls back to a type with at most so many."""

METADATA_BYTES = 1 << 20
"""The vocabulary, for one; part of the estimate alone."""

ALIGNMENT = 32


class NoRoom(Conflict):
    """The disk cannot hold what would be written."""

    code = "no_room"


def estimate(model: Path, types: Sequence[GgufType]) -> dict[GgufType, int]:
    """About how large a file of each type will be, from the model in Hugging Face layout."""
    shapes = dict(shapes_of(model))
    return {
        kind: sum(tensor_bytes(*each, kind) for each in shapes.items()) + METADATA_BYTES for kind in types
    }


def shapes_of(model: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor, from the headers of the safetensors files; no weight is read."""
    yield from ((name, shape) for name, shape, _ in tensors_of(model))


def tensors_of(model: Path) -> Iterator[tuple[str, tuple[int, ...], int]]:
    """Name, shape and stored bytes of every tensor."""
    for path in sorted(model.glob("*.safetensors")):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            start, end = entry["data_offsets"]
            yield name, tuple(entry["shape"]), end - start


def tensor_bytes(name: str, shape: tuple[int, ...], kind: GgufType) -> int:
    """Vectors (norms, biases) are F32 in every type."""
    count = math.prod(shape)
    if sum(size > 1 for size in shape) < 2:
        return 4 * count
    bits = BITS[kind]
    if "K" in kind or kind == "IQ4_XS":
        if "embed" in name or "lm_head" in name:
            bits = max(bits, HEAD_BITS)
        if shape[-1] % 256:
            bits = max(bits, ODD_BITS)
    return math.ceil(count * bits / 8)


def planned(
    f16: Path, types: Sequence[GgufType], work: Path, check: Callable[[], None]
) -> dict[GgufType, int]:
    """How large a file of each type will be, by llama.cpp's dry run over the F16 file.

    Raises:
        ChildFailed: llama.cpp refused the file; the message has its last words.
    """
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader

    report = work / "sizes.json"
    command = module_command("raymill.evaluate.sizes_process", str(f16), str(report), *types)
    run_child(command, f"planning {', '.join(types)} of {f16.stem}", work / "sizes.log", check)
    found: dict[GgufType, dict[str, str]] = json.loads(report.read_text(encoding="utf-8"))
    reader = GGUFReader(f16)
    sizes: dict[GgufType, int] = {}
    for kind, by_tensor in found.items():
        total = int(reader.data_offset)
        for tensor in reader.tensors:
            block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[by_tensor[tensor.name]]]
            size = int(tensor.n_elements) // block * block_bytes
            total += -(-size // ALIGNMENT) * ALIGNMENT
        sizes[kind] = total
    return sizes


def require_room(directory: Path, needed: Mapping[str, int]) -> int:
    """Returns the free bytes of the disk.

    Raises:
        NoRoom: they are fewer than all of `needed` together; the message has what is needed for what.
    """
    free = shutil.disk_usage(directory).free
    total = sum(needed.values())
    if total > free:
        raise NoRoom(
            f"{shown(total)} are to be written ({listed(needed)}), but {shown(free)} are free: make room, ask for "
            "fewer types, or lower verify.tokens"
        )
    return free


def listed(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{what} {shown(size)}" for what, size in sizes.items())


def shown(size: int) -> str:
    """In MB, or GB where that is shorter."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
