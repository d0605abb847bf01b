"""HAProxy as Ray Serve starts it here: what it listens on is for this machine alone, its admin socket for this user."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions

from raymill.cluster.haproxy import haproxy_environment, wrap_haproxy
from raymill.cluster.listeners import listeners
from raymill.cluster.ray_head import free_ports
from raymill.cluster.settings import FRONT_HEADER
from raymill.policies.errors import Unavailable
from raymill.registry.files import make_private


def test_a_folder_that_is_somebody_elses_is_not_used(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir(mode=0o777)
    make_private(mine)
    make_private(mine)
    assert mine.stat().st_mode & 0o777 == 0o700
    (tmp_path / "link").symlink_to(mine)
    (tmp_path / "file").touch()
    for name in ("link", "file"):
        with pytest.raises(Unavailable, match="belongs to another user, or is no folder"):
            make_private(tmp_path / name)
    if os.geteuid() != 0:
        with pytest.raises(Unavailable, match="belongs to another user"):
            make_private(Path("/"))


def test_what_serve_starts_listens_on_loopback_and_its_admin_socket_is_private() -> None:
    folder = Path(tempfile.mkdtemp())  # shorter than pytest's
    wrap_haproxy(folder, "front-key")
    told = haproxy_environment(folder)
    http, metrics, stats = free_ports(3)
    config = HAProxyConfig(
        http_options=HTTPOptions(host="127.0.0.1", port=http),
        metrics_port=metrics,
        stats_port=stats,
        socket_path=told["RAY_SERVE_HAPROXY_SOCKET_PATH"],
        is_head=True,
    )
    path = Path(told["RAY_SERVE_HAPROXY_CONFIG_FILE_LOC"])
    HAProxyApi(cfg=config, config_file_path=str(path))._generate_config_file_internal()
    with subprocess.Popen([told["RAY_SERVE_HAPROXY_BINARY_PATH"], "-db", "-f", str(path)]) as process:
        deadline = time.monotonic() + 60
        found: dict[str, str] = {}
        while len(found) < 4 and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.05)
            every = listeners([psutil.Process(process.pid)])
            # It is bound as `s.PID.tmp` and renamed.
            found = {
                each.place.partition(".")[0] if each.protocol == "unix" else each.place: each.reach
                for each in every
                if each.protocol != "udp"
            }
        admin = (folder / "s").stat().st_mode & 0o777
        early = httpx.get(f"http://127.0.0.1:{http}/api/v1/jobs")
        process.kill()
    shutil.rmtree(folder)
    assert found == {
        **{f"127.0.0.1:{port}": "machine" for port in (http, metrics, stats)},
        str(folder / "s"): "owner",
    }
    assert admin == 0o600
    # Nothing is there yet: who waits for a service that comes back must not take it for the last word.
    assert (early.status_code, early.headers["retry-after"]) == (503, "1")


def test_the_callers_address_is_that_of_its_connection_unless_our_listener_tells_it() -> None:
    seen: list[list[str] | None] = []

    class Replica(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/asked":
                seen.append(self.headers.get_all("x-forwarded-for"))
                seen.append(self.headers.get_all(FRONT_HEADER))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Tests are quiet."""

    folder = Path(tempfile.mkdtemp())
    wrap_haproxy(folder, "front-key")
    told = haproxy_environment(folder)
    http, metrics, stats = free_ports(3)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Replica)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    replica = ServerConfig(name="replica", host="127.0.0.1", port=server.server_address[1])
    config = HAProxyConfig(
        http_options=HTTPOptions(host="127.0.0.1", port=http),
        metrics_port=metrics,
        stats_port=stats,
        socket_path=told["RAY_SERVE_HAPROXY_SOCKET_PATH"],
        is_head=True,
    )
    path = Path(told["RAY_SERVE_HAPROXY_CONFIG_FILE_LOC"])
    api = HAProxyApi(
        cfg=config,
        backend_configs={"app": BackendConfig(name="app", path_prefix="/", servers=[replica])},
        config_file_path=str(path),
    )
    api._generate_config_file_internal()
    stranger = [("x-forwarded-for", "203.0.113.9"), ("x-forwarded-for", "203.0.113.8")]
    with subprocess.Popen([told["RAY_SERVE_HAPROXY_BINARY_PATH"], "-db", "-f", str(path)]) as process:
        transport = httpx.HTTPTransport(local_address="127.0.0.9", retries=8)
        with httpx.Client(transport=transport, base_url=f"http://127.0.0.1:{http}") as client:
            deadline = time.monotonic() + 60
            while client.get("/").status_code != 200 and time.monotonic() < deadline:
                time.sleep(0.05)
            for shown in ([], [(FRONT_HEADER, "guessed")], [(FRONT_HEADER, "front-key")]):
                assert client.get("/asked", headers=[*stranger, *shown]).status_code == 200
        process.kill()
    server.shutdown()
    thread.join()
    server.server_close()
    shutil.rmtree(folder)
    ours = ["front-key"]
    assert seen == [["127.0.0.9"], ours, ["127.0.0.9"], ours, ["203.0.113.9", "203.0.113.8"], ours]
