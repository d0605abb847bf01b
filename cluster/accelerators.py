"""What accelerators the cluster has, as Ray tells it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from raymill.registry.accelerators import Gpus
from raymill.registry.placement_config import ANY, PREFIX


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
