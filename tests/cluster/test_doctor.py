"""`raymill doctor` on a home without a service, and what it thinks of ports."""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from raymill.cluster import doctor
from raymill.cluster.checks import Check
from raymill.cluster.doctor import examine
from raymill.cluster.listeners import Listener, Reach, machine_addresses, reach_of
from raymill.cluster.port_checks import judge_port
from raymill.cluster.settings import Settings
from raymill.registry.database import Database

REACHES: tuple[Reach, ...] = ("network", "everyone")

LISTENER = """
import json, os, socket, sys, time
folder, V6 = sys.argv[1], socket.AF_INET6
kept = {
    "loopback": socket.create_server(("127.0.0.1", 0)),
    "any": socket.create_server(("0.0.0.0", 0)),
    "loopback6": socket.create_server(("::1", 0), family=V6),
    "any6": socket.create_server(("::", 0), family=V6, dualstack_ipv6=True),
    "udp": socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
}
kept["udp"].bind(("0.0.0.0", 5514 + os.getpid() % 1000))
os.mkdir(f"{folder}/closed", 0o700)
unix = []
for name, mode in ((f"{folder}/open", 0o666), (f"{folder}/own", 0o600), (f"{folder}/closed/open", 0o666), (f"\\0{folder}", 0)):
    each = socket.socket(socket.AF_UNIX)
    each.bind(name)
    each.listen()
    unix.append(each)
    if mode:
        os.chmod(name, mode)
client = socket.create_connection(kept["loopback"].getsockname())  # a port that nobody can call
print(json.dumps({name: each.getsockname()[1] for name, each in kept.items()}), flush=True)
time.sleep(60)
"""


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_a_machine_without_a_service_is_well(tmp_path: Path) -> None:
    checks = by_name(examine(Settings(home=tmp_path), []))
    assert {name for name, check in checks.items() if check.state == "fail"} == set()
    assert {
        "python",
        "packages",
        "home",
        "keys",
        "disk",
        "postgres",
        "ray",
        "converter",
        "deepspeed",
        "gpu",
    } <= set(checks)
    assert checks["ray"].found == "no service runs under this home"


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_the_command_reports_and_exits_1_when_something_fails(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "keys").mkdir()
    key = tmp_path / "keys" / "admin.key"
    key.write_text("rm-x")
    key.chmod(0o644)
    done = subprocess.run(
        [sys.executable, "-m", "raymill.cluster.doctor", *arguments],
        env={**os.environ, "RAYMILL_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "")
    if arguments:
        document = json.loads(done.stdout)
        assert document["ok"] is False
        (failed,) = [check for check in document["checks"] if check["state"] == "fail"]
        assert failed == {
            "name": "keys",
            "state": "fail",
            "found": f"{key} has mode 0644: others may read it",
            "cure": f"chmod 600 {key}, then rotate it",
        }
    else:
        assert f"fail keys         {key} has mode 0644: others may read it -> chmod 600" in done.stdout
    assert "rm-x" not in done.stdout


def test_public_keys_and_locks_may_be_read(tmp_path: Path) -> None:
    for name, content in (("a.pub", "x"), ("lock", "")):
        (tmp_path / "keys").mkdir(exist_ok=True)
        (tmp_path / "keys" / name).write_text(content)
    (check,) = doctor.check_keys(Settings(home=tmp_path))
    assert check.state == "ok"


def test_a_home_that_others_may_write_to_fails(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o777)
    (check,) = doctor.check_home(Settings(home=home))
    assert (check.state, check.cure) == ("fail", f"chmod go-w {home}")


def test_little_room_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LOW_DISK_BYTES", 1 << 62)
    (check,) = doctor.check_disk(Settings(home=tmp_path))
    assert check.state == "warn"


def with_database(tmp_path: Path, url: str) -> Settings:
    return Settings.model_validate({"home": tmp_path, "database_url": url})


def test_the_schema_must_be_of_this_release(database: Database, tmp_path: Path) -> None:
    settings = with_database(tmp_path, database.url.render_as_string(hide_password=False))
    (check,) = doctor.check_postgres(settings, running=False)
    assert check.state == "ok"
    database.migrate("base")
    (check,) = doctor.check_postgres(settings, running=False)
    assert check.state == "fail"
    assert check.found.startswith("the schema is at nothing, this release needs ")


def test_a_database_that_does_not_answer_fails_without_its_password(tmp_path: Path) -> None:
    (check,) = doctor.check_postgres(
        with_database(tmp_path, "postgresql://a:secret@127.0.0.1:1/x"), running=False
    )
    assert check.state == "fail"
    assert "secret" not in check.found


@pytest.mark.parametrize(
    ("title", "address", "state"),
    [
        ("gcs_server", "127.0.0.1", "ok"),
        ("gcs_server", "::1", "ok"),
        ("gcs_server", "::ffff:127.0.0.1", "ok"),
        ("gcs_server", "::ffff:0.0.0.0", "fail"),
        ("gcs_server", "0.0.0.0", "fail"),
        ("ray::ServeReplica:api:api", "::", "fail"),
        ("raymill.cluster.engine", "0.0.0.0", "fail"),
        ("raylet", "10.0.0.7", "fail"),
        ("ray-dashboard/dashboard.py", "::", "fail"),
        ("postgres", "0.0.0.0", "fail"),
        ("haproxy", "127.0.0.1", "ok"),
        ("haproxy", "10.0.0.7", "warn"),
        ("haproxy", "8.8.8.8", "fail"),
    ],
)
def test_who_can_reach_a_port_decides(tmp_path: Path, title: str, address: str, state: str) -> None:
    ours = [ipaddress.ip_address("10.0.0.7"), ipaddress.ip_address("fe80::1")]
    listener = Listener("tcp", address, 8000, title, 1, reach_of(address, ours))
    check = judge_port(Settings(home=tmp_path, port=8000), listener)
    assert check.state == state
    assert ("keys cross in clear" in check.found) == (title == "haproxy" and state != "ok")


def test_nodes_of_a_cluster_that_was_joined_may_reach_each_other(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, address="10.0.0.7:6379")
    states = {
        (title, reach): judge_port(settings, Listener("tcp", "0.0.0.0", 6379, title, 1, reach)).state
        for title in ("raylet", "postgres")
        for reach in REACHES
    }
    assert states == {
        ("raylet", "network"): "warn",
        ("raylet", "everyone"): "fail",
        ("postgres", "network"): "fail",
        ("postgres", "everyone"): "fail",
    }


def test_every_kind_of_socket_is_listed_with_who_reaches_it(tmp_path: Path) -> None:
    environment = {**os.environ, "RAYMILL_SERVICE": str(tmp_path), "RAYMILL_HOME": str(tmp_path)}
    folder = Path(tempfile.mkdtemp(prefix="raymill-sockets-"))  # short, and below folders that all may enter
    folder.chmod(0o755)
    command = [sys.executable, "-c", LISTENER, str(folder)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        found = {(each.protocol, each.place): each for each in doctor.listening(Settings(home=tmp_path))}
        doctors = [
            subprocess.run(
                [sys.executable, "-m", "raymill.cluster.doctor", *arguments],
                env=environment | {"RAYMILL_SERVICE": ""},
                capture_output=True,
                text=True,
                check=False,
            )
            for arguments in ([], ["--json"])
        ]
        process.kill()
    shutil.rmtree(folder)
    outside = reach_of("0.0.0.0", machine_addresses())
    assert {place: each.reach for place, each in found.items()} == {
        ("tcp", f"127.0.0.1:{told['loopback']}"): "machine",
        ("tcp", f"[::1]:{told['loopback6']}"): "machine",
        ("tcp", f"0.0.0.0:{told['any']}"): outside,
        ("tcp", f"[::]:{told['any6']}"): outside,
        ("udp", f"0.0.0.0:{told['udp']}"): outside,
        ("unix", f"{folder}/open"): "machine",
        ("unix", f"{folder}/own"): "owner",
        ("unix", f"{folder}/closed/open"): "owner",
        ("unix", f"@{folder}"): "machine",
    }
    assert {each.pid for each in found.values()} == {process.pid}
    lines = [line.split() for line in doctors[0].stdout.splitlines()]
    assert ["warn", "this", "machine", "unix", f"{folder}/open", found["unix", f"{folder}/open"].process] in [
        line[:-1] for line in lines
    ]
    listed = json.loads(doctors[1].stdout)["listeners"]
    assert {(each["protocol"], each["address"], each["port"], each["reach"]) for each in listed} == {
        (each.protocol, each.address, each.port, each.reach) for each in found.values()
    }
    assert {each["state"] for each in listed if each["reach"] == "owner"} == {"ok"}
