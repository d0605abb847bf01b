"""What the tests of data sets over HTTP share: a client, and the engine's own way of running jobs, in this process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from fastapi.testclient import TestClient
from httpx2 import Response
from tests.registry.making import World, claim
from tests.serve.control_app import app_of

from raymill.cluster.attempt import open_attempt
from raymill.cluster.settings import Settings
from raymill.registry.tables import Role
from raymill.serve.api.context import Parts

API = "/api/v1"


@contextlib.contextmanager
def connected(world: World, role: Role) -> Iterator[TestClient]:
    """A client with the key of an account of that role."""
    app = app_of(Parts(settings=Settings(home=world.home), database=world.database))
    with TestClient(app, raise_server_exceptions=False) as client:
        client.headers["authorization"] = f"Bearer {world.add_key(role)}"
        yield client


def run_all(world: World) -> None:
    """Run short jobs until none is ready."""
    settings = Settings(home=world.home)
    while claimed := claim(world.database):
        for job in claimed:
            open_attempt(world.database, settings, job.id, job.epoch, "w1").run()


def error_of(response: Response) -> tuple[int, str, str | None]:
    error = response.json()["error"]
    return response.status_code, error["code"], error["param"]
