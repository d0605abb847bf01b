"""The Dockerfile as Docker would read it; no daemon is asked, so that nothing is pulled."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest

from raymill.cluster.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
INSTRUCTIONS = {
    *("ARG", "FROM", "RUN", "ENV", "WORKDIR", "COPY"),
    *("USER", "VOLUME", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"),
}


class Stage(NamedTuple):
    base: str
    lines: list[tuple[str, str]]
    """Instruction and its text."""


def instructions() -> list[tuple[str, str]]:
    text = (ROOT / "Dockerfile").read_text()
    text = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    lines = re.sub(r"\s*\\\n\s*", " ", text).splitlines()
    found = [(name, rest) for name, _, rest in (line.strip().partition(" ") for line in lines) if name]
    assert {name for name, _ in found} <= INSTRUCTIONS
    return found


def arguments() -> dict[str, str]:
    """Those before the first stage, with what they refer to put in."""
    known: dict[str, str] = {}
    for name, rest in instructions():
        if name == "FROM":
            break
        key, value = rest.split("=", 1)
        known[key] = re.sub(r"\$\{(\w+)\}", lambda match: known[match[1]], value)
    return known


def stages() -> dict[str, Stage]:
    found: dict[str, Stage] = {}
    current = Stage("", [])
    for name, rest in instructions():
        if name == "FROM":
            base, _, alias = rest.partition(" AS ")
            current = found[alias] = Stage(base, [])
        else:
            current.lines.append((name, rest))
    return found


def history(name: str) -> list[tuple[str, str]]:
    """What an image is made of, its base stages first."""
    stage = stages()[name]
    return [*(history(stage.base) if stage.base in stages() else []), *stage.lines]


def last(name: str, instruction: str) -> str:
    return [rest for found, rest in history(name) if found == instruction][-1]


def ignored(path: str) -> bool:
    """By .dockerignore, whose last line that fits decides; names of whole folders fit what lies below."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    decided = False
    for line in lines:
        pattern = line.removeprefix("!")
        if pattern in {"*", path} or path.startswith(f"{pattern}/"):
            decided = not line.startswith("!")
    return decided


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_an_image_runs_the_supervisor_as_nobody_special(device: str) -> None:
    assert last(device, "USER") == "1000:1000"
    settings = Settings.model_fields
    assert last(device, "EXPOSE") == str(settings["port"].default)
    assert f":{settings['port'].default}/healthz" in last(device, "HEALTHCHECK")
    assert json.loads(last(device, "CMD")) == ["python", "-m", "raymill.cluster.supervisor"]
    assert json.loads(last(device, "ENTRYPOINT"))[0] == "tini"
    environment = dict(
        pair.split("=", 1) for name, rest in history(device) if name == "ENV" for pair in shlex.split(rest)
    )
    assert last(device, "VOLUME") == environment["RAYMILL_HOME"]
    assert [name for name in environment if re.search("TOKEN|PASSWORD|SECRET|KEY", name)] == []


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_it_installs_as_make_setup_does(device: str) -> None:
    runs = [rest for name, rest in stages()[f"{device}-build"].lines if name == "RUN"]
    asked = [shlex.split(run)[1:3] for run in runs if run.startswith("make ")]
    assert asked == [["packages", f"DEVICE={device}"], ["setup", f"DEVICE={device}"]]
    # Nothing that was used to build stays but what was installed.
    copied = [rest for name, rest in stages()[device].lines if name == "COPY"]
    assert copied == [f"--from={device}-build /opt/raymill /opt/raymill"]


def test_base_images_are_arguments_with_fixed_versions_and_no_registry() -> None:
    known = arguments()
    bases = {stage.base for stage in stages().values()} - stages().keys()
    assert bases == {"${CPU_BASE}", "${GPU_BASE}"}
    for name in ("CPU_BASE", "GPU_BASE"):
        image, _, tag = known[name].partition(":")
        assert re.match(r"\d+\.\d+\.\d+", tag)
        assert "." not in image.split("/")[0]
    assert known["PYTHON_VERSION"] in known["CPU_BASE"]
    (version,) = re.findall(r"UV_VERSION := (\S+)", (ROOT / "Makefile").read_text())
    assert re.findall(r"uv==(\S+)", (ROOT / "Dockerfile").read_text()) == [version]


def test_nothing_but_what_is_installed_from_is_sent_to_the_builder() -> None:
    rooms = {link.name for link in (ROOT / "src" / "raymill").iterdir()}
    needed = rooms | {"src", "constraints", "examples", "Makefile", "pyproject.toml", "README.md", "LICENSE"}
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert kept == needed
    assert all((ROOT / name).exists() for name in kept)
    for path in (
        "raymill.env",
        "keys/admin.key",
        ".git/config",
        ".venv/bin/python",
        "examples/support/data/train.jsonl",
    ):
        assert ignored(path), path
    assert not ignored("cluster/settings.py")
