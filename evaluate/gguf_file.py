"""What is really in a GGUF file: the type of each tensor, read back.

llama.cpp falls back silently to a larger type where a row's length does not fit a type's block (256 for
K-quants and IQ4_XS, 32 for Q8_0). These are mixtures by design (Q4_K_M holds Q6_K too); that is no fall-back.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

K_QUANTS = frozenset({"Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"})


@dataclass(frozen=True, kw_only=True)
class TensorReport:
    """Types of the tensors of one file."""

    types: dict[str, str]
    """Name of the tensor -> its type."""

    fallbacks: list[str]
    """Matrices that are not of the type asked for, nor of its mixture."""

    @property
    def counts(self) -> dict[str, int]:
        return dict(sorted(Counter(self.types.values()).items()))


def read_tensors(file: Path, asked: str) -> TensorReport:
    """The types in `file`, judged as a file of type `asked`, such as Q4_K_M."""
    from gguf import GGUFReader

    expected = K_QUANTS | {asked} if "_K" in asked or asked == "IQ4_XS" else {asked}
    types: dict[str, str] = {}
    fallbacks: list[str] = []
    for tensor in GGUFReader(file).tensors:
        kind = str(tensor.tensor_type.name)
        types[tensor.name] = kind
        # Vectors (norms, biases) stay F32 in every type: they are small, and no kernel multiplies them.
        is_matrix = sum(int(size) > 1 for size in tensor.shape) > 1
        if is_matrix and kind not in expected:
            fallbacks.append(tensor.name)
    return TensorReport(types=types, fallbacks=fallbacks)
