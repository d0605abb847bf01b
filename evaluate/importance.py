"""The importance matrix: for each weight matrix, the mean square of each column of what it is multiplied with.

As llama.cpp's tools/imatrix: every matrix product of a forward pass over calibration text is looked at through llama.cpp's
evaluation callback, and the squares of its right side are added up by column. Quantization then errs less where
inputs are large. The file has llama.cpp's own layout (`--imatrix` of its tools reads it), so it serves by hand too.

Experts' matrices (MUL_MAT_ID) and the output matrix are left out, the latter as llama.cpp does by default; they are quantized
without.

Shapes: N tokens, K columns of a weight matrix.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from raymill.evaluate.llama_cpp_native import load_model, predictions

F32 = 0
"""ggml's number for the type of activations."""


class Tensor(ctypes.Structure):
    """`struct ggml_tensor` of ggml 0.25; a test holds it against what the library says."""


Tensor._fields_ = [
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * 4),
    ("nb", ctypes.c_size_t * 4),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * 16),
    ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(Tensor) * 10),
    ("view_src", ctypes.c_void_p),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * 64),
    ("extra", ctypes.c_void_p),
    ("padding", ctypes.c_char * 8),
]


def ggml() -> ctypes.CDLL:
    """The library that knows ggml's operations by name, from the folder of llama-cpp-python's own."""
    folder = Path(llama_cpp.__file__).parent / "lib"
    library = ctypes.CDLL(str(next(folder.glob("*ggml-base.*"))))
    library.ggml_op_name.argtypes = [ctypes.c_int]
    library.ggml_op_name.restype = ctypes.c_char_p
    return library


class Collector:
    """Adds up squares while llama.cpp computes."""

    def __init__(self) -> None:
        self.sums: dict[str, NDArray[np.float64]] = {}
        self.counts: dict[str, int] = {}
        self._op_name = ggml().ggml_op_name
        self.callback = llama_cpp.ggml_backend_sched_eval_callback(self._look)

    def _look(self, address: int, ask: bool, _user: Any) -> bool:
        """llama.cpp asks first whether we want a node of its graph, then shows it computed."""
        tensor = Tensor.from_address(address)
        if ask:
            return self._wanted(tensor)
        self._add(weight_name(tensor), right_side(tensor))
        return True

    def _wanted(self, tensor: Tensor) -> bool:
        if self._op_name(tensor.op) != b"MUL_MAT":
            return False
        weights, inputs = tensor.src[0].contents, tensor.src[1].contents
        return weight_name(tensor).startswith("blk.") and inputs.type == F32 and weights.ne[2] == 1

    def _add(self, name: str, inputs_NK: NDArray[np.float32]) -> None:
        squares_K = np.einsum("nk,nk->k", inputs_NK, inputs_NK, dtype=np.float64)
        self.sums[name] = self.sums.get(name, 0) + squares_K
        self.counts[name] = self.counts.get(name, 0) + len(inputs_NK)


def weight_name(tensor: Tensor) -> str:
    """Of the left side. The scheduler may write it as `CPU#blk.0.attn_k.weight#0`."""
    name = bytes(tensor.src[0].contents.name).decode()
    return name.split("#")[1] if "#" in name else name


def right_side(tensor: Tensor) -> NDArray[np.float32]:
    """What a weight matrix is multiplied with, a row for each token."""
    inputs = tensor.src[1].contents
    size = inputs.ne[3] * inputs.nb[3]
    values = np.ndarray(
        shape=tuple(inputs.ne)[::-1],
        dtype=np.float32,
        buffer=(ctypes.c_char * size).from_address(inputs.data),
        strides=tuple(inputs.nb)[::-1],
    )
    return values.reshape(-1, inputs.ne[0])


def collect(model: str, rows: Sequence[Sequence[int]], threads: int) -> Collector:
    """Run every row (token ids, at most 512 each) through the GGUF file `model`, on the CPU."""
    collector = Collector()
    params = llama_cpp.llama_context_default_params()
    params.cb_eval = collector.callback
    params.op_offload = params.offload_kqv = False
    for _ in predictions(load_model(model, on_cpu=True), rows, threads, params):
        pass
    return collector


def save(collector: Collector, target: Path, dataset: str, chunks: int) -> None:
    """Write llama.cpp's own imatrix file."""
    from gguf import GGUFWriter

    writer = GGUFWriter(target, arch="")
    writer.add_string("general.type", "imatrix")
    writer.add_array("imatrix.datasets", [dataset])
    writer.add_uint32("imatrix.chunk_count", chunks)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name in sorted(collector.sums):
        writer.add_tensor(f"{name}.in_sum2", collector.sums[name].astype(np.float32)[None])
        writer.add_tensor(f"{name}.counts", np.array([[collector.counts[name]]], dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def load(source: Path) -> dict[str, NDArray[np.float32]]:
    """Name of a weight matrix -> mean squares_K, as llama.cpp's quantizer takes them."""
    from gguf import GGUFReader

    found = {tensor.name: tensor.data for tensor in GGUFReader(source).tensors}
    return {
        name.removesuffix(".in_sum2"): np.ascontiguousarray(
            sums.reshape(-1) / max(1.0, float(found[name.replace(".in_sum2", ".counts")].reshape(-1)[0])),
            dtype=np.float32,
        )
        for name, sums in found.items()
        if name.endswith(".in_sum2")
    }
