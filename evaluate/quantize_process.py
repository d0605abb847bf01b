"""The child process that quantizes one GGUF file with llama.cpp. Its output is the log.

    python -m raymill.evaluate.quantize_process JOB

JOB is JSON with the fields of `quantize.Order`.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path
from typing import Any

import llama_cpp

from raymill.evaluate.child import die_with_parent
from raymill.evaluate.quantize import Metadata, Order

BUFFER_BYTES = 256 << 20
"""Of rows at once: llama.cpp's default of 8 GiB holds a whole tensor three times."""


def overrides(metadata: Metadata) -> Any:
    """As llama.cpp takes them: one more, without a key, ends the list."""
    found = (llama_cpp.llama_model_kv_override * (len(metadata) + 1))()
    for override, (key, value) in zip(found, metadata.items(), strict=False):
        override.key = key.encode()
        if isinstance(value, str):
            override.tag, override.value.val_str = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_STR, value.encode()[:127]
        elif isinstance(value, int):
            override.tag, override.value.val_i64 = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_INT, value
        else:
            override.tag, override.value.val_f64 = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_FLOAT, value
    return found


def importance_data(path: str) -> Any:
    """As llama.cpp takes it: one more, without a name, ends the list. It keeps the numbers alive."""
    from raymill.evaluate.importance import load

    matrix = load(Path(path))
    found = (llama_cpp.llama_model_imatrix_data * (len(matrix) + 1))()
    for entry, (name, squares_K) in zip(found, matrix.items(), strict=False):
        entry.name = name.encode()
        entry.data = squares_K.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entry.size = len(squares_K)
    found.kept = matrix
    return found


def main() -> None:
    die_with_parent()
    order = Order(**json.loads(sys.argv[1]))
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_quantize_default_params()
    params.nthread = order.threads
    params.max_buf_size = BUFFER_BYTES
    if order.type == "F16":
        params.only_copy = True
    else:
        params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{order.type}")
    if order.metadata:
        params.kv_overrides = overrides(order.metadata)
    if order.importance is not None:
        params.imatrix = importance_data(order.importance)
    code = llama_cpp.llama_model_quantize(order.source.encode(), order.target.encode(), ctypes.byref(params))
    if code != 0:
        sys.exit(f"llama_model_quantize ended with {code}")


if __name__ == "__main__":
    main()
