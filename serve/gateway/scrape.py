"""The numbers of this machine's gateway replicas as one scrape. Reads what `metrics.write_forever` writes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

STALE_S = 15.0
"""A replica that has not written for this long is dead; its file is taken away."""

READY = "raymill_gateway_ready{"


def living(directory: Path) -> Iterator[str]:
    """The text of each living replica. Only a line feed ends a line of it: names may hold the other ends."""
    for path in sorted(directory.glob("gateway-*.prom")):
        try:
            if time.time() - path.stat().st_mtime > STALE_S:
                path.unlink(missing_ok=True)
                continue
            yield path.read_bytes().decode()
        except FileNotFoundError:
            continue  # it ended in this moment


def joined(directory: Path) -> str:
    """One exposition of all: each metric's help and type once, then every replica's samples of it."""
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for text in living(directory):
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


def not_ready(directory: Path) -> bool:
    """Whether every living replica asks for no more requests. False when none has written yet."""
    told = [line for text in living(directory) for line in text.split("\n") if line.startswith(READY)]
    return bool(told) and all(line.endswith(" 0.0") for line in told)
