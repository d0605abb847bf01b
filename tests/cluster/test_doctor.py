"""`raymill doctor` on a home without a service, and what it thinks of ports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from raymill.cluster import doctor
from raymill.cluster.doctor import Check, examine, judge_port
from raymill.cluster.settings import Settings
from raymill.registry.database import Database

LISTENER = """
import socket, sys, time
for host in ("127.0.0.1", "0.0.0.0"):
    listener = socket.create_server((host, 0))
    globals()[host] = listener
    print(listener.getsockname()[1], flush=True)
time.sleep(60)
"""


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_a_machine_without_a_service_is_well(tmp_path: Path) -> None:
    checks = by_name(examine(Settings(home=tmp_path)))
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
    ("title", "address", "port", "state"),
    [
        ("gcs_server", "127.0.0.1", 6379, "ok"),
        ("gcs_server", "::1", 6379, "ok"),
        ("gcs_server", "::ffff:127.0.0.1", 6379, "ok"),
        ("gcs_server", "::ffff:0.0.0.0", 6379, "fail"),
        ("gcs_server", "0.0.0.0", 6379, "fail"),
        ("ray::ServeReplica:api:api", "::", 35329, "fail"),
        ("raylet", "10.0.0.7", 7000, "fail"),
        ("ray-dashboard/dashboard.py", "::", 8265, "fail"),
        ("postgres", "0.0.0.0", 5432, "fail"),
        ("haproxy", "127.0.0.1", 8000, "ok"),
        ("haproxy", "0.0.0.0", 8000, "warn"),
    ],
)
def test_who_can_reach_a_port_decides(
    tmp_path: Path, title: str, address: str, port: int, state: str
) -> None:
    check = judge_port(Settings(home=tmp_path, port=8000), title, address, port)
    assert check.state == state
    assert ("the gateway authenticates everything" in check.found) == (state == "warn")


def test_ports_of_the_services_processes_are_found(tmp_path: Path) -> None:
    environment = {**os.environ, "RAYMILL_SERVICE": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", LISTENER], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        inside, outside = (int(process.stdout.readline()) for _ in range(2))
        checks = by_name(list(doctor.check_ports(Settings(home=tmp_path))))
        process.kill()
    assert checks[f"port {inside}"].state == "ok"
    assert checks[f"port {outside}"].state == "warn"
    assert len(checks) == 2
