from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path

import pytest

from raymill.evaluate import fetch_converter
from raymill.policies.errors import RaymillError, Unavailable


def archive(path: Path, files: dict[str, str]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    return path


def test_only_the_converter_is_taken_from_the_archive(tmp_path: Path) -> None:
    source = archive(
        tmp_path / "a.tar.gz",
        {
            "x-1/vendor/llama.cpp/convert_hf_to_gguf.py": "main",
            "x-1/vendor/llama.cpp/conversion/llama.py": "llama",
            "x-1/vendor/llama.cpp/gguf-py/gguf/constants.py": "constants",
            "x-1/vendor/llama.cpp/gguf-py/tests/test_x.py": "no",
            "x-1/vendor/llama.cpp/src/llama.cpp": "no",
            "x-1/vendor/llama.cpp/conversion/../../../../evil.py": "no",
            "x-1/llama_cpp/llama.py": "no",
        },
    )
    fetch_converter.unpack(source, tmp_path / "out")
    taken = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*"))
    assert taken == ["conversion/llama.py", "convert_hf_to_gguf.py", "gguf-py/gguf/constants.py"]
    assert not (tmp_path / "evil.py").exists()


def test_an_archive_without_the_converter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RaymillError, match=r"a\.tar\.gz holds no vendor/llama\.cpp/convert_hf_to_gguf\.py"):
        fetch_converter.unpack(archive(tmp_path / "a.tar.gz", {"x-1/README.md": "hi"}), tmp_path / "out")


def test_a_converter_of_another_version_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    directory = fetch_converter.converter_directory()
    directory.mkdir(parents=True)
    (directory / "VERSION").write_text("0.0.1\n")
    with pytest.raises(Unavailable, match=r"converter is of version 0\.0\.1, .*run `python -m"):
        fetch_converter.converter_script()


def test_a_second_fetch_does_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_download(version: str, scratch: Path) -> Path:
        raise AssertionError(f"downloaded {version} to {scratch}")

    monkeypatch.setattr(fetch_converter, "download", no_download)
    assert (fetch_converter.fetch() / "conversion" / "llama.py").is_file()


def test_a_failing_download_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(
        Unavailable, match=r"cannot download the source of llama-cpp-python 0\.0\.7: .*No matching"
    ):
        fetch_converter.download("0.0.7", tmp_path)
