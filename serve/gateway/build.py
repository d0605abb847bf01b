"""Wires the gateway into Ray Serve. Nothing is deployed at import."""

from __future__ import annotations

from collections.abc import Callable

from ray import serve
from ray.serve import Application

from raymill.serve.gateway.app import Gateway
from raymill.serve.gateway.snapshot import SnapshotSource
from raymill.serve.gateway.upstream import ServeUpstream
from raymill.serve.gateway.wire import MAX_BODY_BYTES
from raymill.serve.loopback import keep_to_loopback

keep_to_loopback()


class GatewayReplica:
    """Holds the ASGI app in a Serve replica. Lost with its process: nothing but the snapshot."""

    def __init__(
        self, source_factory: Callable[[], SnapshotSource], max_body_bytes: int, poll_s: float
    ) -> None:
        # Made here and not by the deployer: a source holds connections, which do not travel.
        self._gateway = Gateway(
            source_factory(), ServeUpstream(), behind_serve=True, max_body_bytes=max_body_bytes, poll_s=poll_s
        )

    async def __serve_build_asgi_app__(self) -> Gateway:
        # Here rather than in the app's lifespan, where Serve would swallow the reason of a failure.
        await self._gateway.start()
        return self._gateway

    def check_health(self) -> None:
        self._gateway.check_health()


def build_gateway(
    source_factory: Callable[[], SnapshotSource],
    *,
    replicas: int = 1,
    num_cpus: float = 0.0,
    max_ongoing_requests: int = 4096,
    max_body_bytes: int = MAX_BODY_BYTES,
    poll_s: float = 1.0,
) -> Application:
    """The gateway as an application; give it `route_prefix="/v1"`.

    Args:
        source_factory: Called once in each replica; must be picklable.
        num_cpus: What Ray reserves for a replica; it waits more than it computes.
        max_ongoing_requests: Requests a replica holds at once, streams included.
    """
    ingress = serve.ingress()(GatewayReplica)
    deployment = serve.deployment(
        ingress,
        name="gateway",
        num_replicas=replicas,
        max_ongoing_requests=max_ongoing_requests,
        ray_actor_options={"num_cpus": num_cpus},
        health_check_period_s=5,
        graceful_shutdown_timeout_s=10,
    )
    return deployment.bind(source_factory, max_body_bytes, poll_s)
