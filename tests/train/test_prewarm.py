"""What DeepSpeed compiles is found again, whatever a node has in its path."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from raymill.train import prewarm


def test_our_own_ninja_compiles_beside_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"PATH": "/usr/bin"})
    prewarm.use_extensions()
    assert os.environ[prewarm.VARIABLE] == str(Path(sys.prefix) / "torch_extensions")
    ninja = shutil.which("ninja", path=os.environ["PATH"])
    assert ninja is not None
    assert Path(ninja).parent == Path(sys.executable).parent


def test_a_folder_that_is_named_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {prewarm.VARIABLE: str(tmp_path)})
    prewarm.use_extensions()
    assert os.environ[prewarm.VARIABLE] == str(tmp_path)
    assert prewarm.stamp().parent == tmp_path
