"""The raylet's flag that Ray leaves out: taken from its agent's command, and one that the raylet knows."""

from __future__ import annotations

import subprocess

from ray._private import services

from raymill.cluster.ray_start import agent_flag


def test_the_raylet_is_told_the_port_that_its_agent_was_given() -> None:
    agent = "--dashboard_agent_command=python agent.py --grpc-port=1 --listen-port=52365 --head"
    assert agent_flag(["raylet", "--node_manager_port=0", agent]) == ["--dashboard_agent_listen_port=52365"]
    assert agent_flag(["raylet", agent.replace("52365", "0")]) == []


def test_the_raylet_knows_the_flag() -> None:
    shown = subprocess.run(
        [services.RAYLET_EXECUTABLE, "--help"], capture_output=True, text=True, check=False
    )
    assert "-dashboard_agent_listen_port " in shown.stdout
