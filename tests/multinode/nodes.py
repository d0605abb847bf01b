"""Ray clusters of several nodes on this machine; each node counts a core as its own and can be taken away."""

from __future__ import annotations

import os
from typing import Any

from ray.cluster_utils import Cluster

from raymill.cluster.ray_head import free_ports


class Nodes:
    """A head and the nodes beside it, each with room for `cpus` workers or actors."""

    def __init__(self, *cpus: int) -> None:
        """`cpus` are of the head and of each further node."""
        # Threads must not spin while they wait for those of another node.
        os.environ.update({"OMP_WAIT_POLICY": "PASSIVE", "RAY_agent_register_timeout_ms": "180000"})
        head, *others = cpus
        self._cluster = Cluster(
            initialize_head=True, head_node_args={**small(head), "include_dashboard": False}
        )
        self._others: list[Any] = []
        for count in others:
            self.add(count)

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add(self, cpus: int = 1) -> None:
        self._others.append(self._cluster.add_node(**small(cpus)))

    def lose(self, node_id: str | None = None) -> None:
        """Kill one of the nodes beside the head, the first one or that with Ray's hexadecimal id."""
        node = next(each for each in self._others if node_id in (None, each.node_id))
        self._others.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)

    def shutdown(self) -> None:
        self._cluster.shutdown()


def small(cpus: int) -> dict[str, int]:
    """Arguments of a node. A raylet that is told its agent's ports does not wait for them, which takes too long on a busy
    machine."""
    names = (
        "metrics_agent_port",
        "metrics_export_port",
        "dashboard_agent_listen_port",
        "runtime_env_agent_port",
    )
    return {
        "num_cpus": cpus,
        "object_store_memory": 100 << 20,
        **dict(zip(names, free_ports(4), strict=True)),
    }
