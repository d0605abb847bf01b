"""Compile the operation that DeepSpeed needs on a CPU, once per machine, before the first training run.

    python -m raymill.train.prewarm

Without it the first run waits for the compiler, 30 to 65 s. Returns at once when it was compiled before by
the same versions. Sets nothing up on a machine with GPUs, where the operation is not used.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from pathlib import Path

OPERATION = "deepspeed_shm_comm"
VARIABLE = "TORCH_EXTENSIONS_DIR"


def extensions() -> Path:
    """Where torch puts what it compiles. By default beside the packages, whose paths are part of what is compiled: two
    installations that share a folder would compile anew at each other's runs."""
    if given := os.environ.get(VARIABLE):
        return Path(given)
    packages = Path(sys.prefix)
    writable = os.access(packages, os.W_OK)
    return packages / "torch_extensions" if writable else Path.home() / ".cache" / "torch_extensions"


def use_extensions() -> None:
    """Have torch look there, and compile by the ninja that was installed with it: nodes need not have ours, or any, in their
    path, and another version would compile anew."""
    os.environ[VARIABLE] = str(extensions())
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"


def stamp() -> Path:
    """The file that says it was compiled by these versions; torch itself does not compare them."""
    return extensions() / f"raymill-{OPERATION}-torch-{version('torch')}-deepspeed-{version('deepspeed')}"


def prewarm() -> bool:
    """True when something was compiled."""
    if stamp().is_file():
        return False
    for lock in extensions().glob(f"**/{OPERATION}/lock"):
        # A compiler that was killed leaves its lock, and every later run would wait for it for ever.
        lock.unlink()
    use_extensions()
    from deepspeed.accelerator import get_accelerator

    builder = get_accelerator().create_op_builder("ShareMemCommBuilder")
    if builder is not None and builder.is_compatible():
        builder.load()
    stamp().parent.mkdir(parents=True, exist_ok=True)
    stamp().touch()
    return True


if __name__ == "__main__":
    prewarm()
