"""The child process that quantizes one GGUF file with llama.cpp. Its output is the log.

python -m raymill.evaluate.quantize_process SOURCE TARGET TYPE THREADS
"""

from __future__ import annotations

import ctypes
import sys

import llama_cpp

from raymill.evaluate.child import die_with_parent


def main() -> None:
    die_with_parent()
    _, source, target, kind, threads = sys.argv
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    params.nthread = int(threads)
    code = llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params))
    if code != 0:
        sys.exit(f"llama_model_quantize ended with {code}")


if __name__ == "__main__":
    main()
