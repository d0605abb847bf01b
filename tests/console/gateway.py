"""The service's gateway on the stage's registry, at the control plane's address, as a browser finds both."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from functools import partial

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from raymill.cluster.settings import Settings
from raymill.registry.database import Database
from raymill.serve.gateway import feedback
from raymill.serve.gateway.app import Gateway
from raymill.serve.gateway.build import assemble
from raymill.serve.gateway.ingest import Ingester
from raymill.serve.gateway.meters import Meters
from raymill.serve.gateway.spool import Spool
from raymill.serve.gateway.stores import Stores
from raymill.serve.gateway.upstream import ServeEngines
from raymill.serve.registry_source import RegistrySource


def ingesting(settings: Settings) -> Callable[[], None]:
    """Bring usage records into Postgres until what is returned is called."""
    settings.spool_dir.mkdir(parents=True)
    stop = threading.Event()
    ingester = Ingester(settings.spool_dir, lambda: settings.postgres_dsn)
    options = {"linger_s": 86_400.0}
    thread = threading.Thread(target=ingester.run, args=(stop,), kwargs=options, daemon=True)
    thread.start()

    def end() -> None:
        stop.set()
        thread.join()

    return end


def with_gateway(control: FastAPI, settings: Settings, database: Database) -> ASGIApp:
    """Both as one application. Nothing is served by an engine here: providers answer."""
    gateway = _gateway(settings, database)

    async def both(scope: Scope, receive: Receive, send: Send) -> None:
        ours = scope["type"] == "lifespan" or scope["path"].startswith("/v1/")
        await (gateway if ours else control)(scope, receive, send)

    return both


def _gateway(settings: Settings, database: Database) -> Gateway:
    """Its keys, providers and routes are read from the registry that the environment names."""
    replica_id = uuid.uuid4()
    stores = Stores(
        replica_id=replica_id,
        meters=Meters(settings.postgres_dsn, replica_id, "stage"),
        spool=Spool(settings.spool_dir, replica_id),
        take_feedback=partial(feedback.keep, database),
    )
    return assemble(RegistrySource(), stores, ServeEngines())
