"""The shape of the repository: rooms, links, what a light import may pull in, what no file may tell."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LINKS = ROOT / "src" / "raymill"
ROOMS = {"policies", "registry", "cluster", "train", "tune", "evaluate", "serve", "client"}
HEAVY = {"ray", "torch", "sqlalchemy", "transformers", "datasets", "deepspeed", "vllm", "psycopg"}
LIGHT_CONFIGS = (
    "train/config.py",
    "train/dataset_config.py",
    "train/methods.py",
    "train/compatibility.py",
    "tune/config.py",
    "evaluate/config.py",
    "evaluate/base_config.py",
    "evaluate/benchmark_config.py",
    "serve/llm/config.py",
    "serve/gateway/config.py",
    "registry/provider_settings.py",
    "registry/drift_config.py",
    "policies/errors.py",
)

IMPORT_EACH = """
import importlib, json, sys
heavy, names = json.loads(sys.argv[1])
found = {}
for name in names:
    importlib.import_module(name)
    found[name] = sorted(set(heavy) & sys.modules.keys())
print(json.dumps(found))
"""


def run_python(code: str, *arguments: str, cwd: Path = ROOT) -> str:
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def repository_files() -> list[Path]:
    """What git tracks, or would track."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip("not a git checkout, so nothing says which files belong to it")
    paths = (ROOT / name for name in done.stdout.split("\0") if name)
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def test_the_links_are_exactly_the_rooms_and_relative() -> None:
    links = {path.name: path for path in LINKS.iterdir()}
    assert set(links) == ROOMS
    assert {name: str(path.readlink()) for name, path in links.items()} == {
        room: f"../../{room}" for room in ROOMS
    }
    assert all(path.is_dir() for path in links.values())


def test_set_up_mends_links_that_were_checked_out_as_files(tmp_path: Path) -> None:
    names = tmp_path / "src" / "raymill"
    names.mkdir(parents=True)
    for room in ROOMS:
        (tmp_path / room).mkdir()
        (names / room).write_text(f"../../{room}")
    command = ["make", "--file", str(ROOT / "Makefile"), "--directory", str(tmp_path), "links"]
    for _ in range(2):  # a second time finds nothing to do
        subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert {path.name: str(path.readlink()) for path in names.iterdir()} == {
            room: f"../../{room}" for room in ROOMS
        }


def test_no_room_is_a_package_of_its_own() -> None:
    # With an __init__.py, `import evaluate` in the repository's root would find ours and break lm-eval.
    assert not (LINKS / "__init__.py").exists()
    assert [room for room in sorted(ROOMS) if (ROOT / room / "__init__.py").exists()] == []


def test_the_other_evaluate_is_still_found_from_the_root() -> None:
    # find_spec is what `import` looks with; to run that package takes half a minute and proves no more.
    code = "from importlib.util import find_spec; print(find_spec('evaluate').origin)"
    code += "; print(*find_spec('raymill.evaluate').submodule_search_locations)"
    other, ours = run_python(code).splitlines()
    assert Path(other).parts[-3:] == ("site-packages", "evaluate", "__init__.py")
    assert Path(ours).resolve() == ROOT / "evaluate"


def light_modules() -> list[str]:
    """Modules of `client/`, and the configuration modules that it may use."""
    files = sorted((ROOT / "client").rglob("*.py")) + [ROOT / name for name in LIGHT_CONFIGS]
    names = (path.relative_to(ROOT).with_suffix("") for path in files if path.exists())
    return [".".join(("raymill", *name.parts)).removesuffix(".__init__") for name in names]


def test_light_modules_import_nothing_heavy() -> None:
    modules = light_modules()
    assert "raymill.policies.errors" in modules
    found = json.loads(run_python(IMPORT_EACH, json.dumps([sorted(HEAVY), modules])))
    assert {name: heavy for name, heavy in found.items() if heavy} == {}


def test_no_file_names_a_machine_or_holds_a_private_key() -> None:
    # Put together here, so that this file is not its own first finding.
    machine = re.compile(r"(?<![\w/.~*-])/(?:" + "root|work" + r")(?![\w-])")
    private_key = re.compile("-----BEGIN [A-Z ]*" + "PRIVATE KEY-----")
    findings = []
    for path in repository_files():
        text = path.read_bytes().decode("utf-8", errors="replace")
        for number, line in enumerate(text.splitlines(), start=1):
            if machine.search(line) or private_key.search(line):
                findings.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert findings == []
