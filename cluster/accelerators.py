"""What accelerators the cluster has, as Ray tells it, and which it should have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from raymill.registry.accelerators import Gpus
from raymill.registry.placement_config import ANY, PREFIX, Resources, pin


def count(nodes: Sequence[Mapping[str, Any]], free: Mapping[str, Mapping[str, float]]) -> dict[str, Gpus]:
    """GPUs by type, with `ANY`.

    Args:
        nodes: as `ray.nodes()` gives them.
        free: what is available, by node id.
    """
    there, left = Counter({ANY: 0}), Counter({ANY: 0})
    for node in nodes:
        total = node.get("Resources", {})
        gpus = int(total.get("GPU", 0))
        if not node["Alive"] or not gpus:
            continue
        unused = int(free.get(node["NodeID"], {}).get("GPU", 0))
        names = [name.removeprefix(PREFIX) for name in total if name.startswith(PREFIX)]
        for name in (ANY, *names):
            there[name] += gpus
            left[name] += unused
    return {name: Gpus(there[name], left[name]) for name in there}


def of_cluster() -> dict[str, Gpus]:
    """What the cluster that this process has joined has now."""
    import ray
    from ray._private.state import available_resources_per_node  # no public call tells it by node

    return count(ray.nodes(), available_resources_per_node())


def ask(wanted: Mapping[str, int]) -> None:
    """Have the autoscaler of the cluster that this process has joined, where it has one, hold so many GPUs of each type at
    the least, in use or not, until it is asked for others."""
    from ray.autoscaler.sdk import request_resources

    bundles = [
        {"GPU": 1, **pin(Resources(accelerator=name))} for name in sorted(wanted) for _ in range(wanted[name])
    ]
    request_resources(bundles=bundles)
