"""The child process that asks llama.cpp which type each tensor would get, by its quantizer's dry run.

    python -m raymill.evaluate.sizes_process SOURCE REPORT TYPE...

REPORT becomes JSON: type asked for -> {tensor: its type}. llama.cpp tells the types in its log alone, a line for each
tensor: `[   1/  21] output.weight - [ 256, 330, 1, 1], type = f16, size = 0.16 MiB -> 0.07 MiB (q6_K)`.
"""

from __future__ import annotations

import ctypes
import json
import re
import sys
from pathlib import Path
from typing import Any

import llama_cpp

from raymill.evaluate.child import die_with_parent

LINE = re.compile(r"^\[ *\d+/ *\d+\] +(\S+) .*type = +(\w+), size = [^(\n]*(?:\((\w+)\))?$", re.MULTILINE)


def tensor_types(source: str, kind: str) -> dict[str, str]:
    """Name of each tensor -> the type that it would have in a file of type `kind`, in ggml's spelling in capitals."""
    said: list[str] = []

    @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
    def listen(_level: int, text: bytes, _user: Any) -> None:
        said.append(text.decode(errors="replace"))

    llama_cpp.llama_log_set(listen, ctypes.c_void_p(0))
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    params.dry_run = True
    code = llama_cpp.llama_model_quantize(source.encode(), b"", ctypes.byref(params))
    log = "".join(said)
    if code != 0:
        sys.exit(f"llama_model_quantize ended with {code}: {log[-500:]}")
    return {name: (becomes or was).upper() for name, was, becomes in LINE.findall(log)}


def main() -> None:
    die_with_parent()
    _, source, report, *types = sys.argv
    llama_cpp.llama_backend_init()
    found = {kind: tensor_types(source, kind) for kind in types}
    Path(report).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
