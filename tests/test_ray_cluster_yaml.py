"""`ray up` would accept ray-cluster.yaml: checked by the functions that `ray up` itself calls."""

from __future__ import annotations

import copy
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import yaml
from ray.autoscaler._private.providers import _NODE_PROVIDERS
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start as ray_start

from raymill.cluster.ray_head import NODE_ENVIRONMENT, ray_environment
from raymill.cluster.settings import Settings

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def config() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "ray-cluster.yaml").read_text())
    return loaded


def start_commands(config: dict[str, Any]) -> dict[str, str]:
    """The one `ray start` line of the head and of the workers."""
    found = {}
    for kind in ("head", "worker"):
        (found[kind],) = (line for line in config[f"{kind}_start_ray_commands"] if "ray start" in line)
    return found


def parsed(command: str) -> dict[str, Any]:
    """The options of a `ray start` line, by Ray's own parser; an option that Ray lacks is an error."""
    arguments = shlex.split(re.sub(r"\$\(.*?\)", "10.0.0.7", command.split("ray start", 1)[1]))
    assert isinstance(ray_start, click.Command)
    options: dict[str, Any] = ray_start.make_context("start", arguments).params
    return options


def test_the_cluster_launcher_accepts_it(config: dict[str, Any]) -> None:
    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    assert config["provider"]["type"] in _NODE_PROVIDERS
    assert prepared["available_node_types"]["gpu-worker"]["max_workers"] == 4
    # The launcher's defaults are for a Ray image; none of them is left.
    for key in (
        "setup_commands",
        "head_setup_commands",
        "head_start_ray_commands",
        "worker_start_ray_commands",
    ):
        assert [line for line in prepared[key] if "ray-wheels" in line or "0.0.0.0" in line] == []


def test_the_check_itself_refuses_a_wrong_file(config: dict[str, Any]) -> None:
    config["available_node_types"]["gpu-worker"]["gpus"] = 4
    with pytest.raises(jsonschema.ValidationError, match="gpus"):
        validate_config(prepare_config(config))


def test_it_has_a_head_and_groups_of_cpu_and_gpu_workers_that_scale_from_zero(config: dict[str, Any]) -> None:
    types = config["available_node_types"]
    assert config["head_node_type"] == "head"
    workers = {name: kind for name, kind in types.items() if name != "head"}
    assert {name: "GPU" in kind["resources"] for name, kind in workers.items()} == {
        "cpu-worker": False,
        "gpu-worker": True,
    }
    assert all(kind["min_workers"] == 0 < kind["max_workers"] for kind in workers.values())
    assert sum(kind["max_workers"] for kind in workers.values()) <= config["max_workers"]
    assert parsed(start_commands(config)["head"])["autoscaling_config"] == "~/ray_bootstrap_config.yaml"


def test_every_node_starts_with_the_settings_of_one_service(config: dict[str, Any]) -> None:
    assert config["file_mounts"]["~/raymill.env"] == "raymill.env"
    assert "/raymill.env" in (ROOT / ".gitignore").read_text().splitlines()
    for command in start_commands(config).values():
        words = shlex.split(command.split("ray start", 1)[0])
        assert words[words.index("set") : words.index("RAY_AUTH_MODE=token")] == [
            *("set", "-a;", ".", "~/raymill/cluster/nodes.env;", ".", "~/raymill.env;", "set", "+a;")
        ]
        assert any(word.startswith("RAYMILL_ADDRESS=") for word in words)
    # Work that asks for a CPU goes to the workers; the head's are for who answers.
    assert config["available_node_types"]["head"]["resources"] == {"CPU": 0}


def test_a_shell_reads_the_settings_of_nodes_as_we_do() -> None:
    shell = "set -a; . cluster/nodes.env; env"
    told = subprocess.run(["sh", "-c", shell], cwd=ROOT, env={}, capture_output=True, text=True, check=True)
    assert NODE_ENVIRONMENT.items() <= dict(line.split("=", 1) for line in told.stdout.splitlines()).items()
    # The time that a stopped job has is that of the supervisor's own head.
    own = ray_environment(Settings())
    assert {name: own[name] for name in NODE_ENVIRONMENT} == NODE_ENVIRONMENT


def test_every_node_asks_for_the_token_and_stays_off_public_interfaces(config: dict[str, Any]) -> None:
    assert config["provider"]["use_internal_ips"] is True
    assert "~/.ray/auth_token" in config["file_mounts"]
    for kind, command in start_commands(config).items():
        assert "RAY_AUTH_MODE=token" in shlex.split(command.split("ray start", 1)[0])
        options = parsed(command)
        assert options["node_ip_address"] == "10.0.0.7"
        assert options["head"] is (kind == "head")
    assert parsed(start_commands(config)["head"])["dashboard_host"] == "127.0.0.1"
    assert "0.0.0.0" not in (ROOT / "ray-cluster.yaml").read_text()


def test_the_nodes_get_the_whole_package(config: dict[str, Any]) -> None:
    files = config["file_mounts"].items()
    mounts = {remote: local for remote, local in files if not remote.endswith((".env", "auth_token"))}
    assert all(remote == f"~/raymill/{local}" for remote, local in mounts.items())
    rooms = {link.name for link in (ROOT / "src" / "raymill").iterdir() if link.is_symlink()}
    assert rooms | {"src", "constraints", "pyproject.toml", "Makefile"} <= set(mounts.values())
    assert [local for local in mounts.values() if not (ROOT / local).exists()] == []
