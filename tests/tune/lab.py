"""Small searches on a tiny model, and what Ray holds before and after them."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import ray
from benchmarks.asha import make_base, make_rows, make_search
from ray.util import placement_group_table

from raymill.tune.search import Search

RATE = {"train.learning_rate": {"loguniform": [1e-4, 3e-2]}}


class Lab(NamedTuple):
    """A base and rows to search with."""

    base: Path
    rows: Path

    def search(self, directory: Path, tune: dict[str, Any], **train: Any) -> Search:
        made: Search = make_search(
            directory, self.base, self.rows, {"over": RATE, "concurrent": 2} | tune, **train
        )
        return made


def make_lab(directory: Path) -> Lab:
    return Lab(make_base(directory / "base"), make_rows(directory / "train.jsonl", rows=160))


class Held(NamedTuple):
    """What is taken of a cluster."""

    resources: dict[str, float]
    actors: Counter[str]
    placement_groups: int


def held() -> Held:
    there, free = ray.cluster_resources(), ray.available_resources()
    taken = {name: there[name] - free.get(name, 0.0) for name in ("CPU", "GPU") if name in there}
    actors = ray._private.state.actors().values()
    names = Counter(str(each["ActorClassName"]) for each in actors if each["State"] not in {"DEAD"})
    groups = [each for each in placement_group_table().values() if each["state"] != "REMOVED"]
    return Held(taken, names, len(groups))


def left_since(before: Held, timeout_s: float = 30.0) -> Held:
    """What is held over and above what was, once that is nothing or time is over.

    Ray frees a moment after an actor's end, both what was begun since and what a test before it had begun.
    """
    deadline = time.monotonic() + timeout_s
    while (left := over_and_above(held(), before)) != NOTHING and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


NOTHING = Held({}, Counter(), 0)


def over_and_above(now: Held, before: Held) -> Held:
    more = {name: n - before.resources.get(name, 0.0) for name, n in now.resources.items()}
    return Held(
        {name: n for name, n in more.items() if n > 0},
        now.actors - before.actors,
        max(0, now.placement_groups - before.placement_groups),
    )
