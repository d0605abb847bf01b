"""HAProxy as Ray Serve starts it here: what it listens on is for this machine alone, its admin socket for this user."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from ray.serve._private.haproxy import HAProxyApi, HAProxyConfig
from ray.serve.config import HTTPOptions

from raymill.cluster.haproxy import haproxy_environment, wrap_haproxy
from raymill.cluster.listeners import listeners
from raymill.cluster.ray_head import free_ports
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
    wrap_haproxy(folder)
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
        deadline = time.monotonic() + 20
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
        process.kill()
    shutil.rmtree(folder)
    assert found == {
        **{f"127.0.0.1:{port}": "machine" for port in (http, metrics, stats)},
        str(folder / "s"): "owner",
    }
    assert admin == 0o600
