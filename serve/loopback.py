"""Keeps a replica's own gRPC server on this machine.

Ray Serve 2.60 opens one in every replica on all interfaces, without token or TLS, and unpickles what it
receives: whoever reaches the port runs code. `ray.serve` has no setting for the address, so the one call
that binds it is wrapped. On a service that joined a cluster the replicas must reach each other; there the
network has to be private (`ray-cluster.yaml`). Goes when Ray lets the address be chosen.
"""

from __future__ import annotations

from typing import Any

from ray.serve._private import replica

from raymill.cluster.settings import Settings

ANY = "[::]:"
LOOPBACK = "127.0.0.1:"

_bind = replica.add_port_to_grpc_server


def _bind_to_loopback(server: Any, address: str) -> Any:
    return _bind(server, address.replace(ANY, LOOPBACK))


def keep_to_loopback() -> None:
    """Called when a deployment's module is imported, which a replica does before it opens the port."""
    if Settings().address is None:
        replica.add_port_to_grpc_server = _bind_to_loopback
