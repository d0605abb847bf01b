"""The numbers of the service's processes as one scrape. Reads what `cluster/numbers.py` has them write."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

STALE_S = 15.0
"""A process that has not written for this long is dead; its file is taken away."""

READY = "raymill_gateway_ready{"


def living(directory: Path) -> Iterator[str]:
    """The text of each living process. Only a line feed ends a line of it: names may hold the other ends."""
    for path in _files(directory):
        try:
            yield path.read_bytes().decode()
        except FileNotFoundError:
            continue  # it ended in this moment


def parts(directory: Path) -> list[str]:
    """Which part of the service each living process is."""
    return [path.name.partition("-")[0] for path in _files(directory)]


def _files(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.glob("*-*.prom")):
        try:
            if time.time() - path.stat().st_mtime <= STALE_S:
                yield path
            else:
                path.unlink(missing_ok=True)
        except FileNotFoundError:
            continue


def joined(texts: Iterator[str]) -> str:
    """One exposition of several: each metric's help and type once, then every process's samples of it."""
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for text in texts:
        name = ""
        for line in text.split("\n"):
            if line.startswith("# HELP "):
                name = line.split(" ", 3)[2]
                heads.setdefault(name, [])
            if line.startswith("#"):
                if line not in heads[name]:
                    heads[name].append(line)
            elif line:
                samples.setdefault(name, []).append(line)
    return "".join("\n".join([*heads[name], *samples.get(name, [])]) + "\n" for name in heads)


def samples(directory: Path, name: str) -> list[tuple[dict[str, str], float]]:
    """What the living processes tell under one name: labels and value."""
    told = [line for text in living(directory) for line in text.split("\n") if line.startswith(f"{name}{{")]
    families = text_string_to_metric_families("\n".join(told))
    return [(sample.labels, sample.value) for family in families for sample in family.samples]


def not_ready(directory: Path) -> bool:
    """Whether every living gateway replica asks for no more requests. False when none has written yet."""
    told = [line for text in living(directory) for line in text.split("\n") if line.startswith(READY)]
    return bool(told) and all(line.endswith(" 0.0") for line in told)
