"""A Ray head of our own on this machine: token authentication, loopback, every port free, files for this user alone.

Ports are chosen, not left at their defaults, so that two services can run side by side.
"""

from __future__ import annotations

import hashlib
import math
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raymill.cluster.haproxy import haproxy_environment, wrap_haproxy
from raymill.cluster.head_files import ALIVE
from raymill.cluster.settings import Settings, secret_file
from raymill.registry.files import make_private

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Asks Ray and the service here, past any `http_proxy`, which neither reaches them nor should see their keys."""

NODE_ENVIRONMENT = dict(
    line.split("=", 1)
    for line in Path(__file__).with_name("nodes.env").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
)
"""What every node of a cluster is started with, whoever starts it."""

SERVE_PORTS = range(10_000, 19_000, 100)
"""First ports of blocks of 100; a service takes one, told by its home."""


NVIDIA = Path("/dev/nvidiactl")

HEAD = "node:__internal_head__"
"""Ray's resource of the head alone."""

SESSIONS = "r"
"""Ray opens its folder to everybody, so it lies in one that is not."""

RECONNECT_S = 600
"""For a head that was lost to come back: what runs on other nodes waits so long, and goes on."""


@dataclass(frozen=True, kw_only=True)
class RayHead:
    """A head that was started, or is about to be."""

    address: str
    dashboard_url: str
    arguments: tuple[str, ...]
    temp_dir: Path

    @property
    def sessions(self) -> Path:
        return self.temp_dir / SESSIONS

    def is_alive(self) -> bool:
        """Whether the raylet has registered; the dashboard may still be starting."""
        return (self.sessions / ALIVE).exists()


def ray_environment(settings: Settings) -> dict[str, str]:
    """What every process that talks to Ray has in its environment; workers inherit it from the head. The token of a
    cluster that is joined comes from where Ray looks for it (`cluster/joining.py`)."""
    return {
        **os.environ,
        **NODE_ENVIRONMENT,
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, os.cpu_count() or 1)),
        "RAYMILL_HOME": str(settings.home),
        "RAYMILL_PORT": str(settings.port),
        "RAY_AUTH_MODE": "token",
        **_own_token(settings),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray replaces 127.0.0.1 by the machine's own address unless it thinks clusters impossible here.
        **({"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"} if settings.address is None else {}),
        "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "180",
        "RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT": "150",
        "RAY_JOB_STOP_WAIT_TIME_S": str(math.ceil(settings.grace_s) + 5),
        "RAY_gcs_rpc_server_reconnect_timeout_s": str(RECONNECT_S),
        **_own_state(settings),
        **_serve_ports(settings),
        **(haproxy_environment(ray_temp_dir(settings)) if settings.address is None else {}),
        "RAY_SERVE_HTTP_PORT": str(settings.port),
        "PYTHONUNBUFFERED": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }


def _own_token(settings: Settings) -> dict[str, str]:
    if settings.address is not None:
        return {}
    token = settings.keys_dir / "ray.token"
    secret_file(token, secrets.token_hex(32))
    return {"RAY_AUTH_TOKEN_PATH": str(token)}


def _own_state(settings: Settings) -> dict[str, str]:
    """What a head knows is kept on disk, so that the one that comes after it knows other nodes and what runs there."""
    if settings.address is not None:
        return {}
    return {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(state_dir(settings))}


def _serve_ports(settings: Settings) -> dict[str, str]:
    """HAProxy's own ports are fixed unless told. Replicas share theirs (SO_REUSEPORT) with whoever else takes
    them: two services on the same range would answer each other's requests."""
    home = int(hashlib.sha256(str(settings.home).encode()).hexdigest(), 16)
    first = SERVE_PORTS[home % len(SERVE_PORTS)]
    return {
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(first),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(first + 1),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first + 10),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first + 50),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(first + 51),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(first + 90),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(first + 2),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(first + 3),
    }


def plan_head(settings: Settings) -> RayHead:
    """Choose ports and directories for a head."""
    temp_dir = ray_temp_dir(settings)
    gcs, dashboard, agent, agent_grpc, runtime_env, metrics = free_ports(6)
    program = "raymill.cluster.ray_start" if warm_socket(settings) is None else "raymill.cluster.warm.head"
    arguments = (
        sys.executable,
        "-m",
        program,
        "start",
        "--head",
        "--block",
        "--disable-usage-stats",
        "--node-ip-address=127.0.0.1",
        f"--port={gcs}",
        "--dashboard-host=127.0.0.1",
        f"--dashboard-port={dashboard}",
        "--no-monitor",  # it starts and ends machines, of which there is one
        f"--dashboard-agent-listen-port={agent}",
        f"--dashboard-agent-grpc-port={agent_grpc}",
        f"--runtime-env-agent-port={runtime_env}",
        f"--metrics-export-port={metrics}",
        "--min-worker-port=0",
        "--max-worker-port=0",
        f"--num-cpus={settings.ray_cpus}",
        f"--temp-dir={temp_dir / SESSIONS}",
    )
    return RayHead(
        address=f"127.0.0.1:{gcs}",
        dashboard_url=f"http://127.0.0.1:{dashboard}",
        arguments=arguments,
        temp_dir=temp_dir,
    )


def ray_temp_dir(settings: Settings) -> Path:
    """The folder of Ray's session directories and HAProxy's files, closed to other users once `start_head` has made it.
    Unix sockets lie in it: short, and never under a home whose path may be long."""
    digest = hashlib.sha256(str(settings.home).encode()).hexdigest()[:8]
    return Path(tempfile.gettempdir()) / f"raymill-{os.geteuid()}-{digest}"


def state_dir(settings: Settings) -> Path:
    """Where a head keeps what it knows. It outlives the head, not the service."""
    return ray_temp_dir(settings) / "state"


def forget(settings: Settings) -> None:
    """Have the next head begin anew."""
    shutil.rmtree(state_dir(settings), ignore_errors=True)


def on_this_node() -> Any:
    """The scheduling strategy of an actor that must be where the process is that starts it."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def at_head(settings: Settings) -> dict[str, float]:
    """What an actor asks of Ray to run on a head of ours. Nodes that join it are on its machine, and replicas with a port for HTTP would share it
    with those of the head."""
    return {HEAD: 0.001} if settings.address is None else {}


def warm_socket(settings: Settings) -> Path | None:
    """Where the warm process listens (`cluster/warm`); None where there is none.

    With a GPU there is none: some libraries set CUDA up as they are imported, which no copy survives.
    """
    wanted = settings.warm_start and settings.address is None and not NVIDIA.exists()
    return ray_temp_dir(settings) / "warm.sock" if wanted else None


def start_head(head: RayHead, settings: Settings) -> subprocess.Popen[bytes]:
    """Start a head that lives until it is stopped; its output goes to `logs/ray.log`."""
    settings.logs_dir.mkdir(parents=True, exist_ok=True)
    make_private(head.temp_dir)
    # By the second Ray would take a node of this machine that waits for its head for a head that runs already.
    for stale in (ALIVE, "ray_current_cluster"):
        (head.sessions / stale).unlink(missing_ok=True)
    wrap_haproxy(head.temp_dir, settings.front_key)
    with (settings.logs_dir / "ray.log").open("ab") as log:
        return subprocess.Popen(
            head.arguments,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=ray_environment(settings),
            start_new_session=True,
        )


def free_ports(count: int) -> list[int]:
    """Distinct TCP ports that nobody listens on just now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
