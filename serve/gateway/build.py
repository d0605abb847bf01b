"""Wires the gateway into Ray Serve. Nothing is deployed at import."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from ray import serve
from ray.serve import Application
from starlette.types import ASGIApp

from raymill.cluster import logs
from raymill.cluster.processes import collect_garbage_seldom
from raymill.cluster.ray_head import at_head
from raymill.cluster.settings import Settings
from raymill.serve.gateway.app import Gateway
from raymill.serve.gateway.cache import AnswerCache
from raymill.serve.gateway.direct import answer_directly, through_serve
from raymill.serve.gateway.exchange import Parts
from raymill.serve.gateway.health import HealthBook
from raymill.serve.gateway.http_client import HttpClient
from raymill.serve.gateway.metrics import Metrics, write_forever
from raymill.serve.gateway.probe_targets import probe_forever
from raymill.serve.gateway.ready import Readiness
from raymill.serve.gateway.record import Recorder
from raymill.serve.gateway.snapshot import SnapshotSource
from raymill.serve.gateway.spans import Spans
from raymill.serve.gateway.stores import Stores
from raymill.serve.gateway.upstream import Engines, ServeEngines, Upstreams
from raymill.serve.loopback import keep_to_loopback

keep_to_loopback()


def assemble(source: SnapshotSource, stores: Stores, engines: Engines, **options: Any) -> Gateway:
    """A gateway of its parts; without Ray, so that tests make the same one."""
    metrics = Metrics(str(stores.replica_id)[:8])
    spans = Spans.from_environment()
    parts = Parts(
        upstreams=Upstreams(HttpClient(), engines),
        book=HealthBook(),
        recorder=Recorder(stores.meters, stores.spool, metrics, stores.replica_id, spans),
        cache=AnswerCache(),
    )
    return Gateway(source, parts, stores.answers, take_feedback=stores.take_feedback, **options)


class GatewayReplica:
    """Holds the gateway in a Serve replica. Lost with its process: snapshot, cache, breakers. Its leases go
    back by the sweep, its records are on disk."""

    def __init__(self, source_factory: Callable[[], SnapshotSource]) -> None:
        # Made here and not by the deployer: a source holds connections, which do not travel.
        self._source = source_factory()
        self._settings = Settings()
        logs.set_up_replica("gateway", self._settings.logs_dir)
        self._stores = Stores.open(self._settings)
        self._gateway = assemble(self._source, self._stores, ServeEngines())
        self._tasks: list[asyncio.Task[None]] = []

    async def __serve_build_asgi_app__(self) -> ASGIApp:
        # Here rather than in the app's lifespan, where Serve would swallow the reason of a failure.
        gateway, stores = self._gateway, self._stores
        await gateway.refresher.start()
        await stores.start()
        readiness = Readiness(gateway, stores.spool)
        answer_directly(gateway, "/v1/", readiness.not_ready)
        parts = gateway.parts

        def numbers() -> str:
            return parts.recorder.metrics.text(
                parts.book.states(), stores.spool.depth_bytes(), gateway.in_flight, readiness.not_ready()
            )

        numbers_written = write_forever(numbers, self._settings.metrics_dir, str(stores.replica_id))
        targets_probed = probe_forever(gateway.refresher, parts.book, parts.upstreams.http)
        self._tasks += [
            asyncio.create_task(numbers_written, name="gateway-metrics"),
            asyncio.create_task(targets_probed, name="gateway-probe"),
        ]
        collect_garbage_seldom()
        return through_serve(gateway)

    def check_health(self) -> None:
        self._gateway.refresher.check()
        self._stores.check()
        for task in self._tasks:
            if task.done():
                raise RuntimeError(f"{task.get_name()} has ended: {task.exception()!r}")

    async def __del__(self) -> None:
        """Serve calls this when it ends a replica."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(Exception):
            await self._gateway.refresher.stop()
        await self._stores.stop()
        if (spans := self._gateway.parts.recorder.spans) is not None:
            await asyncio.to_thread(spans.close)


def build_gateway(
    source_factory: Callable[[], SnapshotSource], *, replicas: int = 1, num_cpus: float = 0.0
) -> Application:
    """The gateway as an application; give it `route_prefix="/v1"`.

    Args:
        source_factory: Called once in each replica; must be picklable.
        num_cpus: What Ray reserves for a replica; it waits more than it computes.
    """
    ingress = serve.ingress()(GatewayReplica)
    deployment = serve.deployment(
        ingress,
        name="gateway",
        num_replicas=replicas,
        max_ongoing_requests=4096,
        ray_actor_options={"num_cpus": num_cpus, "resources": at_head(Settings())},
        health_check_period_s=5,
        graceful_shutdown_timeout_s=10,
    )
    return deployment.bind(source_factory)
