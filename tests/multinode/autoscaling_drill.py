"""Asks Ray's autoscaler as the engine does, and writes what the cluster had at each stage, as JSON:
`python -m tests.multinode.autoscaling_drill FILE`.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import ray

from raymill.cluster.accelerators import ask, of_cluster

PATIENCE_S = 240.0


def gpus() -> dict[str, int]:
    return {name: each.there for name, each in of_cluster().items()}


def wait_for(count: int) -> dict[str, int]:
    """What there is once there are so many GPUs, or when nobody believes in it any more."""
    deadline = time.monotonic() + PATIENCE_S
    while (found := gpus())["any"] != count and time.monotonic() < deadline:
        time.sleep(0.5)
    return found


def main() -> None:
    ray.init(address="auto", logging_level="ERROR")
    stages = [gpus()]
    for wanted in ({"L4": 1, "any": 1}, {"L4": 1}, {}):
        ask(wanted)
        stages.append(wait_for(sum(wanted.values())))
    Path(sys.argv[1]).write_text(json.dumps(stages))


if __name__ == "__main__":
    main()
