"""What the whole run shares: one Postgres for the registry's tests, and one service with one Ray cluster.

A service is what `raymill up` starts, under a home of its own in the system's temporary folder. Tests that
need Ray join its cluster; nothing else of this machine is touched.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from sqlalchemy import create_engine, text

from raymill.cluster.settings import Settings, secret_file
from raymill.registry.database import Database
from raymill.registry.postgres import EmbeddedPostgres

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


# How long an example takes tells of the machine that all of them share, not of the code.
hypothesis_settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("tests")


def free_port() -> int:
    """Below the ephemeral range, so that no outgoing connection takes it meanwhile."""
    return 9_000 + os.getpid() % 900


# A run in a shell's background is started deaf to Ctrl-C, and so would be all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Not pytest's tmp_path: that is 0700, and for root Postgres runs as another user, who must get in.
HOME = Path(tempfile.mkdtemp(prefix="raymill-test-"))
HOME.chmod(0o755)

# Before anything imports ray, which reads its environment then: the cluster of the tests is on loopback and
# asks for a token. The service's own processes get the same from `cluster/ray_head.py`.
os.environ.update(
    {
        "RAYMILL_HOME": str(HOME / "service"),
        "RAYMILL_PORT": str(free_port()),
        "RAYMILL_LEASE_S": "10",
        "RAYMILL_KINDS": "raymill.cluster.chaos_kinds",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(HOME / "service" / "keys" / "ray.token"),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "HF_HUB_OFFLINE": "1",
    }
)
for name in ("RAYMILL_URL", "RAYMILL_API_KEY", "DATABASE_URL", "RAYMILL_DATABASE_URL", "RAY_ADDRESS"):
    os.environ.pop(name, None)
secret_file(HOME / "service" / "keys" / "ray.token", secrets.token_hex(32))

# Ray's library must be loaded before regopy's, or `ray.init` aborts (see cluster/driver.py).
import ray  # noqa: E402
import ray.serve  # noqa: E402
from tests.registry.making import World  # noqa: E402
from tests.throwaway import ThrowawayPostgres  # noqa: E402


class RunningService(NamedTuple):
    """A service that `raymill up` started."""

    url: str
    api_key: str
    home: Path


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests that take minutes")
    parser.addoption(
        "--half",
        choices=["service", "rest"],
        help="run what needs the service alone, or all else (tests/halves.py)",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reasons = {
        "slow": None if config.getoption("--slow") else "takes minutes: run with --slow",
        "gpu": None if shutil.which("nvidia-smi") else "needs a CUDA device, and this machine has none",
        "multinode": None if config.getoption("--slow") else "starts several Ray nodes: run with --slow",
        "real_data": None if SHARED_DATA.is_dir() else f"the public data sets are not in {SHARED_DATA}",
    }
    for item in items:
        for mark, reason in reasons.items():
            if reason is not None and item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=reason))
    half = config.getoption("--half")
    if half is not None:
        others = [item for item in items if needs_service(item) != (half == "service")]
        items[:] = [item for item in items if needs_service(item) == (half == "service")]
        config.hook.pytest_deselected(items=others)
    # What needs no cluster first: its failures show before the cluster's minutes are spent.
    items.sort(key=needs_service)


def needs_service(item: pytest.Item) -> bool:
    return "whole_service" in getattr(item, "fixturenames", ())


def pytest_unconfigure() -> None:
    shutil.rmtree(HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """A Postgres for the tests of the registry; the service has another one."""
    server = ThrowawayPostgres(HOME / "postgres")
    server.ensure_running()
    yield server
    server.throw_away()


@pytest.fixture(scope="session")
def migrated(postgres: EmbeddedPostgres) -> Database:
    """A database with the newest schema and nobody in it, to copy from. Connecting has a minute: a busy machine may
    stand still for more than the five seconds that a service gives it.
    """
    database = Database(f"{postgres.url()}?connect_timeout=60")
    database.migrate()
    database.close()
    return database


@pytest.fixture
def database(migrated: Database) -> Iterator[Database]:
    """An empty registry of its own for each test."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    admin = create_engine(migrated.url.set(database="postgres"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(
            text(f"CREATE DATABASE {name} TEMPLATE {migrated.url.database} STRATEGY file_copy")
        )
    admin.dispose()
    fresh = Database(migrated.url.set(database=name).render_as_string(hide_password=False))
    yield fresh
    fresh.close()


@pytest.fixture
def world(database: Database, tmp_path: Path) -> World:
    """A registry that things can be made in, with a store of real files."""
    return World(database, tmp_path)


@pytest.fixture(scope="session")
def whole_service() -> Iterator[RunningService]:
    """The whole service, started as a user starts it. Asked for by the name `service`, as the client's tests ask for
    their stand-in; this name tells the two apart.
    """
    settings = Settings()
    started = subprocess.run(
        [sys.executable, "-m", "raymill.cluster.up"], capture_output=True, text=True, check=False
    )
    assert started.returncode == 0, started.stderr + _logs(settings)
    key = (settings.keys_dir / "admin.key").read_text().strip()
    yield RunningService(url=f"http://127.0.0.1:{settings.port}", api_key=key, home=settings.home)
    subprocess.run([sys.executable, "-m", "raymill.cluster.down"], check=True, capture_output=True)


@pytest.fixture(scope="session")
def service(whole_service: RunningService) -> RunningService:
    return whole_service


@pytest.fixture(scope="session")
def ray_session(service: RunningService) -> Iterator[None]:  # noqa: ARG001 (it must run)
    """This process as a driver on the service's cluster."""
    from raymill.cluster.service import read_service

    address = read_service(Settings()).ray_address
    ray.init(address=address, namespace="raymill", log_to_driver=False, logging_level="WARNING")
    yield
    ray.shutdown()


def _logs(settings: Settings) -> str:
    tails = [
        f"== {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-20:])
        for path in sorted(settings.logs_dir.glob("*.log"))
    ]
    return "\n".join(tails)
