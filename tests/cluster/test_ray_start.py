"""What `ray start` is told otherwise: the raylet's flag that Ray leaves out, what gives way, what is not imported."""

from __future__ import annotations

import subprocess
import sys

from ray._private import services

from raymill.cluster.ray_start import AGENT, agent_flag, giving_way


def test_the_raylet_is_told_the_port_that_its_agent_was_given() -> None:
    agent = "--dashboard_agent_command=python agent.py --grpc-port=1 --listen-port=52365 --head"
    assert agent_flag(["raylet", "--node_manager_port=0", agent]) == ["--dashboard_agent_listen_port=52365"]
    assert agent_flag(["raylet", agent.replace("52365", "0")]) == []


def test_the_raylet_knows_the_flag() -> None:
    shown = subprocess.run(
        [services.RAYLET_EXECUTABLE, "--help"], capture_output=True, text=True, check=False
    )
    assert "-dashboard_agent_listen_port " in shown.stdout


def test_the_agent_gives_way_and_nothing_else_does() -> None:
    assert giving_way(f"{AGENT}python agent.py") == f"{AGENT}nice -n 10 python agent.py"
    assert (
        giving_way("--runtime_env_agent_command=python agent.py")
        == "--runtime_env_agent_command=python agent.py"
    )


def test_rays_command_comes_without_what_start_does_not_need() -> None:
    program = "import sys; from raymill.cluster.ray_start import command; command(); print('ray.serve' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout == "False\n"
