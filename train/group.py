"""The group of a run's workers: what is set up in each before Ray joins them with torch."""

from __future__ import annotations

import os
import socket
from typing import Any

import psutil
import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

from raymill.train.notice import heed

INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


def interface_of(address: str) -> str | None:
    """The network interface of this machine that has an IP address; None where none has."""
    families = (socket.AF_INET, socket.AF_INET6)
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.family in families and each.address.partition("%")[0] == address for each in addresses):
            return name
    return None


def speak_where_ray_does() -> None:
    """Have torch use the interface that Ray's nodes reach each other by, unless the environment names one.

    Gloo asks what the machine's own name stands for, which is 127.0.1.1 on many and nothing on some; NCCL takes the first
    interface that it finds.
    """
    if (found := interface_of(ray.util.get_node_ip_address())) is not None:
        for name in INTERFACES:
            os.environ.setdefault(name, found)


class _Backend(_TorchBackend):  # type: ignore[misc]  # ray is untyped
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        worker_group.execute(speak_where_ray_does)
        super().on_start(worker_group, backend_config)

    def on_training_start(self, worker_group: Any, backend_config: Any) -> None:
        super().on_training_start(worker_group, backend_config)
        worker_group.execute(heed)


class WorkerGroup(TorchConfig):  # type: ignore[misc]
    """torch's process group on workers that speak where Ray does and note SIGTERM."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _Backend
