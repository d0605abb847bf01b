"""A Ray cluster that somebody else started, and an external Postgres: what is refused, and the whole service on it."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from pydantic import SecretStr

from raymill.cluster import down, processes
from raymill.cluster.applications import ours
from raymill.cluster.joining import (
    Found,
    _digest,
    cluster_token,
    complaints,
    refuse_but_on_the_head,
    require_database,
)
from raymill.cluster.ray_head import free_ports, plan_head, ray_environment
from raymill.cluster.service import Service, write_service
from raymill.cluster.settings import JOINED_SLOTS, Settings
from raymill.cluster.supervisor import lock
from raymill.cluster.up import refuse_elsewhere
from raymill.policies.errors import Conflict, Invalid, Unavailable
from raymill.registry.database import Database
from raymill.registry.postgres import EmbeddedPostgres
from raymill.registry.tables import Llm

PATIENCE_S = 300.0


def joined(home: Path, **given: object) -> Settings:
    url = SecretStr("postgresql+psycopg://raymill:secret@db.internal/raymill")
    return Settings.model_validate({"home": home, "address": "10.0.0.7:6379", "database_url": url, **given})


def test_a_database_of_this_machine_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"10\.0\.0\.7:6379: .* set DATABASE_URL"):
        require_database(joined(tmp_path, database_url=None))
    require_database(joined(tmp_path))
    require_database(Settings(home=tmp_path))


def test_each_complaint_names_the_node_the_value_and_the_cure(tmp_path: Path) -> None:
    settings = joined(tmp_path)
    cache = str(settings.cache_dir)
    good = Found("10.0.0.8", str(tmp_path), _digest(settings), joined=True, seen="mark", cache=cache)
    bad = [
        good._replace(node="10.0.0.9", home="/elsewhere"),
        good._replace(node="10.0.0.10", seen=""),
        good._replace(node="10.0.0.11", database=""),
        good._replace(node="10.0.0.12", artifacts="s3://elsewhere"),
        good._replace(node="10.0.0.13", cache="/nvme"),
        good._replace(node="10.0.0.14", joined=False),
    ]
    told = list(complaints(settings, "mark", [good, *bad]))
    wanted = [
        *("/elsewhere", "mount one shared folder", "DATABASE_URL", "s3://elsewhere"),
        *("RAYMILL_CACHE is /nvme", "RAYMILL_ADDRESS"),
    ]
    for node, said, words in zip(bad, told, wanted, strict=True):
        assert f"node {node.node}" in said
        assert words in said
        assert "secret" not in said


def test_only_the_head_answers_users() -> None:
    nodes = [
        {"NodeID": "a", "NodeManagerAddress": "10.0.0.7", "Resources": {"node:__internal_head__": 1.0}},
        {"NodeID": "b", "NodeManagerAddress": "10.0.0.8", "Resources": {"CPU": 4.0}},
    ]
    refuse_but_on_the_head("a", nodes)
    with pytest.raises(Invalid, match=r"run `raymill up` on 10\.0\.0\.7"):
        refuse_but_on_the_head("b", nodes)


def test_a_service_of_another_machine_is_not_ours_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = joined(tmp_path)
    refuse_elsewhere(settings)  # nothing was started
    url = "http://127.0.0.1:1"
    write_service(settings, Service(url=url, ray_address="-", dashboard_url=url, supervisor_pid=1))
    refuse_elsewhere(settings)
    there = Service(url=url, ray_address="-", dashboard_url=url, supervisor_pid=1, machine="old-head/2")
    write_service(settings, there)
    with pytest.raises(Conflict, match="runs on old-head"):
        refuse_elsewhere(settings)
    monkeypatch.setenv("RAYMILL_HOME", str(tmp_path))
    with lock(tmp_path), pytest.raises(SystemExit, match="runs on old-head"):
        down.main()


def test_a_cluster_has_more_slots_than_half_a_heads_cores(tmp_path: Path) -> None:
    assert joined(tmp_path).heavy_slots == JOINED_SLOTS
    assert joined(tmp_path, heavy_slots=3).heavy_slots == 3
    assert Settings(home=tmp_path).heavy_slots == max(1, (os.cpu_count() or 1) // 2)


def test_applications_of_others_are_not_ours(database: Database) -> None:
    with database.transaction() as session:
        session.add(Llm(name="triage-2"))
        session.flush()
        names = [
            "api",
            "gateway",
            "llm-triage-2-11",
            "theirs",
            "llm-triage-2",
            "llm-theirs-1",
            "my-llm-triage-2-1",
        ]
        assert ours(session, names) == {"api", "gateway", "llm-triage-2-11"}
        assert ours(session, []) == set()


def test_the_token_comes_from_where_ray_takes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(Unavailable, match=r"\.ray/auth_token: copy it there"):
        cluster_token({})
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("by default\n")
    (tmp_path / "other").write_text("by path\n")
    path = {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "other")}
    assert cluster_token({}) == "by default"
    assert cluster_token(path) == "by path"
    assert cluster_token({**path, "RAY_AUTH_TOKEN": "itself"}) == "itself"


class Cluster(NamedTuple):
    """A head on loopback, and what a service on it is started with."""

    settings: Settings
    environment: dict[str, str]
    process: subprocess.Popen[bytes]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, postgres: EmbeddedPostgres) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("joined")
    (port,) = free_ports(1)
    database_url = SecretStr(postgres.url())
    # Its files lie apart from the service's: what is left in those of a service is ended when it starts.
    planned = plan_head(joined(folder / "cluster"))
    settings = joined(
        folder / "home",
        port=port,
        database_url=database_url,
        address=planned.address,
        dashboard_url=planned.dashboard_url,
    )
    environment = {
        **ray_environment(settings),
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAYMILL_ADDRESS": planned.address,
        "RAYMILL_DASHBOARD_URL": planned.dashboard_url,
        "DATABASE_URL": postgres.url(),
    }
    with (folder / "ray.log").open("wb") as log:
        head = subprocess.Popen(
            planned.arguments, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield Cluster(settings, environment, head)
    finally:
        run(environment, "raymill.cluster.down")
        processes.end_tree(head.pid)
        processes.end_all(processes.belonging_to("RAYMILL_HOME", str(settings.home), planned.temp_dir))


def run(environment: dict[str, str], module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=10).close()
    except OSError:
        return False
    return True


@pytest.mark.slow  # a Ray head and the whole service of its own: two minutes
def test_the_service_joins_a_cluster_whose_nodes_share_its_home_and_leaves_it(cluster: Cluster) -> None:
    settings, environment, head = cluster
    elsewhere = settings.home.with_name("elsewhere")
    refused = run({**environment, "RAYMILL_HOME": str(elsewhere)}, "raymill.cluster.up")
    assert refused.returncode == 1
    assert f"RAYMILL_HOME is {settings.home} on node 127.0.0.1 and {elsewhere} here" in refused.stderr
    refused = run({**environment, "RAY_AUTH_TOKEN": secrets.token_hex(32)}, "raymill.cluster.joining")
    assert "refuses the token" in refused.stdout

    up = run(environment, "raymill.cluster.up")
    assert up.returncode == 0, up.stderr
    url = f"http://127.0.0.1:{settings.port}"
    key = (settings.keys_dir / "admin.key").read_text().strip()
    request = urllib.request.Request(f"{url}/api/v1/status", headers={"Authorization": f"Bearer {key}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert [each["alive"] for each in json.load(answer)["nodes"]] == [True]
    assert not (settings.home / "postgres").exists()
    assert not (settings.keys_dir / "ray.token").exists()

    down = run(environment, "raymill.cluster.down")
    assert down.returncode == 0, down.stderr
    deadline = time.monotonic() + 60
    while answers(f"{url}/healthz"):  # the proxy goes after what it stood before
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert head.poll() is None  # the cluster is somebody else's
