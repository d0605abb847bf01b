"""Set-up step: take llama.cpp's HF -> GGUF converters from llama-cpp-python's own source archive.

    python -m raymill.evaluate.fetch_converter

The wheel has no converter, and the one on PyPI by that name is not by llama.cpp's authors. pip downloads
the archive of the version that is installed, from whatever index pip is configured with, so converter
and library are of one commit. It goes to `<prefix>/share/raymill/llama.cpp`; a second call returns at once.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

from raymill.policies.errors import RaymillError, Unavailable

PACKAGE = "llama-cpp-python"
STAMP = "VERSION"
SCRIPT = "convert_hf_to_gguf.py"
LORA_SCRIPT = "convert_lora_to_gguf.py"
WANTED = (SCRIPT, LORA_SCRIPT, "LICENSE", "conversion/", "gguf-py/gguf/")
"""What is taken of `vendor/llama.cpp/`. Its gguf package is newer than the one on PyPI, and needed."""


def converter_directory() -> Path:
    """Where the converter lies in this Python environment."""
    return Path(sys.prefix) / "share" / "raymill" / "llama.cpp"


def installed_version() -> str:
    """Raises:
    Unavailable: llama-cpp-python is not installed.
    """
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise Unavailable(
            f"{PACKAGE} is not installed: install the extra `cpu` or `gpu` of raymill"
        ) from None


def converter_script(name: str = SCRIPT) -> Path:
    """A converter, if it is of the installed version.

    Raises:
        Unavailable: it was never fetched, or is of another version.
    """
    directory, version = converter_directory(), installed_version()
    stamp = directory / STAMP
    found = stamp.read_text(encoding="utf-8").strip() if stamp.is_file() else "none"
    if found == version and not (directory / name).is_file():
        found += f" without {name}"
    if found != version:
        raise Unavailable(
            f"llama.cpp's converter is of version {found}, {PACKAGE} of {version}: "
            "run `python -m raymill.evaluate.fetch_converter`"
        )
    return directory / name


def fetch() -> Path:
    """Download and unpack the converter, unless it is there. Returns its directory."""
    directory, version = converter_directory(), installed_version()
    try:
        converter_script(LORA_SCRIPT)
        return converter_script().parent
    except Unavailable:
        directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix="fetch-") as scratch:
        archive = download(version, Path(scratch))
        unpacked = Path(scratch) / "llama.cpp"
        unpack(archive, unpacked)
        (unpacked / STAMP).write_text(version + "\n", encoding="utf-8")
        shutil.rmtree(directory, ignore_errors=True)
        unpacked.rename(directory)
    return directory


def download(version: str, scratch: Path) -> Path:
    """The source archive, by pip and its configuration.

    Raises:
        Unavailable: pip cannot get it; the message has pip's last line.
    """
    # `--no-binary` names this one package: with `:all:` pip would also build its build tools from source.
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"),
        *("--no-binary", PACKAGE, "--dest", str(scratch), f"{PACKAGE}=={version}"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "pip said nothing").splitlines()[-1]
        raise Unavailable(
            f"cannot download the source of {PACKAGE} {version}: {said}; check pip's index settings"
        )
    return next(scratch.glob("*.tar.gz"))


def unpack(archive: Path, target: Path) -> None:
    """Write the files of WANTED below `target`.

    Raises:
        RaymillError: the archive does not hold the converter.
    """
    with tarfile.open(archive) as tar:
        for member in tar:
            path = wanted_path(member.name)
            if path is None or not member.isfile():
                continue
            content = tar.extractfile(member)
            assert content is not None
            out = target / path
            out.parent.mkdir(parents=True, exist_ok=True)
            with content, out.open("wb") as file:
                shutil.copyfileobj(content, file)
    if not (target / SCRIPT).is_file():
        raise RaymillError(f"{archive.name} holds no vendor/llama.cpp/{SCRIPT}: pin another {PACKAGE}")


def wanted_path(name: str) -> PurePosixPath | None:
    """Path below `vendor/llama.cpp/` of a member that we take; None for the others."""
    parts = PurePosixPath(name).parts
    if parts[1:3] != ("vendor", "llama.cpp") or ".." in parts:
        return None
    path = PurePosixPath(*parts[3:])
    if any(
        str(path) == wanted or (wanted.endswith("/") and str(path).startswith(wanted)) for wanted in WANTED
    ):
        return path
    return None


def main() -> int:
    try:
        directory = fetch()
    except RaymillError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"llama.cpp's converter {installed_version()} lies in {directory}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
